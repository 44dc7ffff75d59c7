"""``kill -9`` under load: every exchange whose answer was complete is kept, and nothing is on disk in plain text."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from pathlib import Path

import httpx

from tests.wire.cues import play
from tests.wire.serving import Server, records

CALLERS = 8
ROUNDS = (1, 40, 150)
"""How many answers are complete when the server is killed."""
MARK = "plaintext-mark"


class Load:
    """Callers who ask until the server is gone.

    Attributes:
        completed: What was asked, by the id of the exchange, where the answer was complete.
    """

    def __init__(self, server: Server) -> None:
        self.completed: dict[str, str] = {}
        self._server = server
        self._changed = threading.Condition()
        self._callers = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]
        for caller in self._callers:
            caller.start()

    def wait_for(self, count: int) -> None:
        """Wait until so many answers are complete."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.completed) >= count, timeout=60)

    def join(self) -> None:
        """Wait until every caller has met the end of the server."""
        for caller in self._callers:
            caller.join()

    def _call(self, caller: int) -> None:
        headers = {"api-key": self._server.credentials["api_key"]}
        with httpx.Client(base_url=f"{self._server.endpoint}/openai/v1/", headers=headers, timeout=60) as client:
            for number in itertools.count():
                text = f"{MARK} {caller}.{number}"
                try:
                    exchange = ask(client, text, kind=(caller + number) % 3)
                except httpx.TransportError:
                    return
                with self._changed:
                    self.completed[exchange] = text
                    self._changed.notify_all()


def ask(client: httpx.Client, text: str, kind: int) -> str:
    """Return the exchange's id once its answer is complete."""
    if kind == 2:
        response = client.post("embeddings", json={"model": "embedding", "input": text})
    else:
        messages = [{"role": "system", "content": text}, {"role": "user", "content": play("An ", "answer ", text)}]
        body = {"model": "chat", "messages": messages, "stream": kind == 1}
        response = client.post("chat/completions", json=body)
        if kind == 1 and not response.text.endswith("data: [DONE]\n\n"):
            raise httpx.RemoteProtocolError("the answer is not complete")
    assert response.status_code == 200
    return response.headers["x-request-id"]


async def test_what_was_answered_before_a_kill_is_kept(tmp_path):
    data = tmp_path / "data"
    completed: dict[str, str] = {}

    for count in ROUNDS:
        with Server(data, "full") as server:
            load = Load(server)
            load.wait_for(count)
            os.kill(server.process.pid, signal.SIGKILL)
            load.join()
            completed |= load.completed

        kept = await records(data)
        assert completed.keys() <= kept.keys()
        assert all(text in str(kept[exchange]["request"]) for exchange, text in completed.items())
        assert not plain(data)

    assert len(completed) >= sum(ROUNDS)


def plain(data: Path) -> list[Path]:
    """Return the files that hold a text of the load as it is."""
    return [path for path in data.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]
