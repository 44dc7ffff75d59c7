"""Words become the longest known pieces."""

import pytest

from plugins.content_filter.wordpiece import WordPiece

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "the", ",", "!", "a", "##b"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("unaffable", ["un", "##aff", "##able"]),
        ("the, the!", ["the", ",", "the", "!"]),
        ("unknown", ["[UNK]"]),
        ("the" * 34, ["[UNK]"]),
        ("", []),
        ("\u4e2d\u6587", ["[UNK]", "[UNK]"]),
    ],
)
def test_encode(text: str, pieces: list[str]) -> None:
    assert [VOCABULARY[position] for position in WordPiece(VOCABULARY).encode(text)] == pieces


def test_knows_its_marks_and_words() -> None:
    tokeniser = WordPiece(VOCABULARY)

    assert (tokeniser.pad, tokeniser.unknown, tokeniser.start, tokeniser.end) == (0, 1, 2, 3)
    assert tokeniser.words == {"un", "the", "a"}
