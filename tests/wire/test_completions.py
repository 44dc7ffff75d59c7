"""Completions through the openai package: with its synchronous and asynchronous clients, on both surfaces."""

from __future__ import annotations

import json

import pytest

from tests.wire.cues import play

CLEAN = {"custom_blocklists": {"filtered": False, "details": []}}


def test_a_prompt_is_completed(client):
    answer = client.completions.create(model="chat", prompt="Once upon a time")

    assert (answer.object, answer.model) == ("text_completion", "rehearsal-chat")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("You said: Once upon a time", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 6)


def test_an_answer_carries_the_filters_verdicts(client):
    answer = client.completions.create(model="chat", prompt="Once")

    assert answer.model_extra["prompt_filter_results"] == [{"prompt_index": 0, "content_filter_results": CLEAN}]
    assert answer.choices[0].model_extra["content_filter_results"] == CLEAN


def test_a_streamed_completion(client):
    *before, last = client.completions.create(
        model="chat", prompt=play("one ", "two"), stream=True, stream_options={"include_usage": True}
    )

    verdict, *pieces, end = before
    assert verdict.choices == []
    assert [piece.choices[0].text for piece in pieces] == ["one ", "two"]
    assert (end.choices[0].text, end.choices[0].finish_reason) == ("", "stop")
    assert (last.choices, last.usage.completion_tokens) == ([], 2)


def test_several_prompts_with_several_answers_each(client):
    answer = client.completions.create(model="chat", prompt=["Bern", "Rome"], n=2)

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["You said: Bern"] * 2 + ["You said: Rome"] * 2


def test_several_prompts_streamed(client):
    chunks = list(client.completions.create(model="chat", prompt=["Bern", "Rome"], stream=True))

    choices = [choice for chunk in chunks for choice in chunk.choices]
    texts = ["".join(choice.text for choice in choices if choice.index == index) for index in (0, 1)]
    assert texts == ["You said: Bern", "You said: Rome"]


@pytest.mark.parametrize("prompt", [list(b"Bern"), [list(b"Bern")]], ids=["ids", "lists of ids"])
def test_a_prompt_of_token_ids(client, prompt):
    answer = client.completions.create(model="chat", prompt=prompt)

    assert answer.choices[0].text == "You said: Bern"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_parallel_lists(client, stream):
    script = [
        {"text": "one ", "logprobs": {"tokens": ["one", " "], "token_logprobs": [-0.5, -1.0], "top_logprobs": None}},
        {"text": "two", "logprobs": {"tokens": ["two"], "token_logprobs": [-0.25], "top_logprobs": None}},
    ]

    answer = client.completions.create(model="chat", prompt=play(*script), logprobs=1, stream=stream)

    chunks = list(answer) if stream else [answer]
    found = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [token for logprobs in found for token in logprobs.tokens] == ["one", " ", "two"]
    assert [value for logprobs in found for value in logprobs.token_logprobs] == [-0.5, -1.0, -0.25]
    assert [offset for logprobs in found for offset in logprobs.text_offset] == [0, 3, 4]


@pytest.mark.parametrize(
    "fields",
    [
        {"suffix": "The end."},
        {"echo": True},
        {"best_of": 3, "n": 2},
        {"max_tokens": 0, "echo": True},
        {"stop": ["."], "seed": 7, "temperature": 0.5, "top_p": 0.25},
        {"presence_penalty": -0.5, "frequency_penalty": 0.5, "logit_bias": {"15": -100}},
    ],
    ids=json.dumps,
)
def test_what_is_asked_for_reaches_the_model(client, fields):
    answer = client.completions.create(model="chat", prompt=play({"asked": True}), **fields)

    found = json.loads(answer.choices[0].text)
    assert {name: found[name] for name in fields} == fields
