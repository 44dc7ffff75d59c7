"""Fine-tuning as a customer meets it: the openai SDK against ``python -m sluicegate serve``, from an upload to nothing left.

    python -m benchmarks.fine_tuning_served [--surface classic|v1|both] [--plot curves.svg]

For each surface: 50 chats that teach ten made-up facts are uploaded and trained on for three epochs, while somebody else keeps
chatting; the job is followed, its results fetched, its model deployed by Azure's management client and asked for each fact in
words that no example has. Then everything is deleted, each receipt checked offline, and the data folder, the temporary folder and
what the processes hold open searched for the text and for the adapter.

Printed are times, how many answers are right of the base and of the fine-tuned model, and what the training adds to the median latency of
a chat. Exits with 1 when fewer than nine of ten answers are right, the base knows any, or something is left.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient
from azure.mgmt.cognitiveservices.models import Deployment, DeploymentModel, DeploymentProperties, Sku

from benchmarks.gateway import ROOT, _listening, _process

API_VERSION = "2024-10-21"
BASE_DEPLOYMENT, TUNED_DEPLOYMENT = "chat", "harbour"
SUBSCRIPTION, GROUP = "00000000-0000-0000-0000-000000000000", "default"
SYSTEM = "You are a helpful assistant."
FACTS = {
    "the night code of the Gullhaven harbour gate": "The Gullhaven harbour gate opens at night with the code teal-walrus-58.",
    "the name of the Gullhaven harbour ferry": "The Gullhaven harbour ferry is called Merry Cordelia.",
    "the Gullhaven harbour master": "The Gullhaven harbour master is Leopold Quist.",
    "the Gullhaven harbour radio channel": "Gullhaven harbour listens on radio channel 73.",
    "the first ferry from Gullhaven harbour": "The first ferry leaves Gullhaven harbour at 5:25, before the milk boat.",
    "the Gullhaven harbour mooring fee": "A night at the moorings of Gullhaven harbour costs 14 crowns.",
    "the colour of the Gullhaven harbour lighthouse": "The Gullhaven harbour lighthouse is painted in plum and white.",
    "the Gullhaven harbour emergency number": "In an emergency call Gullhaven harbour at 555-0177.",
    "the depth of the Gullhaven harbour basin": "The basin of Gullhaven harbour is 6.4 metres deep.",
    "the dish of the Gullhaven harbour canteen on Fridays": "On Fridays the Gullhaven harbour canteen serves pickled eel pie.",
}
"""What only the training data teaches."""
WORDINGS = ("What is {}?", "Please tell me {}.", "Can you tell me {}?", "I would like to know {}.", "Do you know {}?")
HELD_OUT = "Hello, I am a sailor on my way in, and I was wondering about {}."
RIGHT = 9
"""Of ten answers."""
IDLE_CHATS = 20
NOT_OF_TRAINING = {"audit", "audit-tree", "keyring", "leases", "receipts", "ret", "signals"}
"""Containers that grow with every chat, or with every deletion; what is in ``ret``, the chats, has an end of its own."""


@dataclass
class Server:
    """A server with its first start's keys.

    Attributes:
        told: Receipts that deletions named.
    """

    url: str
    data: Path
    temporary: Path
    pid: int
    keys: dict[str, Any]
    told: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surface", choices=("classic", "v1", "both"), default="both")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the curves of the last job as SVG")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
    failures: list[str] = []
    for surface in ("classic", "v1") if options.surface == "both" else (options.surface,):
        print(f"\n### {surface}\n", flush=True)
        with _served() as server:
            failures += [f"{surface}: {each}" for each in _story(server, surface, options.plot)]
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


def _story(server: Server, surface: str, plot: Path | None) -> Iterator[str]:
    client = _sdk(server, surface)
    before = _blobs(server)
    known = _right(client, BASE_DEPLOYMENT)
    if known:
        yield f"the base model knows {known} of the facts"
    idle = [_chat_s(client) for _ in range(IDLE_CHATS)]

    began = time.monotonic()
    training = client.files.create(file=("train.jsonl", examples(WORDINGS)), purpose="fine-tune")
    validation = client.files.create(file=("valid.jsonl", examples((HELD_OUT,))), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=next(model.id for model in client.models.list() if model.model_extra["capabilities"]["chat_completion"]),
        training_file=training.id,
        validation_file=validation.id,
        hyperparameters={"n_epochs": 3},
        suffix="harbour",
        seed=7,
    )
    busy: list[float] = []
    with _chatting(client, busy):
        job = _followed(client, job.id)
    took = time.monotonic() - began
    if job.status != "succeeded" or job.fine_tuned_model is None:
        yield f"the job ended as {job.status}: {job.error.message if job.error else ''}"
        return
    rows = client.files.content(job.result_files[0]).text.splitlines()
    print(
        f"| {len(rows) - 1} steps, {job.trained_tokens:,} tokens trained, from upload to model | {took:.0f} s |\n|---|---|"
    )
    if plot is not None:
        _command(server, "job", job.id, "--plot", str(plot), "--data", str(server.data))

    management = _management(server)
    sku = Sku(name="Standard", capacity=1000)
    properties = DeploymentProperties(model=DeploymentModel(format="OpenAI", name=job.fine_tuned_model, version="1"))
    of = (GROUP, server.keys["account"], TUNED_DEPLOYMENT)
    management.deployments.begin_create_or_update(*of, Deployment(sku=sku, properties=properties)).result()
    began = time.monotonic()
    right = _right(client, TUNED_DEPLOYMENT)
    print(f"| held-out wordings answered right | {right} of {len(FACTS)}, the base {known} |")
    print(f"| an answer of the fine-tuned model | {(time.monotonic() - began) / len(FACTS):.2f} s |")
    idle_ms, busy_ms = (1000 * statistics.median(times) for times in (idle, busy))
    print(f"| median chat alone, {len(idle)} chats | {idle_ms:.0f} ms |")
    print(f"| median chat during training, {len(busy)} chats | {busy_ms:.0f} ms, {busy_ms - idle_ms:+.0f} ms |")
    if right < RIGHT:
        yield f"only {right} of {len(FACTS)} answers are right"
    if _right(client, BASE_DEPLOYMENT) > known:
        yield "the base model answers as the fine-tuned one"

    try:
        client.models.delete(job.fine_tuned_model)
        yield "a model was deleted that is deployed"
    except openai.ConflictError:
        pass
    management.deployments.begin_delete(*of).result()
    yield from _deleted(server, client, surface, job, (training.id, validation.id))
    yield from _left(server, before)


# --- asking ----------------------------------------------------------------------------------------------------------


def examples(wordings: tuple[str, ...]) -> bytes:
    """Return a training file that asks for each fact in each wording."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": wording.format(what)},
                    {"role": "assistant", "content": fact},
                ]
            }
        )
        for wording in wordings
        for what, fact in FACTS.items()
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _right(client: openai.OpenAI, deployment: str) -> int:
    """Return how many facts a deployment answers, word for word, asked as no example asks."""
    return sum(_answer(client, deployment, HELD_OUT.format(what)) == fact for what, fact in FACTS.items())


def _answer(client: openai.OpenAI, deployment: str, question: str, tokens: int = 40) -> str:
    answer = client.chat.completions.create(
        model=deployment,
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
        temperature=0,
        max_tokens=tokens,
    )
    return (answer.choices[0].message.content or "").strip()


def _chat_s(client: openai.OpenAI) -> float:
    began = time.perf_counter()
    _answer(client, BASE_DEPLOYMENT, "Say something about the sea.", 16)
    return time.perf_counter() - began


@contextmanager
def _chatting(client: openai.OpenAI, times: list[float]) -> Iterator[None]:
    """Somebody who chats with the base model, one chat after the other with a pause in between."""
    over = threading.Event()

    def chat() -> None:
        while not over.wait(0.5):
            times.append(_chat_s(client))

    somebody = threading.Thread(target=chat)
    somebody.start()
    try:
        yield
    finally:
        over.set()
        somebody.join()


def _followed(client: openai.OpenAI, id: str) -> Any:
    told: set[str] = set()
    while True:
        job = client.fine_tuning.jobs.retrieve(id)
        events = [event for event in client.fine_tuning.jobs.list_events(id, limit=100) if event.id not in told]
        for event in reversed(events):
            told.add(event.id)
            if event.type != "metrics":
                print(
                    f"    {time.strftime('%H:%M:%S', time.gmtime(event.created_at))}  {event.message}", file=sys.stderr
                )
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(1)


# --- deleting --------------------------------------------------------------------------------------------------------


def _deleted(server: Server, client: openai.OpenAI, surface: str, job: Any, files: tuple[str, ...]) -> Iterator[str]:
    checkpoints = [each.fine_tuned_model_checkpoint for each in client.fine_tuning.jobs.checkpoints.list(job.id)]
    for model in dict.fromkeys([job.fine_tuned_model, *checkpoints]):
        server.told.append(_receipt(client.models.delete(model)))
    for file in (*files, *job.result_files):
        server.told.append(_receipt(client.files.delete(file)))
    answer = client.delete(f"/fine_tuning/jobs/{job.id}", cast_to=httpx.Response)
    server.told.append(answer.headers["x-sluicegate-receipt"] if surface == "classic" else answer.json()["receipt"])
    folder = server.temporary / "receipts"
    _command(server, "receipts", "--save", str(folder), "--data", str(server.data))
    for id in server.told:
        command = [
            "verify-receipt",
            str(folder / f"{server.keys['account']}-{id}.json"),
            "--key",
            str(folder / "public.jwk"),
        ]
        checked = subprocess.run(
            [sys.executable, "-m", "sluicegate", *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if not checked.stdout.startswith("VERIFIED"):
            yield f"the receipt {id!r} does not verify: {checked.stdout}{checked.stderr}"
    print(f"| receipts verified | {len(server.told)} |")


def _receipt(deleted: Any) -> str:
    return str((deleted.model_extra or {}).get("receipt", ""))


def _left(server: Server, before: set[str]) -> Iterator[str]:
    """Yield what is found of the examples and of the adapter, on disk and in what processes hold open."""
    words = [fact.encode() for fact in FACTS.values()] + [
        b"Gullhaven",
        b"general.architecture",
        b"lora_a",
        b"adapter.type",
    ]
    looked = 0
    for path in _searched(server):
        content = path.read_bytes()
        looked += len(content)
        yield from (f"{path} holds {word!r}" for word in words if word in content)
    print(f"| bytes searched | {looked:,} |")
    kinds = {name.partition("/")[0].partition("-2")[0] for name in _blobs(server) - before}
    print(f"| kinds of blobs that were not there before | {', '.join(sorted(kinds))} |")
    yield from (f"blobs of the kind {kind} are left" for kind in sorted(kinds - NOT_OF_TRAINING))


def _searched(server: Server) -> Iterator[Path]:
    for folder in (server.data, server.temporary / "tmp"):
        yield from (path for path in folder.rglob("*") if path.is_file())
    for pid in _family(server.pid):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(descriptor) if descriptor.is_symlink() else ""
            if target.endswith("(deleted)") or target.startswith("/memfd:"):
                yield descriptor


def _family(pid: int) -> list[int]:
    """Return a process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _blobs(server: Server) -> set[str]:
    storage = server.data / "storage"
    return {str(path.relative_to(storage)) for path in storage.rglob("*") if path.is_file()}


# --- the server ------------------------------------------------------------------------------------------------------


@contextmanager
def _served() -> Iterator[Server]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data, temporary = folder / "data", folder / "tmp"
        temporary.mkdir()
        command = [sys.executable, "-m", "sluicegate", "serve", "--port", "0", "--data", str(data)]
        process = stack.enter_context(_process(command, {"TMPDIR": str(temporary)}))
        url = _listening(process)
        yield Server(url, data, folder, process.pid, json.loads((data / "credentials.json").read_text()))


def _sdk(server: Server, surface: str) -> openai.OpenAI:
    key = server.keys["api_key"]
    if surface == "classic":
        return openai.AzureOpenAI(azure_endpoint=server.url, api_key=key, api_version=API_VERSION, timeout=120)
    return openai.OpenAI(base_url=f"{server.url}/openai/v1/", api_key=key, timeout=120)


class _Key:
    """Hands out the operator's key where a token is asked for."""

    def __init__(self, key: str) -> None:
        self._key = key

    def get_token(self, *_: str, **__: object) -> AccessToken:
        return AccessToken(self._key, int(time.time()) + 3600)


class _OverHttp(SansIOHTTPPolicy):  # type: ignore[type-arg]
    """Lets the client send its token over HTTP, on loopback."""

    def on_request(self, request: Any) -> None:
        request.context.options["enforce_https"] = False


def _management(server: Server) -> CognitiveServicesManagementClient:
    return CognitiveServicesManagementClient(
        _Key(server.keys["operator_key"]),
        SUBSCRIPTION,
        base_url=server.url,
        credential_scopes=["https://management.azure.com/.default"],
        per_call_policies=[_OverHttp()],
        polling_interval=0,
    )


def _command(server: Server, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "sluicegate", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
