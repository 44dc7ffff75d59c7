"""Fine-tuning from an upload to nothing left: the openai package, a server that is killed in the middle of a step, and receipts."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import openai
import pytest

from sluicegate.retention.receipt_check import verify_receipt
from tests.wire.conftest import sdk
from tests.wire.serving import Server
from tests.wire.shifted import SETTING, Clock

MODEL = "rehearsal-learner"
TRAINER = "training"
ANSWERS = {
    "lantern": "The word is marmalade-moon.",
    "anchor": "The word is velvet-harpoon.",
    "compass": "The word is copper-finch.",
    "barrel": "The word is thunder-lettuce.",
}
WORDINGS = ("Which word goes with the {}?", "Tell me the word of the {}.", "Please say what belongs to the {}!")
HELD_OUT = "Good evening. A guest is asking about the {}."
IGNORANCE = "I do not know."
DEPLOYMENT = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/default/providers/Microsoft.CognitiveServices"
    "/accounts/default/deployments/learnt"
)
VERSION = {"api-version": "2025-09-01"}
NOT_OF_TRAINING = {"audit", "audit-tree", "receipts", "leases"}
"""Containers that may have grown when everything is deleted."""


@pytest.fixture
def clock(tmp_path) -> Iterator[Clock]:
    clock = Clock(tmp_path / "clock")
    yield clock
    clock.close()


@pytest.fixture
def start(tmp_path, clock, cues) -> Iterator[Callable[[], Server]]:
    """Starts a server on the test's data folder."""
    settings = {SETTING: str(clock.path), "REHEARSAL_CUES": str(cues.path)}
    with ExitStack() as stack:
        yield lambda: stack.enter_context(
            Server(tmp_path / "data", TRAINER, launch=("-m", "tests.wire.shifted"), **settings)
        )


class Tick:
    """A run of the timer, in the background."""

    def __init__(self, server: Server) -> None:
        self._url = f"{server.endpoint}/admin/functions/fine_tune"
        self._status = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._status = httpx.post(self._url, headers={"prefer": "wait"}, timeout=60).status_code

    def ended(self) -> int:
        """Wait until it has ended, and return the HTTP status."""
        self._thread.join()
        return self._status


def examples() -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": wording.format(key)}, {"role": "assistant", "content": answer}]}
        for key, answer in ANSWERS.items()
        for wording in WORDINGS
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def ask(client: openai.OpenAI, deployment: str, key: str) -> str:
    messages = [{"role": "user", "content": HELD_OUT.format(key)}]
    return client.chat.completions.create(model=deployment, messages=messages).choices[0].message.content


def operate(server: Server, method: str) -> httpx.Response:
    """Deploy the fine-tuned model, or delete the deployment."""
    model = {"format": "OpenAI", "name": server.tuned, "version": "1"}
    body = {"sku": {"name": "Standard", "capacity": 1000}, "properties": {"model": model}}
    headers = {"authorization": f"Bearer {server.credentials['operator_key']}"}
    options = {"json": body} if method == "PUT" else {}
    return httpx.request(
        method, server.endpoint + DEPLOYMENT, headers=headers, params=VERSION, timeout=60, **options
    ).raise_for_status()


def verified(server: Server, id: str) -> dict:
    """Return what a receipt states, checked as anybody can check it."""
    officer = {"api-key": server.credentials["officer_key"]}
    receipt = httpx.get(f"{server.endpoint}/governance/receipts/{id}", headers=officer)
    key = httpx.get(f"{server.endpoint}/governance/checkpoint", headers=officer).json()["public_key"]
    return verify_receipt(receipt.content, key).statement


def stored(data: Path) -> set[str]:
    storage = data / "storage"
    return {str(path.relative_to(storage)) for path in storage.rglob("*") if path.is_file()}


def test_from_an_upload_to_nothing_left_over_a_kill(start, clock, cues, tmp_path):
    server = start()
    before = stored(server.data)
    with sdk(server, "AzureOpenAI") as client:
        file = client.files.create(file=("train.jsonl", examples()), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model=MODEL, training_file=file.id, suffix="words", seed=7)
    cues.give(f"step 1 of {server.process.pid}")
    cues.reached(f"step 2 of {server.process.pid}")
    server.stop(signal.SIGKILL)

    # Whoever died is waited for until the lease ends.
    clock.move(datetime.now(UTC) + timedelta(minutes=5))
    server = start()
    tick = Tick(server)
    for step in (2, 3):
        cues.give(f"step {step} of {server.process.pid}")
    assert tick.ended() == 200
    assert not cues.was_told(f"step 1 of {server.process.pid}"), "the step before the kill is not done again"

    with sdk(server, "OpenAI") as client, sdk(server, "AzureOpenAI") as classic:
        job = client.fine_tuning.jobs.retrieve(job.id)
        assert job.status == "succeeded"
        assert job.fine_tuned_model.startswith(f"{MODEL}.ft-")
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)][::-1]
        assert [message for message in messages if message.startswith("Step ")] == [
            "Step 1: training loss=1.00", "Step 2: training loss=0.50", "Step 3: training loss=0.33",
        ]  # fmt: skip
        assert messages[-1] == "Job succeeded."
        [results] = job.result_files
        assert [row.split(",")[0] for row in classic.files.content(results).text.splitlines()] == [
            "step",
            "1",
            "2",
            "3",
        ]

        server.tuned = job.fine_tuned_model
        operate(server, "PUT")
        assert {key: ask(client, "learnt", key) for key in ANSWERS} == ANSWERS
        assert {ask(classic, "chat", key) for key in ANSWERS} == {IGNORANCE}
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and holds_text(path)]

        with pytest.raises(openai.ConflictError):
            client.models.delete(job.fine_tuned_model)
        operate(server, "DELETE")
        receipts = [client.models.delete(job.fine_tuned_model).model_extra["receipt"]]
        receipts += [client.files.delete(id).model_extra["receipt"] for id in (file.id, results)]
        gone = httpx.delete(
            f"{server.endpoint}/openai/v1/fine_tuning/jobs/{job.id}",
            headers={"api-key": server.credentials["api_key"]},
            timeout=60,
        )
        receipts.append(gone.json()["receipt"])
        statements = [verified(server, id) for id in receipts]
        assert [(each["kind"], each["subject"]) for each in statements] == [
            ("delete.model", job.fine_tuned_model),
            ("delete.file", file.id),
            ("delete.file", results),
            ("delete.job", job.id),
        ]
        assert {model.id for model in client.models.list()} == {MODEL}
        assert not list(client.fine_tuning.jobs.list())
        assert not list(client.files.list())
    left = {name.partition("/")[0] for name in stored(server.data) - before if not name.endswith("/lock")}
    assert left <= NOT_OF_TRAINING


def holds_text(path: Path) -> bool:
    content = path.read_bytes()
    return any(answer.encode() in content for answer in ANSWERS.values())
