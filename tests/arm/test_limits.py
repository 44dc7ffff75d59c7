"""A deployment's capacity, as callers meet it."""

from __future__ import annotations

from contextlib import suppress

import openai
import pytest

from tests.arm.test_accounts import GROUP, account, deployment


@pytest.fixture
def sdk(client, server, name):
    client.accounts.begin_create(GROUP, name, account()).result()
    client.deployments.begin_create_or_update(GROUP, name, "chat", deployment(capacity=1)).result()
    key = client.accounts.list_keys(GROUP, name).key1
    return openai.AzureOpenAI(azure_endpoint=server.endpoint, api_key=key, api_version="2024-10-21", max_retries=0)


def ask(sdk, **options):
    messages = [{"role": "user", "content": "hello"}]
    return sdk.chat.completions.with_raw_response.create(model="chat", messages=messages, **options)


def test_every_answer_says_how_the_limits_stand(sdk):
    headers = ask(sdk).headers

    assert headers["x-ratelimit-limit-requests"] == "6"
    assert headers["x-ratelimit-limit-tokens"] == "1000"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert int(headers["x-ratelimit-remaining-tokens"]) < 1000


def test_who_asks_too_often_is_told_when_to_come_back(sdk):
    ask(sdk)
    # The first two may fall into two windows, the last two cannot.
    with suppress(openai.RateLimitError):
        ask(sdk)

    with pytest.raises(openai.RateLimitError) as refused:
        ask(sdk)

    assert refused.value.code == "429"
    assert 0 < int(refused.value.response.headers["retry-after-ms"]) <= 10_000
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
