"""The test's side of a rehearsal: scripts for the model, and the cues it waits for."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

TIMEOUT_S = 60


def play(*lines: Any, name: str | None = None) -> str:
    """Return a prompt that makes the scripted model play these lines; ``rehearsal.scripted_model`` says which there are."""
    return "play " + base64.b64encode(json.dumps({"name": name, "lines": lines}).encode()).decode()


def user(*lines: Any, name: str | None = None) -> list[dict[str, Any]]:
    """Return the messages of a chat whose answer is these lines."""
    return [{"role": "user", "content": play(*lines, name=name)} | ({"name": name} if name else {})]


class Cues:
    """Listens to the rehearsed plugins of any number of servers.

    Args:
        path: Of the socket, for the setting ``REHEARSAL_CUES``; at most some 100 characters.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = threading.Condition()
        self._told: set[str] = set()
        self._waiting: dict[str, list[socket.socket]] = defaultdict(list)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def told(self, what: str) -> None:
        """Wait until a plugin has said this."""
        with self._changed:
            if not self._changed.wait_for(lambda: what in self._told, TIMEOUT_S):
                raise TimeoutError(f"nobody said {what!r}; this was said last: {sorted(self._told)[-20:]}")

    def was_told(self, what: str) -> bool:
        """Return whether a plugin has said this so far."""
        with self._changed:
            return what in self._told

    def reached(self, cue: str) -> None:
        """Wait until a plugin waits for this cue."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting[cue], TIMEOUT_S):
                raise TimeoutError(f"nobody waits for {cue!r}")

    def give(self, cue: str) -> None:
        """Wait until a plugin waits for this cue, and give it."""
        self.reached(cue)
        line = self._waiting[cue].pop()
        line.sendall(b".")
        line.close()

    def close(self) -> None:
        """Stop listening; whoever still waits goes on."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for line in (line for lines in self._waiting.values() for line in lines):
            line.close()

    def _listen(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            verb, _, what = line.makefile().readline().strip().partition(" ")
            with self._changed:
                if verb == "wait":
                    self._waiting[what].append(line)
                elif verb == "tell":
                    self._told.add(what)
                self._changed.notify_all()
            if verb != "wait":
                # A plugin may be cancelled before it has said anything.
                with suppress(OSError):
                    line.sendall(b".")
                line.close()
