"""Search a text for entities part by part, so that the result is the same however the text arrives.

A segment is a run of characters that entities consist of: a word, or several groups of digits and capitals with one space
between them, such as a card number. Everything else (white space, quotes, brackets, commas, bars, ideographs) is a break, and
no entity goes on behind a break. A segment is searched once it is complete; a very long one in windows that overlap.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import regex

from .entities import MAX_LENGTH, Entity, Finding, PhoneNumbers

WINDOW = 2 * MAX_LENGTH
"""The most of a text that is ever undecided, in characters."""
MEMORY = 64
"""How many characters before the undecided ones must be kept, for the words that name an entity."""
# Bounded, or a very long segment would be read again for each of its windows.
_INSIDE = r"[^\s\x00-\x1f\"<>`|{}\[\],\\\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}、。「」]"
_GROUP = r"(?:[0-9().+/-]{1,24}|[0-9A-Z().+/-]{1,6})"
_GROUPS = rf"(?:{_GROUP}[ ](?=[0-9A-Z(+-])){{0,{WINDOW // 2}}}+"
_SEGMENT = regex.compile(rf"{_GROUPS}{_INSIDE}{{1,{WINDOW + 1}}}+", regex.V1)
_COULD_JOIN = regex.compile(rf"{_GROUPS}{_GROUP}[ ]", regex.V1)
_WORTH_A_LOOK = re.compile(r"@|=|:[^:]*:|(?:\d\D*){4}", re.ASCII)


def search(text: str, start: int, final: bool, entities: Sequence[Entity | PhoneNumbers]) -> tuple[list[Finding], int]:
    """Return the entities in a text, in order, and from where on it is undecided because more may follow.

    Args:
        start: Where an earlier search left it undecided; up to :data:`MEMORY` characters before that are read.
        final: Nothing follows.
        entities: In the order in which they claim text.
    """
    found: list[Finding] = []
    while match := _SEGMENT.search(text, start):
        first, last = match.span()
        if last - first > WINDOW:
            limit = first + MAX_LENGTH
            here = [each for each in _within(text, first, first + WINDOW, entities) if each.start < limit]
            start = max(limit, here[-1].end if here else 0)
        elif final or _is_complete(text, first, last):
            here = _within(text, first, last, entities)
            start = last
        else:
            return found, first
        found += here
    return found, len(text)


def _is_complete(text: str, first: int, last: int) -> bool:
    after = len(text) - last
    return after > 1 or (after == 1 and not (text[last] == " " and _COULD_JOIN.fullmatch(text, first)))


def _within(text: str, first: int, last: int, entities: Sequence[Entity | PhoneNumbers]) -> list[Finding]:
    if not _WORTH_A_LOOK.search(text, first, last):
        return []
    found: list[Finding] = []
    for entity in entities:
        count = len(found)
        for new in entity.find(text, first, last):
            if all(new.end <= old.start or old.end <= new.start for old in found):
                found.append(new)
        if len(found) > count:
            found.sort(key=lambda each: each.start)
            if not _WORTH_A_LOOK.search(_between(found, text, first, last)):
                break
    return found


def _between(found: Sequence[Finding], text: str, first: int, last: int) -> str:
    """Return what is left of a part of a text without what was found in it."""
    starts = [first, *(each.end for each in found)]
    ends = [*(each.start for each in found), last]
    return " ".join(text[start:end] for start, end in zip(starts, ends, strict=True))
