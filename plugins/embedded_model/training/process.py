"""One bounded step of a job: start the training process, tell it what to do, take what it returns.

The process is apart from the server so that it takes as little of its time as it can: its niceness is 19, and its arithmetic runs on one
thread, because several that wait for each other collapse as soon as somebody else wants a core. It gets everything through a
pipe, and ends with this one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from plugins.embedded_model.training import frames
from plugins.embedded_model.training.order import MOST_BATCH, Order
from sluicegate import TrainingFailed
from sluicegate.errors import ModelUnavailable
from sluicegate.training import Checkpoint, Hyperparameters, Metrics, TrainingFiles, TrainingJob, TrainingStep
from sluicegate.types import utc_now

_ROOT = Path(__file__).parents[3]
_SAVING = timedelta(seconds=10)
"""Kept of a step's time for writing down what it has done."""
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


async def step(
    job: TrainingJob, files: TrainingFiles, deadline: datetime, weights: Path, *, longest: int, most: int
) -> TrainingStep:
    """Train until shortly before ``deadline``, as :meth:`sluicegate.hookspecs.Hooks.fine_tune` says.

    Args:
        weights: The base model's file.
        longest, most: Tokens of an example, and of the training file.
    """
    wanted, state = job.hyperparameters, job.state
    if wanted.batch_size is not None and wanted.batch_size > MOST_BATCH:
        raise TrainingFailed(
            f"The embedded model takes a batch_size of at most {MOST_BATCH}.", code="invalidHyperparameters"
        )
    begun = utc_now()
    order = Order(
        str(weights),
        job.method,
        wanted.n_epochs,
        wanted.batch_size,
        wanted.learning_rate_multiplier,
        wanted.beta,
        job.seed,
        longest,
        most,
        max(0.0, (deadline - _SAVING - begun).total_seconds()),
        state.get("step", 0),
        state.get("tokens", 0),
        job.is_pausing,
    )
    for stale in filter(None, [state.get("before")]):
        await files.delete(stale)
    async with _process() as process:
        await _tell(process, order, files, state.get("file"))
        taken = _Taken(files, state.get("step", 0))
        await taken.all_of(process)
    return taken.result(job, begun)


class _Taken:
    """What the process has returned so far."""

    def __init__(self, files: TrainingFiles, before: int) -> None:
        self._files = files
        self._before = before
        self._metrics: list[Metrics] = []
        self._checkpoints: list[Checkpoint] = []
        self._state: list[bytes] = []
        self._done: dict[str, Any] | None = None

    async def all_of(self, process: asyncio.subprocess.Process) -> None:
        """Read to the end.

        Raises:
            TrainingFailed: The process says that it cannot train.
            ModelUnavailable: It ended without a word, for example for want of memory.
        """
        async for kind, payload in _frames(process):
            if kind == frames.ROW:
                self._metrics.append(_metrics(json.loads(payload)))
            elif kind == frames.CHECKPOINT:
                name = f"checkpoint-{self._metrics[-1].step}"
                await self._files.write(name, _pieces([payload]))
                self._checkpoints.append(Checkpoint(self._metrics[-1], name))
            elif kind == frames.STATE:
                self._state.append(payload)
            elif kind == frames.FAILED:
                raise TrainingFailed(f"The embedded model cannot learn from {payload.decode()}.", param="training_file")
            elif kind == frames.DONE:
                self._done = json.loads(payload)
                if self._state:
                    await self._files.write(f"state-{self._done['step']}", _pieces(self._state))
        if self._done is None:
            raise ModelUnavailable("The training process ended early; its step is taken again.", retry_after_s=30)

    def result(self, job: TrainingJob, begun: datetime) -> TrainingStep:
        """Return what the step has done."""
        done = self._done or {}
        finished = done["step"] >= done["steps"]
        now = utc_now()
        pace = (now - begun) / max(1, done["step"] - self._before)
        following: dict[str, Any] = {"step": done["step"], "tokens": done["tokens"], "before": job.state.get("file")}
        if not finished:
            following["file"] = f"state-{done['step']}"
        return TrainingStep(
            following,
            finished,
            Hyperparameters(done["epochs"], done["batch"], done["multiplier"], done["beta"]),
            tuple(self._metrics),
            tuple(self._checkpoints),
            done["tokens"],
            tuple(_messages(done)) if not job.state else (),
            now if finished else now + pace * (done["steps"] - done["step"]),
        )


@asynccontextmanager
async def _process() -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the process; end it when this is left, however."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "plugins.embedded_model.training.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # A traceback may quote an example.
        stderr=asyncio.subprocess.DEVNULL,
        cwd=_ROOT,
        env={
            **{
                name: os.environ[name]
                for name in ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")
                if name in os.environ
            },
            **dict.fromkeys(_ONE_THREAD, "1"),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        if process.stdin:
            process.stdin.close()
        await process.wait()


async def _tell(process: asyncio.subprocess.Process, order: Order, files: TrainingFiles, state: str | None) -> None:
    start = files.starting_weights()
    sources: list[tuple[bytes, AsyncIterable[bytes] | None]] = [
        (frames.PLAN, _pieces([json.dumps(asdict(order)).encode()])),
        (frames.TRAINING, files.training()),
        (frames.VALIDATION, files.validation()),
        (frames.WEIGHTS, start.read() if start else None),
        (frames.STATE, files.read(state) if state else None),
        (frames.GO, _pieces([b""])),
    ]
    pipe = process.stdin
    assert pipe is not None  # noqa: S101 - it was asked for
    # A process that is gone shows by what it does not answer.
    with suppress(ConnectionError):
        for kind, source in sources:
            if source is None:
                continue
            async for piece in source:
                for part in frames.pieces(piece) if piece else (b"",):
                    pipe.write(frames.frame(kind, part))
                    await pipe.drain()


async def _frames(process: asyncio.subprocess.Process) -> AsyncIterator[tuple[bytes, bytes]]:
    pipe = process.stdout
    assert pipe is not None  # noqa: S101 - it was asked for
    with suppress(asyncio.IncompleteReadError):
        while True:
            kind, length = frames.HEAD.unpack(await pipe.readexactly(frames.HEAD.size))
            yield kind, await pipe.readexactly(length)


async def _pieces(data: list[bytes]) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def _metrics(row: dict[str, Any]) -> Metrics:
    return Metrics(row.pop("step"), row.pop("train_loss"), row.pop("train_mean_token_accuracy"), **row)


def _messages(done: dict[str, Any]) -> list[str]:
    said = []
    if done["cut"]:
        said.append(f"{done['cut']} examples are longer than the model can learn from; what is beyond was cut off.")
    if done["left_out"]:
        said.append(f"{done['left_out']} examples had nothing left to learn then, and were left out.")
    return said
