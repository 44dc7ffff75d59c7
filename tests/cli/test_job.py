"""The command ``job`` against a server on loopback."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sluicegate.cli import job as command
from sluicegate.errors import SluicegateError
from tests.plugins.training_upstream import RESULTS, TrainingUpstream, training_upstream

FIELDS = {
    "id": "ftjob-1",
    "object": "fine_tuning.job",
    "status": "running",
    "model": "small",
    "fine_tuned_model": None,
    "created_at": 1732000000,
    "finished_at": None,
    "training_file": "file-1",
    "validation_file": None,
    "result_files": [],
    "trained_tokens": None,
    "error": None,
    "seed": 7,
    "hyperparameters": {"n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 1.5},
    "estimated_finish": None,
}


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[TrainingUpstream]:
    async with training_upstream() as server:
        server.jobs["ftjob-1"] = dict(FIELDS)
        (tmp_path / "credentials.json").write_text(json.dumps({"endpoint": server.root, "api_key": "key"}))
        yield server


@pytest.fixture
def run(server, tmp_path, capsys) -> Callable[..., object]:
    """Runs the command and returns its exit status and what it printed."""

    async def run(*given: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        command.add_command(parser.add_subparsers())
        arguments = parser.parse_args(["job", *given, "--data", str(tmp_path)])
        status = await asyncio.to_thread(command.job_command, arguments)
        return status, capsys.readouterr().out

    return run


def succeed(server: TrainingUpstream) -> None:
    server.contents["file-r"] = RESULTS.encode()
    server.job.update(
        status="succeeded", fine_tuned_model="small.ft-1", finished_at=1732000090, result_files=["file-r"]
    )


async def test_jobs_are_listed(server, run):
    status, printed = await run()

    assert status == 0
    assert "ftjob-1  running  small       2024-11-19 07:06" in printed


async def test_a_job_that_runs_shows_its_state_events_and_curves_so_far(server, run):
    server.happened(None, "Job started.", at=1732000001)
    for step in (1, 2):
        server.happened(step, f"Step {step}")

    status, printed = await run("ftjob-1")

    assert status == 0
    assert printed.startswith("ftjob-1: running\n")
    assert "  progress          running, step 2, train loss 2.500\n" in printed
    assert "supervised: 2 epochs, batch size 1, learning rate multiplier 1.5, seed 7" in printed
    assert "  07:06:41  Job started.\n" in printed
    assert "Step 1" not in printed, "numbers are drawn, not listed"
    assert "token accuracy" in printed


async def test_a_finished_job_is_drawn_from_its_results(server, run, tmp_path):
    succeed(server)

    status, printed = await run("ftjob-1", "--plot", str(tmp_path / "curves.svg"))

    assert status == 0
    assert "  fine-tuned model  small.ft-1\n" in printed
    assert "2024-11-19 07:08:10 UTC, after 0:01:30" in printed
    picture = (tmp_path / "curves.svg").read_text()
    assert picture.startswith("<svg")
    assert ">small.ft-1</text>" in picture
    assert ">supervised: 2 epochs, batch size 1, learning rate multiplier 1.5, seed 7</text>" in picture


async def test_results_that_were_deleted_leave_the_numbers_of_the_events(server, run):
    server.happened(1)
    succeed(server)
    del server.contents["file-r"]

    status, printed = await run("ftjob-1")

    assert status == 0
    assert "token accuracy" in printed


async def test_following_tells_each_event_once_and_ends_with_the_job(server, run, monkeypatch, capsys):
    server.happened(None, "Job started.")
    pauses = []

    def pause(_seconds: float) -> None:
        pauses.append(1)
        server.happened(None, f"Pause {len(pauses)}.")
        if len(pauses) == 2:
            succeed(server)

    follow = command._View.follow
    monkeypatch.setattr(command._View, "follow", lambda view, _out: follow(view, said, pause=pause))
    said = io.StringIO()

    status, _ = await run("ftjob-1", "--follow")

    assert status == 0
    assert re.findall(r"  (\w.*)", said.getvalue()) == ["Job started.", "Pause 1.", "Pause 2."]


async def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(server, run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said = Terminal()
    server.happened(1)
    server.events["ftjob-1"][0]["data"]["total_steps"] = 4
    follow = command._View.follow
    monkeypatch.setattr(
        command._View, "follow", lambda view, _out: follow(view, said, pause=lambda _seconds: succeed(server))
    )

    await run("ftjob-1", "--follow")

    assert "[#######                       ]  25%  running, step 1 of 4, train loss 3.500" in said.getvalue()
    assert said.getvalue().endswith("\r\x1b[K")


async def test_a_failed_job_says_why_and_is_a_failure(server, run):
    server.job.update(status="failed", error={"code": "invalidFile", "message": "Line 3 is empty.", "param": None})

    status, printed = await run("ftjob-1")

    assert status == 1
    assert printed.startswith("ftjob-1: failed\n  Line 3 is empty. (code invalidFile)\n")


async def test_what_cannot_be_shown_is_said(server, run, tmp_path, monkeypatch):
    with pytest.raises(SluicegateError, match="the server answered 404"):
        await run("ftjob-2")
    with pytest.raises(SluicegateError, match="has measured no step"):
        await run("ftjob-1", "--plot", str(tmp_path / "curves.svg"))
    monkeypatch.delenv(command.KEY_SETTING, raising=False)
    with pytest.raises(SluicegateError, match=command.KEY_SETTING):
        await run("ftjob-1", "--endpoint", server.root)
    Path(tmp_path / "credentials.json").unlink()
    with pytest.raises(SluicegateError, match="name a server with --endpoint"):
        await run("ftjob-1")


async def test_a_server_that_is_away_is_named(run, monkeypatch, unused_tcp_port):
    monkeypatch.setenv(command.KEY_SETTING, "key")

    with pytest.raises(SluicegateError, match=f"127.0.0.1:{unused_tcp_port} cannot be reached"):
        await run("ftjob-1", "--endpoint", f"http://127.0.0.1:{unused_tcp_port}")
