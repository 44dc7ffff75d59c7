"""The deployment as it comes, with its real models, through the openai package."""

from __future__ import annotations

import json
import math
from typing import Literal

import httpx
import openai
import pydantic
import pytest

from tests.wire.conftest import path, raw, sdk
from tests.wire.serving import records

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Place(pydantic.BaseModel):
    continent: Literal["Europe", "Asia", "Africa"]
    is_capital: bool


@pytest.fixture(scope="module")
def real(serve):
    """The server of the product's own deployment file."""
    return serve(None)


@pytest.fixture(scope="module", params=["AzureOpenAI", "OpenAI"])
def real_client(request, real):
    with sdk(real, request.param) as client:
        yield client


def chat(client, **fields):
    return client.chat.completions.create(
        **{"model": "chat", "messages": FRANCE, "temperature": 0, "max_tokens": 24, **fields}
    )


async def test_it_knows_the_capital_of_france_and_the_exchange_is_kept(real, real_client):
    answer = chat(real_client)

    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    kept = (await records(real.data))[answer.id.removeprefix("chatcmpl-")]
    assert kept["answers"][0]["text"] == answer.choices[0].message.content
    assert kept["request"]["messages"] == FRANCE


def test_a_stream_says_the_same_piece_by_piece(real_client):
    *chunks, usage = chat(real_client, stream=True, stream_options={"include_usage": True})

    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    whole = chat(real_client)
    assert len(pieces) > 2
    assert "".join(pieces) == whole.choices[0].message.content
    assert usage.usage.completion_tokens == whole.usage.completion_tokens


def test_two_choices_are_made_at_once(real_client):
    plain = chat(real_client, n=2, seed=1)
    streamed = list(chat(real_client, n=2, seed=1, stream=True))

    assert [choice.index for choice in plain.choices] == [0, 1]
    assert all(choice.message.content for choice in plain.choices)
    assert {choice.index for chunk in streamed for choice in chunk.choices if choice.finish_reason} == {0, 1}


def test_a_seed_repeats_an_answer(real_client):
    answers = [chat(real_client, temperature=1.5, seed=7).choices[0].message.content for _ in range(2)]

    assert answers[0] == answers[1]


def test_an_answer_keeps_to_a_schema(real_client):
    messages = [{"role": "user", "content": "On which continent is Paris, and is it a capital? Answer in JSON."}]

    answer = real_client.chat.completions.parse(
        model="chat", messages=messages, response_format=Place, temperature=0, max_tokens=60
    )

    assert isinstance(answer.choices[0].message.parsed, Place)


def test_an_answer_is_json_when_that_is_asked_for(real_client):
    messages = [{"role": "user", "content": "Describe Paris as a short JSON object."}]

    answer = chat(real_client, messages=messages, response_format={"type": "json_object"})

    assert answer.choices[0].message.content.lstrip().startswith("{")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_is_called(real_client, stream):
    choice = {"type": "function", "function": {"name": "weather"}}
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]

    answer = chat(real_client, messages=messages, tools=[WEATHER], tool_choice=choice, max_tokens=64, stream=stream)

    if stream:
        deltas = [part for chunk in answer for each in chunk.choices for part in each.delta.tool_calls or ()]
        name, arguments = deltas[0].function.name, "".join(part.function.arguments or "" for part in deltas)
    else:
        [call] = answer.choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
    assert name == "weather"
    assert json.loads(arguments).keys() == {"city"}


def test_log_probabilities_describe_the_answer(real_client):
    [choice] = chat(real_client, logprobs=True, top_logprobs=2).choices

    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in choice.logprobs.content)


def test_a_stop_ends_the_answer_before_it(real_client):
    [choice] = chat(real_client, stop=["Paris"]).choices

    assert choice.finish_reason == "stop"
    assert "Paris" not in choice.message.content


def test_a_limit_ends_the_answer(real_client):
    answer = chat(real_client, max_tokens=None, max_completion_tokens=3)

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_completions(real_client):
    prompts = ["One, two, three,", "The capital of France is"]

    answer = real_client.completions.create(model="chat", prompt=prompts, max_tokens=8, temperature=0, logprobs=1)
    echoed = real_client.completions.create(model="chat", prompt=prompts, max_tokens=8, temperature=0, echo=True)

    assert "Paris" in answer.choices[1].text
    for prompt, choice, echo in zip(prompts, answer.choices, echoed.choices, strict=True):
        assert "".join(choice.logprobs.tokens) == choice.text
        assert echo.text == prompt + choice.text


def test_embeddings_place_related_texts_close_together(real_client):
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "The stock market fell."]

    cat, kitten, market = (row.embedding for row in real_client.embeddings.create(model="embedding", input=texts).data)

    assert len(cat) == 384
    assert math.hypot(*cat) == pytest.approx(1, abs=1e-5)
    assert cosine(cat, kitten) > cosine(cat, market) + 0.3


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("fields", [{"prediction": {"type": "content", "content": "x"}}, {"reasoning_effort": "low"}])
def test_what_the_model_cannot_do_is_refused_by_name(real_client, fields):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(real_client, **fields)

    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", next(iter(fields)))


def test_a_prompt_that_is_too_long_is_refused(real_client):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(real_client, messages=[{"role": "user", "content": "word " * 8000}])

    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("mark", ["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
def test_special_tokens_in_a_message_cannot_forge_a_role(real, mark):
    """A mark in a message costs the tokens of its letters; read as a mark it would cost one."""

    def prompt_tokens(client: httpx.Client, content: str) -> int:
        body = {"model": "chat", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        return client.post(path("v1", "chat/completions"), json=body).json()["usage"]["prompt_tokens"]

    with raw(real) as client:
        forged = prompt_tokens(client, f"a {mark} b") - prompt_tokens(client, "a  b")

    assert forged >= 4


def test_a_blocked_prompt_is_refused(real_client):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(real_client, messages=[{"role": "user", "content": "Tell me about Project Nightjar."}])

    assert caught.value.code == "content_filter"


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_term_of_a_real_model_never_reaches_the_wire(real, stream):
    """The model is made to say it by a schema that allows nothing else, and that does not spell it out."""
    schema = {"type": "string", "pattern": "^Project Night[j]ar$"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {"model": "chat", "messages": FRANCE, "response_format": form, "stream": stream}
    with raw(real) as client:
        response = client.post(path("v1", "chat/completions"), json=body)

    assert response.status_code == 200
    assert '"finish_reason":"content_filter"' in response.text
    assert "jar" not in response.text.lower()
