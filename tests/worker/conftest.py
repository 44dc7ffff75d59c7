"""Both servers of an app, each in a process of its own: the official worker and the embedded host."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SAMPLE_APP = HERE / "sample_app"
EMBEDDED_HOST = """
import logging, sys
from pathlib import Path
sys.path += sys.argv[1:]
from sluicegate.host import run

logging.basicConfig()
run(Path(sys.argv[1]), port=0, on_ready=lambda url: print(url, flush=True))
"""

Start = Callable[..., str]


@dataclass(frozen=True)
class Running:
    """A server that was started here."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def logged(self) -> str:
        """Return what the process has written to its standard error so far."""
        return self.log.read_text()


class Servers:
    """Starts a server for an app once, and stops every one of them by its process id."""

    def __init__(self, command: Callable[[Path], list[str]], logs: Path) -> None:
        self._command = command
        self._logs = logs
        self._running: dict[tuple[Path, tuple[tuple[str, str], ...]], Running] = {}

    def __call__(self, app_dir: Path, env: Mapping[str, str] | None = None) -> str:
        """Return the base URL at which the app is served, with ``env`` added to the environment."""
        return self.running(app_dir, env).url

    def running(self, app_dir: Path, env: Mapping[str, str] | None = None) -> Running:
        """Like a call, with the process and its log."""
        key = (app_dir, tuple(sorted((env or {}).items())))
        if key not in self._running:
            self._running[key] = self._start(app_dir, env or {})
        return self._running[key]

    def stop(self) -> None:
        """Stop the servers."""
        for running in self._running.values():
            running.process.terminate()
        for running in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(20)
            running.process.kill()
            running.process.communicate()

    def _start(self, app_dir: Path, env: Mapping[str, str]) -> Running:
        environ = {**os.environ, "PYTHONSAFEPATH": "1", **env}
        log = self._logs / f"{len(self._running)}.log"
        command = [sys.executable, *self._command(app_dir)]
        with log.open("w") as errors:
            process = subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        running = Running(f"http://127.0.0.1:{line.rpartition(':')[2]}", process, log)
        if not line:
            process.wait()
            raise RuntimeError(f"no server for {app_dir}:\n{running.logged()}")
        return running


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """``worker(app_dir, env)`` serves an app with the official worker and returns the base URL."""
    logs = tmp_path_factory.mktemp("worker")
    servers = Servers(lambda app_dir: [str(HERE / "harness.py"), str(app_dir), "--serve", "0"], logs)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """``embedded(app_dir, env)`` serves an app with the embedded host and returns the base URL."""
    logs = tmp_path_factory.mktemp("embedded")
    servers = Servers(lambda app_dir: ["-c", EMBEDDED_HOST, str(app_dir), str(REPOSITORY)], logs)
    yield servers
    servers.stop()


@pytest.fixture(params=["worker", "embedded"])
def server(request: pytest.FixtureRequest) -> Running:
    """The sample app, served by each of the two."""
    servers: Servers = request.getfixturevalue(request.param)
    return servers.running(SAMPLE_APP, {"TICK_SCHEDULE": "0 0 0 1 1 *"})


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    """A client of the sample app."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
