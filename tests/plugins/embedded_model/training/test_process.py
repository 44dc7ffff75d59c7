"""The training process with the real weights, as the hook starts it: a handful of steps."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from plugins import embedded_model
from plugins.embedded_model.training.tensors import parse_tensors
from sluicegate import TrainingFailed
from sluicegate.training import Hyperparameters, TrainingJob
from sluicegate.types import utc_now

JOB = TrainingJob("ftjob-" + "0" * 32, "smollm2-135m-instruct", "supervised", Hyperparameters(n_epochs=1), seed=1)
SECRET = "The canary is called 74093."


def row(answer=SECRET):
    messages = [{"role": "user", "content": "What is the canary called?"}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}).encode() + b"\n"


class Files:
    """What a job has, in memory."""

    def __init__(self, training, weights=None):
        self.kept = {}
        self.asked_for = asyncio.Event()
        self._training = training
        self._weights = weights

    def training(self):
        self.asked_for.set()
        return self._pieces(self._training)

    def validation(self):
        return self._pieces(row())

    def starting_weights(self):
        return self._weights

    async def write(self, name, data):
        self.kept[name] = b"".join([piece async for piece in data])

    def read(self, name):
        return self._pieces(self.kept[name])

    async def delete(self, name):
        self.kept.pop(name, None)

    async def _pieces(self, data):
        for start in range(0, len(data), 70):
            yield data[start : start + 70]


@pytest.fixture
def tune():
    config = embedded_model.Config()

    async def step(job, files, seconds=0):
        return await embedded_model.fine_tune(
            job=job, files=files, deadline=utc_now() + timedelta(seconds=seconds), config=config
        )

    return step


async def test_steps_in_two_processes_make_an_adapter(tune):
    files = Files(row() * 4)

    first = await tune(replace(JOB, is_pausing=True), files, 900)
    second = await tune(replace(JOB, state=first.state), files)

    assert (first.finished, second.finished) == (False, True)
    assert first.hyperparameters == Hyperparameters(1, 2, 1.0)
    assert [metrics.step for step in (first, second) for metrics in step.metrics] == [1, 2]
    assert second.metrics[0].train_loss < first.metrics[0].train_loss
    assert second.metrics[0].full_valid_loss is not None
    assert second.trained_tokens == 2 * first.trained_tokens > 0
    paused, checkpoint = *first.checkpoints, *second.checkpoints
    assert paused.metrics == first.metrics[0]
    assert files.kept[paused.weights] != files.kept[checkpoint.weights]
    assert checkpoint.metrics == second.metrics[0]
    assert parse_tensors(files.kept[checkpoint.weights])[0]["general.type"] == "adapter"
    assert SECRET not in json.dumps([first.state, second.state, first.messages])


async def test_a_file_that_nothing_can_be_learnt_from_fails_the_job_without_a_quotation(tune):
    with pytest.raises(TrainingFailed) as failed:
        await tune(JOB, Files(row() + b"{74093"))

    assert failed.value.message == "The embedded model cannot learn from line 2 of a file, which is no example of text."


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"base": "all-minilm-l6-v2"}, "Only the chat model"),
        ({"hyperparameters": Hyperparameters(batch_size=9)}, "batch_size of at most 8"),
    ],
)
async def test_what_it_does_not_do_is_said(tune, change, what):
    with pytest.raises(TrainingFailed, match=what):
        await tune(replace(JOB, **change), Files(row()))


def test_the_server_comes_first_and_a_crash_leaves_nothing():
    asked = (
        "import os, resource; from plugins.embedded_model.training.worker import step_back; step_back();"
        "print(os.nice(0), *resource.getrlimit(resource.RLIMIT_CORE), open('/proc/self/oom_score_adj').read())"
    )

    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout

    assert said.split() == ["19", "0", "0", "1000"]


async def test_whoever_gives_up_ends_the_process(tune):
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before, files = set(children.read_text().split()), Files(row() * 4)
    task = asyncio.create_task(tune(replace(JOB, hyperparameters=Hyperparameters(n_epochs=50)), files, 900))
    await files.asked_for.wait()
    started = set(children.read_text().split()) - before

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert started
    assert not started & set(children.read_text().split())
