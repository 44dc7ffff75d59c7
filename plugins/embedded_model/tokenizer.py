"""The chat model's own tokenizer: byte-pair encoding, rebuilt from what the GGUF file says of itself.

It gives the same ids as the runtime (checked when the model is loaded), and two things that the runtime does not: text that
looks like a special token can be encoded as plain text, and ids can be turned into bytes.

Cost: linear in the text but for the logarithm in one word's merges, whatever the text is. One megabyte of the same letter,
a single word, takes 3 to 6 s; ordinary text 0.2 s. Nothing is cached between calls: a cache would
keep callers' words in memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sluicegate.errors import StartupError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS: Mapping[str, tuple[str, ...]] = {
    "smollm": (r"\p{N}|[^\p{N}]+", _GPT2),
    "gpt-2": (_GPT2,),
    "qwen2": (_QWEN2,),
}
"""How a text is cut into words, by ``tokenizer.ggml.pre``: each pattern cuts what the one before it left."""

_CONTROL, _USER_DEFINED = 3, 4
_SHORT_WORD = 48


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        size: Ids are below this.
        longest: Bytes of the longest token, so that ``len(text) / longest`` tokens is the least a text can take.
        beginning: What stands for an empty text, because the model cannot go on from nothing.
        special: Control tokens by their text, such as ``<|im_end|>``.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        """Build from a GGUF file's metadata.

        Raises:
            StartupError: Not a byte-pair tokenizer, or one whose way of cutting words is unknown here.
        """
        import regex

        kind, words = str(metadata.get("tokenizer.ggml.model")), str(metadata.get("tokenizer.ggml.pre"))
        if kind != "gpt2" or words not in _WORDS:
            raise StartupError(f"chat_weights: the tokenizer {kind}/{words} is not one of gpt2/{{{', '.join(_WORDS)}}}")
        tokens: list[str] = metadata["tokenizer.ggml.tokens"]
        kinds: list[int] = metadata["tokenizer.ggml.token_type"]
        self._letters = _byte_letters()
        self._ids = {token: number for number, token in enumerate(tokens)}
        self._ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(metadata["tokenizer.ggml.merges"])}
        self._bytes = _token_bytes(tokens, kinds, self._letters)
        self._cuts = [regex.compile(pattern) for pattern in _WORDS[words]]
        self._always = {
            token: self._ids[token] for token, kind in zip(tokens, kinds, strict=True) if kind == _USER_DEFINED
        }
        always = "|".join(regex.escape(token) for token in sorted(self._always, key=len, reverse=True))
        self._split_always = regex.compile(f"({always})").split if always else lambda text: [text]
        self.size = len(tokens)
        self.longest = max(map(len, self._bytes))
        self.beginning: int = metadata.get("tokenizer.ggml.bos_token_id", 0)
        self.special = {token: self._ids[token] for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL}

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``; what looks like a control token is encoded as the characters it is made of."""
        known: dict[str, list[int]] = {}
        ids: list[int] = []
        for word in self._words(text):
            if word not in known:
                known[word] = [self._always[word]] if word in self._always else self._encode_word(word)
            ids += known[word]
        return ids

    def piece(self, token: int) -> bytes:
        """Return the bytes of one token, which need not be whole characters."""
        return self._bytes[token]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of ``tokens``; bytes that are not UTF-8 become U+FFFD.

        Raises:
            IndexError: An id is not in the vocabulary.
        """
        return b"".join(self._bytes[token] for token in tokens).decode("utf-8", errors="replace")

    def _words(self, text: str) -> Iterator[str]:
        for part in self._split_always(text):
            words = [part]
            if part not in self._always:
                for cut in self._cuts:
                    words = [word for longer in words for word in cut.findall(longer)]
            yield from words

    def _encode_word(self, word: str) -> list[int]:
        letters = [self._letters[byte] for byte in word.encode("utf-8", errors="replace")]
        merge = _merge_short if len(letters) <= _SHORT_WORD else _merge_long
        # Some vocabularies lack a few control characters; the runtime drops them as well.
        return [self._ids[piece] for piece in merge(letters, self._ranks) if piece in self._ids]


def _merge_short(pieces: list[str], ranks: Mapping[tuple[str, ...], int]) -> list[str]:
    """Merge the best-ranked pair, everywhere, until none is left. Quadratic, and the fastest for a word."""
    none = len(ranks)
    while len(pieces) > 1:
        rank, at = min((ranks.get(pair, none), at) for at, pair in enumerate(pairwise(pieces)))
        if rank == none:
            break
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces


def _merge_long(pieces: list[str], ranks: Mapping[tuple[str, ...], int]) -> list[str]:
    """Do the same in n log n: a linked list of pieces and a heap of the pairs that may be merged next."""
    after = [*range(1, len(pieces)), -1]
    before = [*range(-1, len(pieces) - 1)]
    heap = [(ranks[pair], at, *pair) for at, pair in enumerate(pairwise(pieces)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        _, left, first, second = heapq.heappop(heap)
        right = after[left]
        if right < 0 or pieces[left] != first or pieces[right] != second:
            continue
        pieces[left], pieces[right] = first + second, ""
        after[left] = after[right]
        if after[left] >= 0:
            before[after[left]] = left
        for at in (before[left], left):
            if at >= 0 and after[at] >= 0:
                pair = (pieces[at], pieces[after[at]])
                if pair in ranks:
                    heapq.heappush(heap, (ranks[pair], at, *pair))
    return [piece for piece in pieces if piece]


def _byte_letters() -> list[str]:
    """Return the printable character that stands for each byte in a vocabulary. Source: GPT-2's encoder.py."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in letters)
    letters |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _token_bytes(tokens: Sequence[str], kinds: Sequence[int], letters: Sequence[str]) -> list[bytes]:
    byte_of = {letter: byte for byte, letter in enumerate(letters)}
    return [
        token.encode() if kind in (_CONTROL, _USER_DEFINED) else bytes(byte_of[letter] for letter in token)
        for token, kind in zip(tokens, kinds, strict=True)
    ]
