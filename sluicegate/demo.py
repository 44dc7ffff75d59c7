"""A guided tour: start a server on a throw-away folder, walk through it with the openai client, stop it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import openai

from sluicegate.app import Sluicegate
from sluicegate.cli.receipts import PUBLIC, save_receipts
from sluicegate.errors import StartupError
from sluicegate.storage.day_layout import CEILING_DAYS
from sluicegate.tenancy.first_run import CREDENTIALS, use_embedded_settings
from sluicegate.types import utc_now

SECRET = "My lucky number is 74093."  # noqa: S105 - what the tour looks for on disk


def main(root: Path) -> int:
    """Walk the tour; every step says what it does and shows what came of it."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-demo-") as folder:
        data = Path(folder)
        _say(1, "Start the server on a free port, with embedded storage, keys and models.")
        with _server(root, data) as endpoint:
            _show(f"it listens on {endpoint}")
            credentials = json.loads((data / CREDENTIALS).read_text())
            with openai.AzureOpenAI(
                azure_endpoint=endpoint, api_key=credentials["api_key"], api_version="2024-10-21"
            ) as client:
                _talk(client, credentials)
            _look(data)
            _purge_now(endpoint)
        _purge_later(root, data)
        _verify(root, data / "receipts")
    _say(10, "Done: the server is stopped and its folder removed.")
    return 0


def _talk(client: openai.AzureOpenAI, credentials: dict[str, Any]) -> None:
    chat = credentials["chat_deployment"]

    _say(2, "Chat, with the unmodified openai client.")
    question = "What is the capital of France?"
    answer = client.chat.completions.create(
        model=chat, messages=[{"role": "user", "content": question}], max_tokens=40, temperature=0
    )
    _show(f"user: {question}")
    _show(f"assistant: {answer.choices[0].message.content}")
    _show(f"tokens: {answer.usage.total_tokens if answer.usage else 'not counted'}")

    _say(3, "The same, streamed: each piece as the model makes it.")
    pieces = client.chat.completions.create(
        model=chat,
        messages=[{"role": "user", "content": "Write one sentence about the sea."}],
        temperature=0,
        stream=True,
    )
    _show(" | ".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices))

    _say(4, "Embeddings: related sentences lie close together.")
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", SECRET]
    vectors = [
        row.embedding for row in client.embeddings.create(model=credentials["embedding_deployment"], input=texts).data
    ]
    _show(
        f"cat and kitten {_cosine(vectors[0], vectors[1]):.2f}, cat and lucky number {_cosine(vectors[0], vectors[2]):.2f}"
    )

    _say(5, "A prompt with a blocked term is refused in Azure's form; the model never sees it.")
    try:
        client.chat.completions.create(
            model=chat, messages=[{"role": "user", "content": "Tell me about Project Nightjar."}]
        )
    except openai.BadRequestError as error:
        inner: Any = error.body
        _show(f"HTTP {error.status_code}, code {error.code}")
        _show(f"verdict: {json.dumps(inner['innererror']['content_filter_result'])}")


def _look(data: Path) -> None:
    _say(6, "What was kept: each exchange, sealed under today's key, in batches that only ciphertext can be read from.")
    batches = sorted(path for path in (data / "storage").glob("ret-*/**/*") if path.is_file())
    for path in batches:
        _show(f"{path.relative_to(data)}  {path.stat().st_size} bytes")
    if batches:
        _show(f"the last 24 bytes of one: {batches[0].read_bytes()[-24:].hex(' ')}")
    found = [path for path in data.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    _show(f"files that hold the words {SECRET!r}: {len(found)}")


def _purge_now(endpoint: str) -> None:
    _say(7, "The purge timer, fired by hand: nothing is due today.")
    request = Request(f"{endpoint}/admin/functions/purge", method="POST", headers={"prefer": "wait"})  # noqa: S310 - loopback
    with urlopen(request) as response:  # noqa: S310 - loopback
        _show(f"HTTP {response.status}")


def _purge_later(root: Path, data: Path) -> None:
    _say(8, f"The same purge {CEILING_DAYS} days from now: the day's key is destroyed first, then its data.")

    async def purge() -> None:
        gate = Sluicegate(root, settings, now=lambda: utc_now() + timedelta(days=CEILING_DAYS))
        try:
            await gate.purge()
            await save_receipts(gate.regions.home.receipts, data / "receipts", io.StringIO())
        finally:
            await gate.shutdown()

    day = f"{utc_now():%Y%m%d}"
    settings = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")}
    use_embedded_settings(settings, data)
    asyncio.run(purge())
    left = [path for path in data.rglob("*") if path.is_file() and f"ret-{day}" in str(path.relative_to(data))]
    _show(f"files of that day and its keys left: {len(left)}")


def _verify(root: Path, folder: Path) -> None:
    _say(
        9, "The receipt of that day, checked by a command that is given the receipt and a public key, and nothing else."
    )
    receipts = {path: json.loads(path.read_text()) for path in folder.glob("deployment-*.json")}
    path = max(receipts, key=lambda each: sum(found["bytes"] for found in receipts[each]["removed"]))
    command = [sys.executable, "-m", "sluicegate", "verify-receipt", str(path), "--key", str(folder / PUBLIC)]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own
    for line in said.splitlines():
        _show(line)


@contextmanager
def _server(root: Path, data: Path) -> Iterator[str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_S")}
    command = [sys.executable, "-m", "sluicegate", "serve", "--port", "0", "--data", str(data)]
    process = subprocess.Popen(command, cwd=root, env=settings, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    assert process.stdout is not None  # noqa: S101 - for the type checker
    try:
        for line in process.stdout:
            if found := re.search(r"listens on (http://\S+)", line):
                yield found[1]
                break
        else:
            raise StartupError("the demo's server did not start; its message is above")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _say(step: int, text: str) -> None:
    print(f"\n{step}. {text}", flush=True)


def _show(text: str) -> None:
    print(f"   {text}".rstrip(), flush=True)
