"""Chat answers of the real model."""

import json

import pytest

from plugins import embedded_model
from plugins.embedded_model.choices import budget
from plugins.embedded_model.engine import Engine
from sluicegate import InvalidRequest, ModelUnavailable, Unsupported

from .conftest import chat_request, user

pytestmark = pytest.mark.asyncio(loop_scope="session")
CAPITAL = "What is the capital of France?"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def json_format(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


async def test_the_model_knows_the_capital_of_france(chat):
    answer = await chat(CAPITAL)

    assert answer.text() == "The capital of France is Paris."
    assert answer.finish() == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (27, 8)


async def test_the_answer_comes_in_pieces_that_each_carry_the_cost_so_far(chat):
    answer = await chat(CAPITAL, max_tokens=4)

    assert [chunk.text for chunk in answer.chunks] == ["The", " capital", " of", " France", ""]
    assert [chunk.usage.completion_tokens for chunk in answer.chunks] == [1, 2, 3, 4, 4]
    assert answer.finish() == "length"


async def test_the_next_turn_is_not_read_from_the_beginning(chat):
    messages = user("What is the capital of Spain?")
    first = await chat(messages=messages)
    messages += [{"role": "assistant", "content": first.text()}, *user("Thank you.")]

    second = await chat(messages=messages, max_tokens=1)

    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens >= first.usage.total_tokens - 1


async def test_the_same_seed_gives_the_same_choices_and_another_seed_others(chat):
    async def texts(seed: int) -> list[str]:
        answer = await chat("Write a word.", n=2, seed=seed, temperature=1.5, top_p=1, max_tokens=3)
        return [answer.text(index) for index in range(2)]

    first = await texts(1)

    assert await texts(1) == first
    assert len(set(first)) == 2
    assert await texts(2**40) != first


async def test_every_choice_ends_and_is_counted(chat):
    one = await chat("Count.", max_tokens=2)
    three = await chat("Count.", n=3, max_tokens=2)

    assert [three.finish(index) for index in range(3)] == ["length"] * 3
    assert three.usage.completion_tokens == 6
    assert three.usage.prompt_tokens == one.usage.prompt_tokens


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("Paris", "The capital of France is "),
        ([" Paris", "France"], "The capital of "),
        (["al of Fr"], "The capit"),
        (["The"], ""),
        (["is Paris!"], "The capital of France is Paris."),
    ],
)
async def test_nothing_of_a_stop_string_is_sent(chat, stop, text):
    answer = await chat(CAPITAL, stop=stop)

    assert answer.text() == text
    assert answer.finish() == "stop"


async def test_what_was_held_back_for_a_stop_string_is_sent_at_the_end(chat):
    answer = await chat(CAPITAL, stop=["is Paris, of course"], max_tokens=6)

    assert answer.text() == "The capital of France is Paris"
    assert answer.finish() == "length"


async def test_a_character_of_several_tokens_is_never_shown_in_parts(chat):
    answer = await chat("Send an emoji", max_tokens=10)

    assert answer.usage.completion_tokens == 10
    assert "🌟" in answer.text()
    assert all("\ufffd" not in chunk.text for chunk in answer.chunks)


async def test_a_banned_token_is_not_used(chat, engine: Engine):
    [paris] = engine.tokenizer.encode(" Paris")

    answer = await chat(CAPITAL, logit_bias={str(paris): -100}, max_tokens=8)

    assert answer.text().startswith("The capital of France is")
    assert "Paris" not in answer.text()


async def test_a_bias_for_no_token_is_refused(chat):
    with pytest.raises(InvalidRequest) as refused:
        await chat(CAPITAL, logit_bias={"49152": 1})

    assert refused.value.param == "logit_bias"


async def test_penalties_change_the_answer(chat):
    plain = await chat("Repeat the word tea ten times.", max_tokens=16)
    varied = await chat("Repeat the word tea ten times.", max_tokens=16, frequency_penalty=2, presence_penalty=2)

    assert plain.text() != varied.text()


async def test_log_probabilities_are_given_for_each_token(chat, engine: Engine):
    answer = await chat(CAPITAL, logprobs=True, top_logprobs=2)

    content = [entry for chunk in answer.chunks if chunk.logprobs for entry in chunk.logprobs["content"]]
    assert "".join(entry["token"] for entry in content) == answer.text()
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == answer.text()
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in content)
    assert {entry["top_logprobs"][0]["token"] for entry in content} == {entry["token"] for entry in content}
    for chunk in answer.chunks:
        tokens = "".join(entry["token"] for entry in chunk.logprobs["content"]) if chunk.logprobs else ""
        assert tokens == chunk.text


async def test_no_log_probabilities_are_given_unasked_and_no_alternatives_for_nought(chat):
    plain = await chat(CAPITAL, max_tokens=1)
    asked = await chat(CAPITAL, max_tokens=1, logprobs=True)

    assert plain.chunks[0].logprobs is None
    assert asked.chunks[0].logprobs["content"][0]["top_logprobs"] == []


async def test_a_json_schema_is_kept(chat):
    answer = await chat("Ann is 30 years old.", response_format=json_format(PERSON, strict=True))

    assert json.loads(answer.text()) == {"name": "Ann", "age": 30}
    assert answer.finish() == "stop"


async def test_json_object_gives_an_object(chat):
    answer = await chat("What?", response_format={"type": "json_object"}, max_tokens=3)

    assert answer.text().startswith("{")


@pytest.mark.parametrize("schema", [{"not": {}}, {"type": "nonsense"}, {"$ref": "#/nowhere"}, {"enum": []}])
async def test_a_schema_that_cannot_be_kept_is_refused_by_name(chat, schema):
    with pytest.raises(Unsupported) as refused:
        await chat("Hi", response_format=json_format(schema))

    assert (refused.value.code, refused.value.param) == ("unsupported_schema", "response_format")


async def test_the_runtime_writes_nothing_to_the_log(chat, capfd):
    secret = "kingfisher"

    await chat(f"Say {secret}.", stop=[secret], max_tokens=2)
    with pytest.raises(Unsupported):
        await chat(f"Say {secret}.", response_format=json_format({"not": {"const": secret}}))

    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")


async def test_a_huge_schema_is_refused(chat):
    with pytest.raises(Unsupported, match="at most 65536 characters"):
        await chat("Hi", response_format=json_format({"enum": ["x" * 66_000]}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": user("a b c " * 400)}, "you requested 1221 tokens in the messages"),
        ({"messages": user("x" * 1_000_000)}, "at least 12346 tokens"),
        ({"messages": user(CAPITAL), "max_tokens": 742}, "27 tokens in the messages and 742 for the completion"),
    ],
    ids=["prompt", "huge", "prompt and answer"],
)
async def test_what_does_not_fit_is_refused_with_numbers(chat, body, message):
    with pytest.raises(InvalidRequest, match=message) as refused:
        await chat(**body)

    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    assert "maximum context length is 768 tokens" in refused.value.message


async def test_a_request_without_a_limit_is_never_too_long_for_its_default():
    assert budget(700, None, 1024, 768, "messages") == 68


async def test_closing_the_answer_stops_all_choices(config: embedded_model.Config, engine: Engine):
    answer = embedded_model.inference(chat_request(messages=user("Tell a long story."), n=5), None, config)
    await anext(answer)

    await answer.aclose()
    slots = [await engine.slots.acquire([], object()) for _ in range(engine.parallel)]

    for slot in slots:
        engine.slots.release(slot)
    assert not engine._running


async def test_a_busy_model_with_a_full_queue_says_when_to_come_back(chat, engine: Engine, monkeypatch):
    monkeypatch.setattr(engine.slots, "_max_waiting", 0)
    slots = [await engine.slots.acquire([], object()) for _ in range(engine.parallel)]

    with pytest.raises(ModelUnavailable) as refused:
        await chat("Hi")

    for slot in slots:
        engine.slots.release(slot)
    assert refused.value.retry_after_s == 5
