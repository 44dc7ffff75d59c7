"""Jobs that train at an upstream: what the account gets of them, and receipts that name what is gone there."""

from __future__ import annotations

from datetime import timedelta

import pytest

from plugins import openai_upstream
from sluicegate.config import Pipeline
from sluicegate.testing import FrozenClock
from sluicegate.types import utc_now
from tests.fine_tuning.workshop import Workshop, stored
from tests.plugins.training_upstream import TrainingUpstream, training_upstream

KEY_SETTING = "TEST_UPSTREAM_KEY"
REMOTE = "ft:gpt-2025:org::abc"


@pytest.fixture
async def upstream(monkeypatch):
    monkeypatch.setenv(KEY_SETTING, "key-of-the-upstream")
    async with training_upstream() as upstream:
        yield upstream


@pytest.fixture
async def workshop(upstream):
    """Processes whose plugin forwards to the upstream."""
    workshop = Workshop()
    workshop.clock = FrozenClock(utc_now())
    model = {"id": "gpt", "operations": ["chat.completions"], "training_name": "gpt-2025"}
    entry = {"kind": "openai", "endpoint": f"{upstream.root}/v1", "api_key_setting": KEY_SETTING, "models": [model]}
    workshop.plugins.add(openai_upstream, "openai_upstream")
    pipeline = Pipeline.model_validate({"authenticate": [], "models": ["openai_upstream"]})
    workshop.plugins.configure({"openai_upstream": {"upstreams": [entry]}}, pipeline)
    yield workshop
    await openai_upstream.shutdown(workshop.plugins.config_of("openai_upstream"))


async def running(workshop: Workshop, upstream: TrainingUpstream):
    """Return a process and its job, which the upstream is at."""
    process = workshop.start()
    job = await process.create(model="gpt")
    await process.run()
    assert upstream.job["status"] == "queued"
    return process, job


async def receipts(process) -> dict[str, dict]:
    """Return what was checked for each receipt, by kind."""
    found = await process.receipts.list("contoso")
    return {receipt.document["kind"]: receipt.document["checked"] for receipt in found}


async def test_a_job_that_succeeds_at_the_upstream_is_one_of_the_accounts(workshop, upstream):
    process, job = await running(workshop, upstream)
    upstream.succeed()
    workshop.clock.advance(timedelta(minutes=1))
    await process.run()

    done = await process.get(job)
    assert done.status == "succeeded"
    assert {model.id: model.elsewhere for model in await process.models.list("contoso")} == {
        job.name: REMOTE,
        f"{job.name}:ckpt-step-2": f"{REMOTE}:ckpt-step-2",
    }
    assert (await process.results(done)).splitlines()[2] == "2,2.5,0.5,2.75,0.45,2.8,0.44"
    assert not upstream.files
    assert upstream.models == {REMOTE, f"{REMOTE}:ckpt-step-2"}

    await process.jobs.delete_all("contoso", actor="contoso/key1")

    assert not upstream.models
    checked = (await receipts(process))["delete.job"]
    host = upstream.root.removeprefix("http://")
    assert checked[f"model {REMOTE} at {host}"] == checked[f"model {REMOTE}:ckpt-step-2 at {host}"] == 0


async def test_a_job_that_is_cancelled_is_gone_at_the_upstream_and_the_receipt_says_so(workshop, upstream):
    process, job = await running(workshop, upstream)
    [file] = upstream.files

    await process.jobs.cancel("contoso", job.id)
    await process.run()

    assert upstream.job["status"] == "cancelled"
    assert not upstream.files
    checked = (await receipts(process))["delete.job-files"]
    host = upstream.root.removeprefix("http://")
    assert checked[f"job {upstream.job['id']} at {host}"] == checked[f"file {file} at {host}"] == 0


async def test_a_job_that_fails_leaves_nothing_at_the_upstream(workshop, upstream):
    process, job = await running(workshop, upstream)
    upstream.job.update(status="failed", error={"code": "unsafe", "message": "What is 0 and nothing?"})
    workshop.clock.advance(timedelta(minutes=1))

    await process.run()

    done = await process.get(job)
    assert (done.status, done.error["code"]) == ("failed", "unsafe")
    assert not upstream.files
    assert not await stored(process.blobs, "What is 0")


async def test_an_upstream_that_is_away_keeps_the_job_waiting_and_its_deletion_owed(workshop, upstream):
    process, job = await running(workshop, upstream)
    [file] = upstream.files
    upstream.refusals[f"DELETE files/{file}"] = (503, {})
    await process.jobs.cancel("contoso", job.id)
    await process.run()
    assert "delete.job-files" not in await receipts(process)

    upstream.refusals.clear()
    workshop.clock.advance(timedelta(minutes=5))
    await process.run()

    assert not upstream.files
    assert f"file {file} at {upstream.root.removeprefix('http://')}" in (await receipts(process))["delete.job-files"]
