"""The plugin in a server of its own, between the SDK and the stand-in."""

from __future__ import annotations

import openai
import pytest

from tests.wire.cues import user
from tests.wire.serving import Server

DEPLOYMENT = """
storage = "%SLUICEGATE_STORAGE%"
keys = "%SLUICEGATE_KEYS%"
region = "%SLUICEGATE_REGION%"
installed = ["scripted_model"]

[pipeline]
authenticate = ["api_keys"]
pre_filter = ["azure_content_safety"]
models = ["scripted_model"]
post_filter = ["azure_content_safety"]

[plugins.azure_content_safety]
endpoint = "%CONTENT_SAFETY%"
key_setting = "CONTENT_SAFETY_KEY"
timeout_s = 60
"""


@pytest.fixture(scope="module")
def server(_running, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "deployment.toml").write_text(DEPLOYMENT)
    settings = {
        "CONTENT_SAFETY": _running.endpoint,
        "CONTENT_SAFETY_KEY": _running.key,
        "SSL_CERT_FILE": _running.environment["SSL_CERT_FILE"],
    }
    with Server(folder / "data", folder / "deployment.toml", **settings) as server:
        yield server


@pytest.fixture
def client(stand_in, server):
    key = server.credentials["api_key"]
    with openai.OpenAI(api_key=key, base_url=f"{server.endpoint}/openai/v1", max_retries=0, timeout=120) as client:
        yield client.chat.completions


def test_a_prompt_is_refused_as_azure_does_it(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.create(model="chat", messages=[{"role": "user", "content": "Nightjar [Hate 6]"}])

    assert refused.value.code == "content_filter"
    result = refused.value.body["innererror"]["content_filter_result"]
    assert result["hate"] == {"filtered": True, "severity": "high"}
    assert result["jailbreak"] == {"filtered": False, "detected": False}


def test_a_streamed_answer_is_cut_before_what_is_found(client):
    messages = user("A harmless beginning. " * 40, "And then: Nightjar [Violence 6]. ", "More. " * 100)

    chunks = list(client.create(model="chat", messages=messages, stream=True))

    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    assert text.startswith("A harmless beginning. ")
    assert "Nightjar" not in text
    assert choices[-1].finish_reason == "content_filter"
    assert choices[-1].content_filter_results["violence"] == {"filtered": True, "severity": "high"}
    assert chunks[0].prompt_filter_results[0]["content_filter_results"]["hate"]["severity"] == "safe"


def test_a_service_that_is_down_closes_the_gate(stand_in, client):
    stand_in.fail(503, "ServerBusy", times=100)

    with pytest.raises(openai.InternalServerError) as refused:
        client.create(model="chat", messages=[{"role": "user", "content": "Nightjar"}])

    assert (refused.value.status_code, refused.value.code) == (503, "content_filter_error")


def test_the_log_names_operations_and_no_text(stand_in, client, server):
    stand_in.fail(400, "InvalidRequestBody", message="I read: Nightjar", times=9)

    with pytest.raises(openai.InternalServerError):
        client.create(model="chat", messages=[{"role": "user", "content": "Nightjar"}])

    log = server.log.read_text()
    assert "Azure AI Content Safety rejects a request of text:" in log
    assert "Nightjar" not in log
    assert stand_in.key not in log
