"""Block configured terms in prompts and answers, streamed ones too: a blocked term never reaches the wire.

Case, width, invisible characters and the amount of white space make no difference. A term matches whole words only where it
begins or ends with a letter or digit of a script that puts spaces between words. In an answer, text is held back
only while it could still become a blocked term. This is a list of words, not an understanding of text: paraphrases and
misspellings pass.
"""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import regex
from pydantic import Field, PrivateAttr, field_validator

from sluicegate import Chunk, FilterResults, PluginConfig, Refused, hookimpl
from sluicegate.requests import Request
from sluicegate.streams import StopAt, hold_back

CATEGORY = "custom_blocklists"
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[\p{{L}}\p{{N}}_--[{_UNSPACED}]]"
_IS_WORD = regex.compile(_WORD, regex.V1)
_ESCAPE = regex.compile(r"\\u([0-9a-fA-F]{4})|\\.", regex.DOTALL)
_HALF_ESCAPE = regex.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")


class Config(PluginConfig):
    lists: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Blocked terms by the name of their list; the name is what callers are told."""

    _patterns: dict[str, regex.Pattern[str]] = PrivateAttr(default_factory=dict)
    _any: regex.Pattern[str] | None = PrivateAttr(default=None)

    @field_validator("lists")
    @classmethod
    def _terms_have_text(cls, lists: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, terms in lists.items():
            if any(not _fold(term).strip() for term in terms):
                raise ValueError(f"list {name!r} holds an empty term")
        return lists

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._patterns.update({name: _pattern(terms) for name, terms in self.lists.items() if terms})
        terms = [term for terms in self.lists.values() for term in terms]
        self._any = _pattern(terms) if terms else None

    def verdict(self, folded: str) -> FilterResults | None:
        """Return the verdict on a folded text, or None when it hits no list."""
        if self._any is None or not self._any.search(folded):
            return None
        hits = [name for name, pattern in self._patterns.items() if pattern.search(folded)]
        return {CATEGORY: {"filtered": True, "details": [{"filtered": True, "id": name} for name in hits]}}


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def pre_filter(request: Request, config: Config) -> Request:
    if config._any is None:
        return request
    for text in request.texts():
        variants = {text.value, _unescaped(text.value)} if "\\" in text.value else {text.value}
        for variant in variants:
            if verdict := config.verdict(_fold(variant)):
                raise Refused(verdict)
    return request.annotate(_clean())


@hookimpl
async def post_filter(chunks: AsyncIterator[Chunk], config: Config) -> AsyncIterator[Chunk]:
    pattern = config._any
    if pattern is None:
        async for chunk in chunks:
            yield chunk
        return
    async for chunk in hold_back(chunks, lambda channel: _Scan(config, pattern, escaped=channel.endswith("arguments"))):
        if chunk.finish_reason is not None:
            chunk = replace(chunk, content_filter_results={**_clean(), **chunk.content_filter_results})
        yield chunk


def _clean() -> FilterResults:
    return {CATEGORY: {"filtered": False, "details": []}}


class _Scan:
    """Looks for blocked terms in one channel of a stream.

    Args:
        escaped: The channel is JSON text, whose reader will undo ``\\u0041``.
    """

    def __init__(self, config: Config, pattern: regex.Pattern[str], *, escaped: bool) -> None:
        self._config = config
        self._pattern = pattern
        self._escaped = escaped
        self._tail = ""
        self._before = ""
        self._released = 0

    def feed(self, text: str, final: bool) -> int:
        tail = self._tail + text
        folded, origin, complete = _folded(tail, self._escaped)
        scanned = self._before + folded
        start = len(self._before)
        # The term that is complete first counts, so that the result does not depend on how the text was cut.
        ends = [
            (match.end(), match.start())
            for match in self._pattern.finditer(scanned, start, overlapped=True)
            if final or match.end() < len(scanned)
        ]
        if ends:
            end, begin = min(ends)
            verdict = self._config.verdict(scanned[max(0, begin - 1) : end + 1])
            raise StopAt(self._released + _raw(origin, begin - start), verdict or {CATEGORY: {"filtered": True}})
        kept = len(folded)
        if not final and (possible := self._pattern.search(scanned, start, partial=True)):
            kept = possible.start() - start
        release = len(tail) if final else min(_raw(origin, kept), complete) if kept < len(folded) else complete
        self._before = scanned[: start + kept][-1:]
        self._tail = tail[release:]
        self._released += release
        return self._released


def _raw(origin: list[int] | None, position: int) -> int:
    return position if origin is None else origin[position]


def _pattern(terms: Iterable[str]) -> regex.Pattern[str]:
    # Shortest first: at one place the term that is complete first must win.
    return regex.compile("|".join(map(_term, sorted(set(terms), key=len))), regex.V1)


def _term(term: str) -> str:
    folded = " ".join(_fold(term).split())
    body = " +".join(map(regex.escape, folded.split(" ")))
    before = f"(?<!{_WORD})" if _IS_WORD.match(folded[0]) else ""
    after = f"(?!{_WORD})" if _IS_WORD.match(folded[-1]) else ""
    return before + body + after


def _fold(text: str) -> str:
    return text.lower() if text.isascii() and text.isprintable() else "".join(map(_folded_char, text))


def _folded(text: str, escaped: bool) -> tuple[str, list[int] | None, int]:
    """Return the folded text, where each of its characters came from, and how much of ``text`` is complete.

    The origins are None when every character stands for itself, and have one more entry for the end otherwise.
    """
    if text.isascii() and text.isprintable() and not (escaped and "\\" in text):
        return text.lower(), None, len(text)
    complete = len(text)
    if escaped and (half := _HALF_ESCAPE.search(text)) and not _is_escaped(text, half.start()):
        complete = half.start()
    out: list[str] = []
    origin: list[int] = []
    position = 0
    while position < complete:
        escape = _ESCAPE.match(text, position) if escaped else None
        width = len(escape[0]) if escape else 1
        char = text[position] if not escape else chr(int(escape[1], 16)) if escape[1] else " "
        folded = _folded_char(char)
        out.append(folded)
        origin.extend([position] * len(folded))
        position += width
    return "".join(out), [*origin, complete], complete


def _is_escaped(text: str, position: int) -> bool:
    """Whether the backslash at ``position`` is itself escaped by the ones before it."""
    run = position - len(text[:position].rstrip("\\"))
    return run % 2 == 1


def _unescaped(text: str) -> str:
    return str(_ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else " ", text))


@lru_cache(4096)
def _folded_char(char: str) -> str:
    if char.isspace():
        return " "
    if unicodedata.category(char) == "Cf":
        return ""
    return unicodedata.normalize("NFKC", char).casefold()
