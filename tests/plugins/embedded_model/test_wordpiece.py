"""WordPiece, against ids that the ``tokenizers`` package (0.23.3) gives with the model's own tokenizer.json."""

import pytest

from plugins.embedded_model import weights
from plugins.embedded_model.wordpiece import WordPiece
from sluicegate.errors import StartupError

EXPECTED = {
    "A cat sits on the mat.": [1037, 4937, 7719, 2006, 1996, 13523, 1012],
    "naïve Café №5 -- 你好世界! don't": [
        15743,
        7668,
        1578,
        2629,
        1011,
        1011,
        100,
        100,
        1745,
        100,
        999,
        2123,
        1005,
        1056,
    ],
    "x" * 100: [22038, *[20348] * 49],
    "x" * 101: [100],
    "tabs\tand\nlines  emoji 🙂 ₿ ½ İstanbul Straße": [
        *(21628, 2015, 1998, 3210, 7861, 29147, 2072, 100, 100, 1092, 9960, 2358, 27807),
    ],
    "a\u200bb\u00a0c\u2028d\x85e\x1cf": [11113, 1039, 13366],
    "ÀÉ ñ Å ﬁ Ǆ": [29347, 1050, 1037, 1984, 100],
    "１２３ ＡＢＣ": [100, 100],  # noqa: RUF001
    "한국어 ไทย हिन्दी العربية": [
        *(1469, 30006, 30021, 29991, 30014, 30020, 29999, 30008, 100, 1339, 29877, 29863, 29861, 29878, 1270, 23673),
        *(29830, 17149, 29816, 14498, 19433),
    ],
    "\ufffd\x00 a\u00adb": [11113],
    "ΣΑΣ ς": [1173, 14608, 29733, 1172],
    "…—–’“”«»": [1529, 1517, 1516, 1521, 1523, 1524, 1077, 1090],
    "$+<=>^`|~": [1002, 1009, 1026, 1027, 1028, 1034, 1036, 1064, 1066],
    "a_b-c.d": [1037, 1035, 1038, 1011, 1039, 1012, 1040],
    "\U00020000 豈": [100, 100],
    "unaffable embeddings": [14477, 20961, 3468, 7861, 8270, 4667, 2015],
    "zzxqzzxq": [1062, 2480, 2595, 4160, 13213, 2595, 4160],
    " \n\t": [],
}


@pytest.fixture(scope="module")
def tokenizer() -> WordPiece:
    return WordPiece(weights.ensure(weights.EMBEDDING) / "vocab.txt")


@pytest.mark.parametrize("text", EXPECTED, ids=range(len(EXPECTED)))
def test_it_gives_the_ids_of_the_reference(tokenizer: WordPiece, text: str):
    assert tokenizer.encode(text, 1000) == EXPECTED[text]


def test_text_that_looks_like_a_special_token_stays_text(tokenizer: WordPiece):
    ids = tokenizer.encode("[CLS] [SEP] [PAD]", 1000)

    assert not {tokenizer.start, tokenizer.end, 0} & set(ids)


def test_more_tokens_than_allowed_are_not_counted(tokenizer: WordPiece):
    assert tokenizer.encode("a b c", 3) == [1037, 1038, 1039]
    assert tokenizer.encode("a b c d", 3) is None


@pytest.mark.parametrize("text", ["a cat sits on the mat .", "unaffable embeddings"])
def test_decoded_tokens_are_encoded_the_same(tokenizer: WordPiece, text: str):
    ids = tokenizer.encode(text, 1000)

    assert tokenizer.decode([tokenizer.start, *ids, tokenizer.end]) == text


def test_a_file_that_is_no_vocabulary_is_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("a\nb\n")

    with pytest.raises(StartupError, match="no WordPiece vocabulary"):
        WordPiece(path)
