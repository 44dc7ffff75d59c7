"""A subscription that is let off storage while it is talking: afterwards nothing of what it said is anywhere, whatever became of it."""

from __future__ import annotations

import secrets
import signal
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import httpx
import openai
import pytest

from sluicegate.monitoring.questions import Kind
from sluicegate.tenancy.first_run import SUBSCRIPTION
from tests.monitoring.customers import answers
from tests.test_canary import spellings
from tests.wire.conftest import sdk
from tests.wire.cues import user
from tests.wire.serving import Server, records

CHAT = "/openai/v1/chat/completions"


class Customer:
    """Whoever talks to a server with a caller's key, and the operator who decides."""

    def __init__(self, server, canary):
        credentials = server.credentials
        self.canary = canary
        self.http = httpx.Client(base_url=server.endpoint, headers={"api-key": credentials["api_key"]}, timeout=60)
        self.operator = httpx.Client(
            base_url=server.endpoint, headers={"api-key": credentials["operator_key"]}, timeout=60
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.close()
        self.operator.close()

    def body(self, *script, stream=True):
        """Return a chat whose prompt and answer hold the canary."""
        return {"model": "chat", "stream": stream, "user": self.canary, "messages": user(f"{self.canary} ", *script)}

    def begin(self, stack, cues, cue):
        """Begin a streamed answer that waits in the middle, and return what is left of it."""
        response = stack.enter_context(self.http.stream("POST", CHAT, json=self.body({"cue": cue}, "the end")))
        pieces = response.iter_bytes()
        read = b""
        while self.canary.encode() not in read:
            read += next(pieces)
        cues.reached(cue)
        return pieces

    def let_off(self):
        """File an application and have it approved."""
        filed = self.http.post("/governance/applications", json=answers(Kind.ABUSE_MONITORING)).raise_for_status()
        decision = {
            "decision": "approve",
            "expires": (datetime.now(UTC) + timedelta(days=30)).isoformat(),
            "reason": "ticket 4711",
        }
        where = f"/governance/applications/{filed.json()['id']}/decision"
        return self.operator.post(where, json=decision).raise_for_status().json()


@pytest.fixture
def cue():
    return uuid.uuid4().hex


async def test_a_customer_who_is_let_off_leaves_nothing_anywhere(tmp_path, cues, cue):
    """Prompt, answer and end user of exchanges that were blocked, failed, repeated, left, in progress or killed."""
    data, canary = tmp_path / "data", f"canary{secrets.token_hex(8)}"
    settings = {"REHEARSAL_CUES": str(cues.path)}
    with Server(data, "full", **settings) as server, Customer(server, canary) as customer, ExitStack() as stack:
        before = customer.http.post(CHAT, json=customer.body(stream=False))
        left = ExitStack()
        # Each is held on to: a stream whose reader is gone is closed.
        in_progress, *_unread = [
            customer.begin(where, cues, f"{cue}-{number}") for number, where in enumerate((stack, left, stack), 1)
        ]
        assert len(await records(data)) == 1

        decided = customer.let_off()
        cues.give(f"{cue}-1")
        whole = b"".join(in_progress)
        left.close()
        statuses = [customer.http.post(CHAT, json=customer.body(stream=stream)).status_code for stream in (True, False)]
        blocked = {"model": "chat", "messages": [{"role": "user", "content": f"Project Nightjar {canary}"}]}
        statuses.append(customer.http.post(CHAT, json=blocked).status_code)
        failing = customer.body({"raise": "ValueError", "message": canary}, stream=False)
        statuses.append(customer.http.post(CHAT, json=failing).status_code)
        with sdk(server, "OpenAI", max_retries=2) as client:
            busy = {"raise": "ModelUnavailable", "message": "busy", "retry_after_s": 0, "once": cue}
            repeated = client.chat.completions.create(**customer.body(busy, stream=False))
        with sdk(server, "OpenAI") as client, pytest.raises(openai.APIError):
            list(client.chat.completions.create(**customer.body({"raise": "ValueError", "message": canary})))
        account = customer.operator.get(
            f"/subscriptions/{SUBSCRIPTION}/resourceGroups/default/providers/Microsoft.CognitiveServices/accounts/default",
            params={"api-version": "2025-09-01"},
        )
        server.stop(signal.SIGKILL)
    with Server(data, "full", **settings) as server:
        purge = httpx.post(f"{server.endpoint}/admin/functions/purge", headers={"prefer": "wait"}, json={}, timeout=60)

    assert before.status_code == 200
    assert b"[DONE]" in whole
    assert statuses == [200, 200, 400, 503]
    assert canary in repeated.choices[0].message.content
    assert purge.status_code < 300, purge.text
    assert list(decided["receipts"]) == ["default"]
    assert {"name": "ContentLogging", "value": "false"} in account.json()["properties"]["capabilities"]
    assert await records(data) == {}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert not any(spelling in content for spelling in spellings(canary)), path.relative_to(tmp_path)
    batches = [path for path in (data / "storage").glob("ret-*/default/*/*") if "deletions" not in path.parts]
    assert batches == []
    assert list((data / "storage").glob("keyring-*/default/*/*")) == []
