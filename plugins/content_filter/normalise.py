"""Undo the tricks that hide words from a classifier: invisible, reversed, look-alike, spaced, stretched and leet letters.

Emoji become their names, because neither stage of the classifier has a vocabulary for them. The result is lower case and
means the same to a reader; text that uses none of the tricks only loses its case, its accents and runs of white space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import groupby, islice

_REVERSED = re.compile("\u202e([^\u202c\u202d\u2066-\u2069]*)[\u202c\u202d]?")
_SPACED = re.compile(r"(?<!\S)(?=[\d@$!]* ?[a-z])[a-z0-9@$!](?: [a-z0-9@$!]){3,}(?!\S)")
_DOTTED = re.compile(r"[a-z0-9@$!](?:([._\-*/|+~])[a-z0-9@$!])(?:\1[a-z0-9@$!])+")
_LONG_RUN = re.compile(r"(.)\1{3,}")
_RUN = re.compile(r"([a-z])\1\1+")
_PAIR = re.compile(r"([a-z])\1+")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]+")
_ORDINAL = re.compile(r"\d+[a-z]{1,2}")
_EDGES = ".,;:?!\"'()[]{}<>-_*~`#%&=/\\|+"
_LEET = (str.maketrans("01345789@$!|+", "oieastbgasiit"), str.maketrans("01345789@$!|+", "olbastbqaslit"))
_LONGEST_WORD = 64
_LONGEST_RUN = 3
_CYRILLIC, _CYRILLIC_AS = (
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d\u0432\u043a\u043c\u043d\u0442",
    "aeopcyxijshdqwbkmht",
)
_GREEK, _GREEK_AS = "\u03b1\u03b5\u03bf\u03c1\u03c4\u03c5\u03c7\u03b9\u03ba\u03bd\u03b7\u03c9", "aeoptuxiknnw"
_SMALL_CAPS, _SMALL_CAPS_AS = (
    "\u0131\u0261\u026a\u1d00\u0299\u1d04\u1d05\u1d07\u0262\u029c\u1d0a\u1d0b\u029f\u1d0d\u0274\u1d0f\u1d18\u0280\u1d1b\u1d1c\u1d20\u1d21\u028f\u1d22",
    "igiabcdeghjklmnoprtuvwyz",
)
_LOOK_ALIKES = str.maketrans(_CYRILLIC + _GREEK + _SMALL_CAPS, _CYRILLIC_AS + _GREEK_AS + _SMALL_CAPS_AS)
_EMOJI_NOISE = re.compile(r"\b(?:face|sign|symbol|with|of|black|white|heavy|variation|negative|squared)\b")
_SKIN = {"1-2": " light skin ", "5": " dark skin ", "6": " dark skin "}


def normalise(text: str, words: Collection[str]) -> str:
    """Return ``text`` in lower case with hiding tricks undone.

    Args:
        words: Known words; a leet or stretched spelling is undone only where that gives one of them.
    """
    folded = _CONTROLS.sub("", text.lower() if text.isascii() else _fold(text))
    plain = [token if token in words else _plain(token, words) for token in folded.split()]
    tokens = [token for _, run in groupby(plain) for token in islice(run, _LONGEST_RUN)]
    joined = " ".join(tokens)
    return _SPACED.sub(_without_spaces, joined) if sum(len(token) == 1 for token in tokens) > 3 else joined


def _fold(text: str) -> str:
    text = _REVERSED.sub(lambda match: match[1][::-1], text)
    text = "".join(map(_folded_char, unicodedata.normalize("NFKC", text)))
    latin = sum("a" <= char <= "z" for char in text)
    # A text in Cyrillic or Greek is left alone: its letters are not posing as others.
    return text.translate(_LOOK_ALIKES) if 2 * latin >= sum(map(str.isalpha, text)) else text


@lru_cache(8192)
def _folded_char(char: str) -> str:
    kind = unicodedata.category(char)
    if kind in {"Cf", "Cs", "Co", "Cn", "Mn", "Me"}:
        return ""
    if kind in {"So", "Sk"} and ord(char) > 0x2000:
        return _emoji_name(char)
    base = unicodedata.normalize("NFKD", char.lower())
    return "".join(part for part in base if unicodedata.category(part) != "Mn")


def _emoji_name(char: str) -> str:
    name = unicodedata.name(char, "").lower()
    if name.startswith("regional indicator"):
        return name[-1]
    if "fitzpatrick" in name:
        return _SKIN.get(name.partition("type-")[2], "")
    return f" {_EMOJI_NOISE.sub(' ', name.replace('-', ' '))} "


def _plain(token: str, words: Collection[str]) -> str:
    """Return one word with stretched, dotted or leet letters read as what they stand for, where that is a known word."""
    if len(token) > _LONGEST_WORD:
        return _LONG_RUN.sub(r"\1\1\1", token)
    core = token.strip(_EDGES)
    if core in words or not core:
        return _LONG_RUN.sub(r"\1\1\1", token)
    if _DOTTED.fullmatch(core) and not core.replace(core[1], "").isdigit():
        joined = core.replace(core[1], "")
        return joined if len(joined) > 3 or joined in words else token
    for reading in _readings(core, token.rstrip(_EDGES.replace("!", ""))):
        if len(reading) > 2 and reading in words:
            return token.replace(core, reading) if core in token else reading
    return _LONG_RUN.sub(r"\1\1\1", token)


def _readings(core: str, token: str) -> Iterator[str]:
    letters = sum(map(str.isalpha, core))
    spellings = [core]
    if not core.isalpha() and letters and 2 * letters >= len(core) and not _ORDINAL.fullmatch(core):
        spellings = [word.translate(table).lstrip(_EDGES) for word in (core, token) for table in _LEET]
        yield from spellings
    for word in spellings:
        if _RUN.search(word):
            yield from (_RUN.sub(r"\1\1", word), _RUN.sub(r"\1", word), _PAIR.sub(r"\1", word))


def _without_spaces(match: re.Match[str]) -> str:
    return match[0].replace(" ", "")
