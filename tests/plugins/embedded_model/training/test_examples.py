"""Rows as tokens: rendered as when the model is asked, and only the assistant's words are learnt."""

import json

import pytest

from plugins.embedded_model.template import chat_prompt, turns
from plugins.embedded_model.training.examples import Rows
from plugins.embedded_model.training.tensors import NotTrainable
from sluicegate import ChatRequest

QUESTION = {"role": "user", "content": "Where is the key?"}
ANSWER = {"role": "assistant", "content": "Under the mat."}


@pytest.fixture
def rows(tokenizer):
    return Rows(tokenizer, longest=200)


def lines(*found):
    return [json.dumps(row).encode() for row in found]


def learnt(example, tokenizer):
    return tokenizer.decode(example.ids[example.scored].tolist())


def test_the_prompt_is_what_the_model_is_asked_with(rows, tokenizer):
    (example,) = rows.supervised(lines({"messages": [QUESTION, ANSWER]}))

    request = ChatRequest.model_validate_json(json.dumps({"messages": [QUESTION]}))
    prompt = chat_prompt(turns(request), tokenizer)
    assert example.ids[: len(prompt)].tolist() == prompt
    assert not example.scored[: len(prompt)].any()
    assert learnt(example, tokenizer) == "Under the mat.<|im_end|>"


def test_messages_of_weight_0_are_read_and_not_learnt(rows, tokenizer):
    messages = [QUESTION, {**ANSWER, "weight": 0}, QUESTION, {"role": "assistant", "content": "Still.", "weight": 1}]

    (example,) = rows.supervised(lines({"messages": messages}))

    assert learnt(example, tokenizer) == "Still.<|im_end|>"


def test_calls_of_tools_are_learnt_as_the_model_writes_them(rows, tokenizer):
    function = {"name": "unlock", "parameters": {"type": "object", "properties": {}}}
    call = {"id": "1", "type": "function", "function": {"name": "unlock", "arguments": "{}"}}
    messages = [QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}]

    (example,) = rows.supervised(lines({"messages": messages, "tools": [{"type": "function", "function": function}]}))

    assert learnt(example, tokenizer) == '<tool_call>\n{"name": "unlock", "arguments": {}}\n</tool_call><|im_end|>'
    assert "You may call one of these functions" in tokenizer.decode(example.ids.tolist())


def test_a_prompt_and_its_completion(rows, tokenizer):
    (example,) = rows.supervised(lines({"prompt": "The key is", "completion": " under the mat."}))

    assert learnt(example, tokenizer) == " under the mat.<|im_end|>"


def test_two_answers_to_one_prompt(rows, tokenizer):
    row = {
        "input": {"messages": [QUESTION, ANSWER, QUESTION]},
        "preferred_output": [{"role": "assistant", "content": "There."}],
        "non_preferred_output": [{"role": "assistant", "content": "Go away."}],
    }

    (pair,) = rows.preferences(lines(row))

    assert learnt(pair.preferred, tokenizer) == "There.<|im_end|>"
    assert learnt(pair.other, tokenizer) == "Go away.<|im_end|>"


def test_what_is_too_long_is_cut_off_and_counted(tokenizer):
    rows = Rows(tokenizer, longest=40)
    long_question = {"role": "user", "content": "word " * 60}
    long_answer = {"role": "assistant", "content": "word " * 60}

    found = list(rows.supervised(lines({"messages": [QUESTION, long_answer]}, {"messages": [long_question, ANSWER]})))

    assert [len(example.ids) for example in found] == [40]
    assert (rows.cut, rows.left_out) == (2, 1)


def test_a_byte_order_mark_and_empty_lines_do_no_harm(rows):
    (line,) = lines({"messages": [QUESTION, ANSWER]})

    assert len(list(rows.supervised([b"\xef\xbb\xbf" + line, b"", line]))) == 2


IMAGE = [{"type": "image_url", "image_url": {"url": "https://example.com/secret.png"}}]


@pytest.mark.parametrize(
    "bad",
    [
        b"{secret",
        b"[1]",
        b'{"messages": "secret"}',
        b'{"prompt": "secret"}',
        *lines({"messages": [{"role": "user", "content": IMAGE}, ANSWER]}),
    ],
    ids=["JSON", "object", "messages", "completion", "image"],
)
def test_a_line_that_is_no_example_is_named_and_not_quoted(rows, bad):
    with pytest.raises(NotTrainable, match=r"^line 2 of a file, which is no example of text$"):
        list(rows.supervised([*lines({"messages": [QUESTION, ANSWER]}), bad]))
