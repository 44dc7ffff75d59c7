"""Texts without meaning, which no head should mind: random letters, digits, bytes, code points and repeated scraps."""

from __future__ import annotations

import base64
import random
import string

LETTERS = string.ascii_lowercase
RANGES = (
    (0x20, 0x7F),
    (0x80, 0x250),
    (0x370, 0x530),
    (0x5D0, 0x700),
    (0x900, 0xE00),
    (0x3040, 0x3100),
    (0x4E00, 0x9FA0),
)
SCRAPS = (
    "a",
    "x",
    "ok",
    "test",
    "foo bar",
    "lorem ipsum dolor sit amet",
    "1",
    "...",
    "0x00",
    "<br>",
    "{}",
    "n/a",
    "k",
    "\\n",
)


def noise(chance: random.Random) -> str:
    """Return one text of 1 to 400 characters."""
    return chance.choice((_letters, _words, _digits, _bytes, _encoded, _points, _repeated, _symbols))(chance)


def _length(chance: random.Random, longest: int) -> int:
    return int(longest ** chance.random()) + 1


def _letters(chance: random.Random) -> str:
    return "".join(chance.choices(LETTERS, k=_length(chance, 60)))


def _words(chance: random.Random) -> str:
    return " ".join("".join(chance.choices(LETTERS, k=chance.randint(1, 9))) for _ in range(_length(chance, 40)))


def _digits(chance: random.Random) -> str:
    return chance.choice(("", " ", ", ", "-")).join(
        str(chance.randrange(10 ** chance.randint(1, 9))) for _ in range(_length(chance, 40))
    )


def _bytes(chance: random.Random) -> str:
    return chance.randbytes(_length(chance, 300)).decode("latin-1")


def _encoded(chance: random.Random) -> str:
    raw = chance.randbytes(_length(chance, 200) + 6)
    return chance.choice((base64.b64encode(raw).decode(), raw.hex(), " ".join(f"{byte:02x}" for byte in raw)))


def _points(chance: random.Random) -> str:
    picked = chance.choice((RANGES, [chance.choice(RANGES)]))
    return "".join(chr(chance.randrange(*chance.choice(picked))) for _ in range(_length(chance, 200)))


def _repeated(chance: random.Random) -> str:
    return chance.choice((" ", "", ", ")).join([chance.choice(SCRAPS)] * _length(chance, 100))[:400]


def _symbols(chance: random.Random) -> str:
    return "".join(chance.choices(string.punctuation + " ", k=_length(chance, 200)))
