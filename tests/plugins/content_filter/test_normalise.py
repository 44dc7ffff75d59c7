"""Hiding tricks are undone, and ordinary text is left alone."""

import pytest

from plugins.content_filter.normalise import normalise

WORDS = frozenset({"kill", "you", "them", "all", "i", "hate", "women", "is", "at", "so", "monkey"})


@pytest.mark.parametrize(
    ("disguised", "plain"),
    [
        ("I h4te y0u", "i hate you"),
        ("k1ll!!! (h4te)", "kill!!! (hate)"),
        ("k i l l them all", "kill them all"),
        ("k.i.l.l them", "kill them"),
        ("k-1-l-l", "k1ll"),
        ("k\u200bi\u200dl\u2060l", "kill"),
        ("\u202ellik\u202c them", "kill them"),
        ("I h\u0430te w\u043emen", "i hate women"),
        ("\U0001d4f4\U0001d4f2\U0001d4f5\U0001d4f5 \uff4b\uff49\uff4c\uff4c", "kill kill"),
        ("killlllll themmmm", "kill them"),
        ("k\u0301i\u0301l\u0301l\u0301", "kill"),
        ("\U0001f412\U0001f3ff", "monkey dark skin"),
        ("\U0001f1fa\U0001f1f8", "us"),
        ("hate " * 50, "hate hate hate"),
    ],
)
def test_undoes_a_trick(disguised: str, plain: str) -> None:
    assert normalise(disguised, WORDS) == plain


@pytest.mark.parametrize(
    "text",
    [
        "mp3, utf8, sha256, v1.2 and 10k",
        "the 1st at 5 p.m., and/or the 30th at 8am",
        "1 2 3 4 5",
        "www.example.com/a-b-c?x=1",
        "привет как дела",
        "\u03ba\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1",
    ],
)
def test_leaves_ordinary_text(text: str) -> None:
    assert normalise(text, WORDS) == normalise(text, frozenset())
    if text.isascii():
        assert normalise(text, WORDS) == text.lower()


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b\u200b", "\ud800", "\udfff\ud800", "\x00\x01", "\ufeff"])
def test_nothing_is_left_of_nothing(text: str) -> None:
    assert normalise(text, WORDS) == ""


def test_is_stable() -> None:
    text = "Th1s is s o m e \U0001f600 t.e.x.t, fullllll of \u0430ll"

    once = normalise(text, WORDS)

    assert normalise(once, WORDS) == once


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "a " * 500_000, "!" * 1_000_000, "a.b" * 300_000, "\U0001f621" * 100_000]
)
def test_long_text_does_not_grow(text: str) -> None:
    assert len(normalise(text, WORDS)) <= len(text)
