"""Find configured terms in text, whole or streamed: the matcher that word lists share.

Case, width, accents written apart, invisible characters, the amount of white space and JSON's escapes make no difference. A
term matches whole words only where it begins or ends with a letter or digit of a script that puts spaces between words. In a
stream, text is held only while it could still become a term.
"""

from __future__ import annotations

import copy
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import regex

from plugins._escapes import read_escape, unescaped
from sluicegate import FilterResults
from sluicegate.streams import StopAt

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[\p{{L}}\p{{N}}\p{{M}}_--[{_UNSPACED}]]"
_IS_WORD = regex.compile(_WORD, regex.V1)
_INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}\p{Cc}]", regex.V1)
_JOINS = regex.compile(r"[[\p{Script=Inherited}&&\p{M}]\u1160-\u11ff]", regex.V1)
"""Marks of no script, and the later letters of a Korean syllable: what may make one character with the one before."""
_BEGINNING = 4
"""Characters by which terms are looked up."""


class Terms:
    """Lists of terms by name, indexed; at least one term. Time hardly depends on how many terms there are.

    A plain object, because pydantic's private attributes are slow to reach for every chunk.
    """

    def __init__(self, lists: Mapping[str, Iterable[str]]) -> None:
        self._names = tuple(lists)
        self._lists: dict[str, list[str]] = {}
        for name, terms in lists.items():
            for term in {folded_term(term) for term in terms}:
                self._lists.setdefault(term, []).append(name)
        self._sorted = sorted(self._lists)
        # Shortest first: at one place the term that is complete first must win.
        self._by_beginning: dict[str, list[str]] = {}
        for term in sorted(self._lists, key=lambda term: (len(term), term)):
            self._by_beginning.setdefault(term[:_BEGINNING], []).append(term)
        self._beginnings = sorted({len(beginning) for beginning in self._by_beginning})
        self._longest = max(map(len, self._sorted))
        self._grown = _grown(self._sorted)
        self._firsts = frozenset(term[0] for term in self._sorted)
        self._starts = _starts(self._firsts)

    def hits(self, text: str) -> list[str]:
        """Return the lists that have a term in a whole text, read as it stands and as JSON's readers read it."""
        variants = {text, unescaped(text)} if "\\" in text else {text}
        found = {name for variant in variants for name in self.hits_folded(_fold(variant))}
        return [name for name in self._names if name in found]

    def hits_folded(self, folded: str) -> list[str]:
        """Return the lists that have a term in a folded text."""
        places = (match.start() for match in self._starts.finditer(folded))
        found = {name for place in places for term in self._at(folded, place) for name in self._lists[term]}
        return [name for name in self._names if name in found]

    def first(self, folded: str, start: int, final: bool) -> tuple[int, int] | None:
        """Return where the term that is complete first begins and ends; of several, the longest.

        A term is complete when the character after it is known, so this does not depend on how the text was cut.
        """
        found: tuple[int, int] | None = None
        for match in self._starts.finditer(folded, start):
            place = match.start()
            if found and place >= found[1]:
                break
            end = next((place + len(term) for term in self._at(folded, place)), 0)
            if end and (final or end < len(folded)) and (found is None or end < found[1]):
                found = place, end
        return found

    def possible(self, folded: str, start: int) -> int:
        """Return where the longest end of ``folded`` begins that could still become a term; its length if none could."""
        for place in range(max(start, len(folded) - self._longest), len(folded)):
            if self._may_begin(folded[place]) and self._may_become(folded[place:]) and not _is_within(folded, place):
                return place
        return len(folded)

    def _at(self, folded: str, place: int) -> Iterator[str]:
        """Yield the terms at one place of a folded text, shortest first."""
        for length in self._beginnings:
            for term in self._by_beginning.get(folded[place : place + length], ()):
                end = place + len(term)
                if folded.startswith(term, place) and not (_is_within(folded, place) or _is_within(folded, end)):
                    yield term

    def _may_begin(self, char: str) -> bool:
        return char in self._firsts or char in self._grown

    def _may_become(self, end: str) -> bool:
        """Return whether more characters, or a mark that joins its last one, could make ``end`` a term."""
        return any(self._is_beginning(end[:-1] + last) for last in (end[-1], *self._grown.get(end[-1], ())))

    def _is_beginning(self, text: str) -> bool:
        place = bisect_left(self._sorted, text)
        return place < len(self._sorted) and self._sorted[place].startswith(text)


def _is_within(folded: str, place: int) -> bool:
    """Return whether a place of a folded text is within a word."""
    return 0 < place < len(folded) and bool(_IS_WORD.match(folded[place]) and _IS_WORD.match(folded[place - 1]))


def _starts(firsts: Iterable[str]) -> regex.Pattern[str]:
    """Return what matches where a term may begin, by its first character."""
    of_words = "".join(regex.escape(char) for char in firsts if _IS_WORD.match(char))
    others = "".join(regex.escape(char) for char in firsts if not _IS_WORD.match(char))
    kinds = (f"(?<!{_WORD})[{of_words}]" if of_words else "", f"[{others}]" if others else "")
    return regex.compile("|".join(filter(None, kinds)), regex.V1)


def _grown(terms: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """Return what each character may become, of those in the terms, when marks join it."""
    found: dict[str, set[str]] = {}
    for char in set().union(*terms):
        parts = unicodedata.normalize("NFD", char)
        for count in range(1, len(parts)):
            found.setdefault(unicodedata.normalize("NFC", parts[:count]), set()).add(char)
    return {part: frozenset(chars) for part, chars in found.items()}


class Scan:
    """Stops a channel at its first term, read as it stands and, from its first backslash on, as JSON's readers read it too.

    Args:
        results: Makes the verdicts of the stop from the names of the lists that were hit.
    """

    def __init__(self, terms: Terms, results: Callable[[Sequence[str]], FilterResults]) -> None:
        self._readings = [_Reading(terms, results)]

    def feed(self, text: str, final: bool) -> int:
        if "\\" in text and len(self._readings) == 1:
            self._readings.append(self._readings[0].unescaping())
        found = [(reading, reading.feed(text, final)) for reading in self._readings]
        stops = [stop for _, stop in found if stop]
        count = min(stop.count if stop else reading.possible(final) for reading, stop in found)
        if len(self._readings) > 1 and (stops or not final):
            # Where one reading stops may be within a word of the other's, whose part would then stand alone.
            while (lower := min(reading.sendable(count) for reading in self._readings)) < count:
                count = lower
        if stops:
            raise StopAt(count, min(stops, key=lambda stop: stop.count).results)
        for reading in self._readings:
            reading.release(count)
        return count


class Watch:
    """Notes whether a channel has a term and holds nothing back."""

    def __init__(self, terms: Terms) -> None:
        self.found = False
        self._scan = Scan(terms, lambda _: {})
        self._received = 0

    def feed(self, text: str, final: bool) -> int:
        self._received += len(text)
        if not self.found:
            try:
                self._scan.feed(text, final)
            except StopAt:
                self.found = True
        return self._received


class _Reading:
    """Looks for terms in one way of reading a channel."""

    def __init__(self, terms: Terms, results: Callable[[Sequence[str]], FilterResults]) -> None:
        self._terms = terms
        self._results = results
        self._unescapes = False
        self._position = 0  # in the channel, of what is read next
        self._unread = ""  # the beginning of an escape
        self._tail = ""  # folded: one character that may go, and all that may not
        self._origins: list[int] = []  # where each of its characters came from
        self._start = 0  # of what may not go, in the tail

    def unescaping(self) -> _Reading:
        """Return a reading that goes on from here and undoes escapes."""
        other = copy.copy(self)
        other._origins = list(self._origins)
        other._unescapes = True
        return other

    def feed(self, text: str, final: bool) -> StopAt | None:
        """Read on; return where the first term begins."""
        self._read(self._unread + text, final)
        found = self._terms.first(self._tail, self._start, final)
        if found is None:
            return None
        begin, end = found
        # The verdict names each list that has a term in what was found, seen with the character before it.
        hits = self._terms.hits_folded(self._tail[max(0, begin - 1) : end])
        return StopAt(self._origins[begin], self._results(hits))

    def possible(self, final: bool) -> int:
        """Return where the channel's end begins that could still become a term."""
        if final:
            return self._position
        place = self._terms.possible(self._tail, self._start)
        return self._origins[place] if place < len(self._tail) else self._position

    def sendable(self, count: int) -> int:
        """Return how much may be sent when nothing follows: at most ``count``, and nothing that would end in a term."""
        kept = bisect_left(self._origins, count)
        follows = self._origins[kept] if kept < len(self._origins) else self._position
        # An escape in which ``count`` falls is sent in part, and reads as something else then.
        ends = {kept} if follows == count else {kept, max(kept - 1, 0)}
        places = [self._terms.possible(self._tail[:end], self._start) for end in ends]
        return min([count, *(self._origins[place] for place in places if place < kept)])

    def release(self, count: int) -> None:
        """Forget what was sent, but for the character that decides whether a word begins after it."""
        kept = bisect_left(self._origins, count)
        gone = max(0, kept - 1)
        self._tail, self._origins, self._start = self._tail[gone:], self._origins[gone:], kept - gone

    def _read(self, text: str, final: bool) -> None:
        self._unread = ""
        if _is_plain(self._tail[-1:] + text) and not (self._unescapes and "\\" in text):
            self._tail += text.lower()
            self._origins += range(self._position, self._position + len(text))
            self._position += len(text)
            return
        folded = list(self._tail[-1:])
        for char, width in self._characters(text, final):
            for each in _folded_char(char):
                if _add(folded, each):
                    self._origins.append(self._position)
            self._position += width
        self._tail = self._tail[:-1] + "".join(folded)

    def _characters(self, text: str, final: bool) -> Iterator[tuple[str, int]]:
        """Yield each character and how many stand for it."""
        position = 0
        while position < len(text):
            char, width = text[position], 1
            if char == "\\" and self._unescapes:
                escape = read_escape(text, position, final)
                if escape is None:
                    self._unread = text[position:]
                    return
                char, width = escape
            yield char, width
            position += width


# --- terms and texts in the form in which they are compared ----------------------------------------------------------


def folded_term(term: str) -> str:
    """Return a term in the form in which it is compared; empty when nothing of it is."""
    return _fold(term).strip(" ")


def _fold(text: str) -> str:
    if _is_plain(text):
        return text.lower()
    folded = "".join(map(_folded_char, text))
    if "  " not in folded and not _JOINS.search(folded):
        return folded
    out: list[str] = []
    for char in folded:
        _add(out, char)
    return "".join(out)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and "  " not in text


def _add(folded: list[str], char: str) -> bool:
    """Add a folded character to those before it; return whether it takes a place of its own."""
    before = folded[-1] if folded else ""
    joined = _joined(before, char)
    if len(joined) > len(before):
        folded.append(char)
        return True
    folded[-1:] = joined
    return False


@lru_cache(4096)
def _joined(before: str, char: str) -> str:
    """Return what a folded character and the one after it are: both, the first alone, or the one that they make."""
    if char == before == " ":
        return before
    if not _JOINS.match(char):
        return before + char
    joined = unicodedata.normalize("NFC", before + char)
    if before and len(joined) == 1:
        return joined
    return before if unicodedata.category(char).startswith("M") else before + char


@lru_cache(4096)
def _folded_char(char: str) -> str:
    if char.isspace():
        return " "
    return "" if _INVISIBLE.match(char) else unicodedata.normalize("NFKC", char).casefold()
