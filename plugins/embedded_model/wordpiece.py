"""WordPiece, the tokenizer of the embedding model: lower case, no accents, longest pieces first.

Equal to the ``tokenizers`` package with the model's ``tokenizer.json``, except that special tokens spelt out in a text are text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from sluicegate.errors import StartupError

_MAX_WORD = 100
_CHUNK = re.compile(r"[^ \t\n\r]+")


class WordPiece:
    """Text to token ids and back, without the ``[CLS]`` and ``[SEP]`` around them.

    Attributes:
        start: The id of ``[CLS]``.
        end: The id of ``[SEP]``.
        size: Ids are below this.
    """

    def __init__(self, vocabulary: Path) -> None:
        """Read a file of one token a line.

        Raises:
            StartupError: It cannot be read, or lacks a special token.
        """
        try:
            self._tokens = vocabulary.read_text(encoding="utf-8").splitlines()
            self._ids = {token: number for number, token in enumerate(self._tokens)}
            self.start, self.end, self._unknown, self._padding = (
                self._ids[token] for token in ("[CLS]", "[SEP]", "[UNK]", "[PAD]")
            )
        except (OSError, UnicodeDecodeError, KeyError) as error:
            raise StartupError(f"embedding_weights: {vocabulary} is no WordPiece vocabulary") from error
        self.size = len(self._tokens)

    def encode(self, text: str, at_most: int) -> list[int] | None:
        """Return the ids of ``text``, or None when there are more than ``at_most``; stops counting there."""
        ids: list[int] = []
        for word in _words(text):
            ids += self._pieces(word)
            if len(ids) > at_most:
                return None
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Return a text of the same tokens, lower case and with single spaces.

        Raises:
            IndexError: An id is not in the vocabulary.
        """
        special = (self.start, self.end, self._padding)
        words = (self._tokens[token] for token in tokens if token not in special)
        return " ".join(words).replace(" ##", "")

    def _pieces(self, word: str) -> list[int]:
        if len(word) > _MAX_WORD:
            return [self._unknown]
        ids: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                if (found := self._ids.get(prefix + word[start:end])) is not None:
                    ids.append(found)
                    start = end
                    break
            else:
                return [self._unknown]
        return ids


def _words(text: str) -> Iterator[str]:
    """Yield words and single punctuation marks. Source: BERT's BasicTokenizer."""
    for chunk in _CHUNK.finditer(text):
        for part in _cleaned(chunk.group()).split():
            yield from _cut_at_punctuation(part)


def _cleaned(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text.lower()
    kept = (_spaced(letter) for letter in text if not _is_dropped(letter))
    plain = unicodedata.normalize("NFD", "".join(kept))
    return "".join(letter.lower() for letter in plain if unicodedata.category(letter) != "Mn")


def _spaced(letter: str) -> str:
    if unicodedata.category(letter) == "Zs":
        return " "
    return f" {letter} " if _is_ideograph(letter) else letter


def _is_dropped(letter: str) -> bool:
    return letter == "\ufffd" or unicodedata.category(letter) in ("Cc", "Cf", "Co")


def _is_ideograph(letter: str) -> bool:
    code = ord(letter)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2B73F
        or 0x2B740 <= code <= 0x2B81F
        or 0x2B820 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def _cut_at_punctuation(word: str) -> Iterator[str]:
    start = 0
    for position, letter in enumerate(word):
        if _is_punctuation(letter):
            if start < position:
                yield word[start:position]
            yield letter
            start = position + 1
    if start < len(word):
        yield word[start:]


def _is_punctuation(letter: str) -> bool:
    if letter.isascii():
        return letter.isprintable() and not letter.isalnum() and letter != " "
    return unicodedata.category(letter).startswith("P")
