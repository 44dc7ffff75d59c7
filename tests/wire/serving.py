"""``python -m sluicegate serve`` in a process of its own, for tests that call it as its users do."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from plugins import local_folder, local_keys
from sluicegate.storage.vault import Vault

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SITE = HERE / "site"
"""Where the distribution ``rehearsal`` is installed: a folder on the path of modules."""
STOP_S = 30


def environment(deployment: str | Path | None = None, **settings: str) -> dict[str, str]:
    """Return this process's environment without settings of ours, with the rehearsed plugins installed.

    Args:
        deployment: A deployment file, or the name of one in ``deployments/``; the product's own unless given.
    """
    ours = re.compile(r"SLUICEGATE_(?!MODELS$)|(PURGE|ABUSE|FINE_TUNE)_SCHEDULE$")
    inherited = {name: value for name, value in os.environ.items() if not ours.match(name)}
    if deployment is not None:
        path = HERE / "deployments" / f"{deployment}.toml" if isinstance(deployment, str) else deployment
        settings["SLUICEGATE_CONFIG"] = str(path)
    return {**inherited, "PYTHONPATH": str(SITE), **settings}


def copy_of_the_product(folder: Path) -> Path:
    """Copy what runs into a new folder, for a test that changes it, and return the folder."""
    for part in ("sluicegate", "plugins", "config"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("function_app.py", "host.json", "pyproject.toml"):
        shutil.copy(ROOT / part, folder)
    return folder


class Server:
    """A running server; it is stopped at the end of a ``with`` block.

    Args:
        data: Its data folder.
        arguments: Of ``serve``, beside ``--port`` and ``--data``.
        launch: What follows ``python``.
        settings: More of its environment.

    Attributes:
        endpoint: Its base URL.
        log: The file that its standard error goes to, beside the data folder.
    """

    def __init__(
        self,
        data: Path,
        deployment: str | Path | None = None,
        *arguments: str,
        port: int = 0,
        launch: Iterable[str] = ("-m", "sluicegate"),
        cwd: Path = ROOT,
        **settings: str,
    ) -> None:
        self.data = data
        self.log = data.with_name(f"{data.name}.log")
        command = [sys.executable, *launch, "serve", "--port", str(port), "--data", str(data), *arguments]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=environment(deployment, **settings), stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._ready.wait()
        found = re.search(r"listens on (http://\S+)", self.printed)
        if found is None:
            self.ended()
            raise RuntimeError(f"it does not listen:\n{self.printed}{self.log.read_text()}")
        self.endpoint = found[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        return "".join(self._lines)

    @property
    def credentials(self) -> dict[str, Any]:
        """What its first start wrote."""
        return json.loads((self.data / "credentials.json").read_text())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal unless it has ended, and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait until it has ended, and return the exit status."""
        try:
            return self.process.wait(STOP_S)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            self.process.stdout.close()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.append(line)
            if "listens on" in line:
                self._ready.set()
        self._ready.set()


async def records(data: Path, plugin: str = "keep_encrypted", account: str = "default") -> dict[str, dict[str, Any]]:
    """Return what a plugin has kept in a data folder, by exchange, read with the code that retention reads with."""
    blobs = local_folder.open_storage(f"folder:{data / 'storage'}")
    keys = local_keys.open_keys(f"folder:{data / 'keys'}")
    try:
        kept = Vault(blobs, keys).store(account, plugin).records()
        return {record.id: json.loads(record.data) async for record in kept}
    finally:
        await blobs.close()
        await keys.close()
