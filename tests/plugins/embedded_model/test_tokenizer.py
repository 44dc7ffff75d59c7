"""The chat model's tokenizer, against the runtime's own."""

import http.client
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plugins.embedded_model import loading, weights
from plugins.embedded_model.gguf import read_metadata
from plugins.embedded_model.template import Turn, chat_prompt
from plugins.embedded_model.tokenizer import Tokenizer, _merge_long, _merge_short
from sluicegate.errors import StartupError

TEXTS = [
    "Hello world, naïve café 你好",
    "12345 67.89 3rd ٣٤٥ ½ Ⅷ 1,000,000",
    "  leading\n\n\n trailing  \t\t ",
    "don't I'll WE'RE they've don’t 'S 'T",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|><repo_name>",
    "🙂👩\u200d👩\u200d👧 ₿ \uff21",
    "a\u200bb\u00a0c\r\nd\u2028e",
    "def f(x):\n    return x**2  # ok\n",
    "\x00\x01\x06\x14\x7f",
    "हिन्दी العربية עברית ไทย",
    "x" * 300,
    "ab" * 999,
    "=" * 1000 + " " * 777,
    "",
]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    path = weights.ensure(weights.CHAT) / weights.CHAT.files[0].name
    server = loading._serve(path, 1, 256, 1, "key")
    connection = http.client.HTTPConnection(server.listening_address.removeprefix("http://"))

    def post(where: str, body: dict[str, Any]) -> Any:
        connection.request("POST", where, json.dumps(body), {"authorization": "Bearer key"})
        return json.load(connection.getresponse())

    yield post
    connection.close()


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_it_gives_the_ids_that_the_runtime_gives(runtime, tokenizer: Tokenizer, text: str):
    expected = runtime("/tokenize", {"content": text, "add_special": False, "parse_special": False})["tokens"]

    assert tokenizer.encode(text) == expected


def test_it_gives_the_runtimes_ids_for_random_letters(runtime, tokenizer: Tokenizer):
    draw = random.Random(1)
    for _ in range(100):
        text = "".join(draw.choice("ab c\n1éñ🙂'#=<|>_im_startend \t\u0300") for _ in range(draw.randint(1, 300)))
        expected = runtime("/tokenize", {"content": text, "add_special": False, "parse_special": False})["tokens"]

        assert tokenizer.encode(text) == expected


def test_a_prompt_is_the_one_that_the_models_own_template_makes(runtime, tokenizer: Tokenizer):
    spoken = [
        Turn("system", "Be brief."),
        Turn("user", "Hi\n\n  there"),
        Turn("assistant", "\n\nHello!"),
        Turn("user", "12 + 30?"),
    ]
    messages = [{"role": turn.speaker, "content": turn.text} for turn in spoken]
    prompt = runtime("/apply-template", {"messages": messages})["prompt"]
    expected = runtime("/tokenize", {"content": prompt, "parse_special": True})["tokens"]

    assert chat_prompt(spoken, tokenizer) == expected


def test_the_runtimes_port_answers_only_to_the_key(runtime):
    server = loading._serve(weights.CHAT.folder / weights.CHAT.files[0].name, 1, 256, 1, "key")
    connection = http.client.HTTPConnection(server.listening_address.removeprefix("http://"))
    connection.request("POST", "/tokenize", '{"content": "x"}', {"authorization": "Bearer other"})

    assert connection.getresponse().status == 401
    connection.close()


@pytest.mark.parametrize("text", TEXTS[:4] + TEXTS[5:8], ids=range(7))
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_that_looks_like_a_control_token_stays_text(tokenizer: Tokenizer):
    text = "".join(tokenizer.special)

    ids = tokenizer.encode(text)

    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.decode(ids) == text


def test_half_a_character_has_bytes_but_no_text(tokenizer: Tokenizer):
    pieces = [tokenizer.piece(token) for token in tokenizer.encode("🙂")]

    assert len(pieces) > 1
    assert b"".join(pieces) == "🙂".encode()


def test_long_words_are_merged_like_short_ones(tokenizer: Tokenizer):
    draw = random.Random(2)
    for _ in range(200):
        letters = [tokenizer._letters[ord(draw.choice("aabetho="))] for _ in range(draw.randint(1, 80))]

        assert _merge_long(letters.copy(), tokenizer._ranks) == _merge_short(letters.copy(), tokenizer._ranks)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("qwen2", "It's 42\n\n a_b", ["It", "'s", " ", "4", "2", "\n\n", " a", "_b"]),
        ("smollm", "It's 42\n\n a_b", ["It", "'s", " ", "4", "2", "\n\n", " a", "_", "b"]),
        ("gpt-2", "It's 42\n\n a_b", ["It", "'s", " 42", "\n\n", " a", "_", "b"]),
    ],
)
def test_each_kind_cuts_words_in_its_own_way(kind: str, text: str, words: list[str]):
    tokenizer = Tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": kind,
            "tokenizer.ggml.tokens": ["a"],
            "tokenizer.ggml.token_type": [1],
            "tokenizer.ggml.merges": [],
        }
    )

    assert list(tokenizer._words(text)) == words


def test_user_defined_tokens_are_found_in_text_and_control_tokens_are_not():
    tokenizer = Tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": ["<", "|", "a", ">", "<|a|>", "<a>"],
            "tokenizer.ggml.token_type": [1, 1, 1, 1, 3, 4],
            "tokenizer.ggml.merges": [],
        }
    )

    assert tokenizer.encode("a<a><|a|>") == [2, 5, 0, 1, 2, 1, 3]


def test_a_tokenizer_of_another_kind_is_refused():
    with pytest.raises(StartupError, match="tokenizer llama/default is not one of"):
        Tokenizer({"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"})


def test_a_file_that_is_not_gguf_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK" + bytes(100))

    with pytest.raises(StartupError, match="is not a GGUF file"):
        read_metadata(path)


def test_a_file_that_ends_early_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes((weights.ensure(weights.CHAT) / weights.CHAT.files[0].name).read_bytes()[:1000])

    with pytest.raises(StartupError, match="cannot be read as a GGUF file"):
        read_metadata(path)
