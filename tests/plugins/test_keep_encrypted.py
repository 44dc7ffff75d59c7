import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from plugins import keep_encrypted
from sluicegate import (
    Answer,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Exchange,
    Expired,
    Outcome,
    Purged,
    ToolCall,
    Usage,
)
from sluicegate.storage.vault import Vault
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage, check_plugin

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
REQUEST = ChatRequest.model_validate(
    {
        "messages": ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße, 你好"}),
        "temperature": 0.5,
        "user": "ada@example.com",
        "safety_identifier": "ada-lovelace",
        "user_security_context": {"end_user_id": "4711", "source_ip": "203.0.113.7"},
    }
)
SAFE = {"hate": {"filtered": False, "severity": "safe"}}


def exchange(**changes):
    values = {
        "id": "exchange-1",
        "account": "contoso",
        "deployment": "chat",
        "model": "small",
        "operation": "chat.completions",
        "user": "0a1b2c3d" * 8,
        "started": NOON,
        "finished": NOON + timedelta(milliseconds=1500),
        "request": REQUEST,
        "answers": (
            Answer(
                "Hello.",
                (ToolCall(0, "call-1", "lookup", '{"q":1}'),),
                "",
                "and more",
                "content_filter",
                {"hate": {"filtered": True, "severity": "high"}},
            ),
        ),
        "prompt_filter_results": {0: SAFE},
        "usage": Usage(10, 5, 2, 1),
        "outcome": Outcome.CUT,
    }
    return Exchange(**{**values, **changes})


@pytest.fixture
def store():
    return Vault(MemoryStorage(), MemoryKeys(), clock=FrozenClock(NOON)).store("contoso", "keep_encrypted")


async def kept(store):
    return {record.id: json.loads(record.data) async for record in store.records()}


def test_obeys_the_rules_of_plugins():
    check_plugin(keep_encrypted)


async def test_keeps_the_whole_exchange(store):
    await keep_encrypted.retain(exchange(), store)

    assert await kept(store) == {
        "exchange-1": {
            "v": 1,
            "id": "exchange-1",
            "account": "contoso",
            "deployment": "chat",
            "model": "small",
            "operation": "chat.completions",
            "user": "0a1b2c3d" * 8,
            "started": "2026-01-01T12:00:00+00:00",
            "finished": "2026-01-01T12:00:01.500000+00:00",
            "outcome": "cut",
            "request": {
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße, 你好"}],
                "temperature": 0.5,
            },
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}],
            "answers": [
                {
                    "text": "Hello.",
                    "tool_calls": [{"index": 0, "id": "call-1", "name": "lookup", "arguments": '{"q":1}'}],
                    "refusal": "",
                    "withheld": "and more",
                    "finish_reason": "content_filter",
                    "content_filter_results": {"hate": {"filtered": True, "severity": "high"}},
                }
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 2, "reasoning_tokens": 1},
        }
    }


@pytest.mark.parametrize("identity", ["ada@example.com", "ada-lovelace", "4711", "203.0.113.7"])
def test_never_keeps_who_the_end_user_is(identity):
    assert identity in json.dumps(REQUEST.body())
    assert identity not in keep_encrypted.serialized(exchange()).decode()


def test_the_same_exchange_gives_the_same_bytes():
    reordered = exchange(answers=(Answer("x", content_filter_results={"b": {}, "a": {}}),))
    ordered = exchange(answers=(Answer("x", content_filter_results={"a": {}, "b": {}}),))

    assert keep_encrypted.serialized(reordered) == keep_encrypted.serialized(ordered)


def test_a_lone_surrogate_is_kept():
    text = keep_encrypted.serialized(exchange(answers=(Answer("half a smiley \ud83d"),))).decode()

    assert json.loads(text)["answers"][0]["text"] == "half a smiley \ud83d"


def test_times_are_kept_in_utc():
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-8)))

    assert b'"started":"2026-01-01T12:00:00+00:00"' in keep_encrypted.serialized(exchange(started=elsewhere))


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("completions", CompletionRequest(prompt=("one", "two"))),
        ("embeddings", EmbeddingRequest(input="one")),
    ],
    ids=["completions", "embeddings"],
)
def test_every_operation_is_kept(operation, request_):
    document = json.loads(
        keep_encrypted.serialized(exchange(operation=operation, request=request_, answers=(), usage=None, user=None))
    )

    assert document["request"] == request_.body()
    assert (document["answers"], document["usage"], document["user"]) == ([], None, None)


@pytest.mark.parametrize("days", [1, 7, 30])
async def test_purges_after_the_days_of_its_settings(store, days):
    await keep_encrypted.retain(exchange(), store)
    config = keep_encrypted.Config(days=days)
    end = NOON.replace(hour=0) + timedelta(days=days)

    assert await keep_encrypted.purge(Expired(end - timedelta(hours=2)), store, config) == Purged()
    assert (await keep_encrypted.purge(Expired(end), store, config)).days == ("20260101",)
    assert await kept(store) == {}


def test_keeps_for_30_days_unless_told_otherwise():
    assert keep_encrypted.Config().days == 30


@pytest.mark.parametrize(
    ("days", "why"),
    [(31, "less than or equal to 30"), (0, "greater than or equal to 1"), ("soon", "valid integer"), (1.5, "integer")],
)
def test_a_number_of_days_that_cannot_be_is_refused(days, why):
    with pytest.raises(ValidationError, match=why) as caught:
        keep_encrypted.Config.model_validate({"days": days})
    assert "days" in str(caught.value)
