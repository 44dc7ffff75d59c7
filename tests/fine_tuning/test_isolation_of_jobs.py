"""Two accounts' jobs and models never cross, and nothing is lost or left, wherever processes are killed or storage fails."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import timedelta

import pytest

from sluicegate.errors import NotFound, PurgeIncomplete, SluicegateError, StorageUnavailable
from sluicegate.fine_tuning.jobs import ENDED
from sluicegate.storage.file_layout import HEADS, SEGMENTS
from sluicegate.storage.lease import TERM
from tests.fine_tuning.workshop import BASE, EPOCHS, Workshop, jsonl

ACCOUNTS = ("contoso", "fabrikam")
SEEDS = range(24)
OPERATIONS = 40
DAYS = timedelta(days=3)


class Mortal:
    """A store as a process sees it that is killed, or finds storage failing, at one of its calls.

    Args:
        at: Which call; None is never.
        for_good: The process is dead from then on. Otherwise that one call fails.
        applied: The call is carried out, and only its answer is lost.
    """

    def __init__(self, blobs, at=None, *, for_good=True, applied=False):
        self._blobs = blobs
        self._at = at
        self._for_good = for_good
        self._applied = applied
        self.calls = 0

    def _meets_its_end(self):
        self.calls += 1
        if self._at is None or self.calls < self._at:
            return False
        return self._for_good or self.calls == self._at

    async def _call(self, name, *arguments, **options):
        ends = self._meets_its_end()
        if ends and not (self._applied and self.calls == self._at):
            raise StorageUnavailable("killed")
        result = await getattr(self._blobs, name)(*arguments, **options)
        if ends:
            raise StorageUnavailable("killed")
        return result

    async def put(self, *arguments, **options):
        return await self._call("put", *arguments, **options)

    async def get(self, *arguments, **options):
        return await self._call("get", *arguments, **options)

    async def delete(self, *arguments, **options):
        return await self._call("delete", *arguments, **options)

    async def list(self, *arguments, **options):
        if self._meets_its_end():
            raise StorageUnavailable("killed")
        async for info in self._blobs.list(*arguments, **options):
            yield info

    async def containers(self, prefix=""):
        return await self._call("containers", prefix)


class History:
    """What was seen of each job so far, so that nobody may take it back."""

    def __init__(self):
        self.jobs = {}

    async def look(self, process):
        for account in ACCOUNTS:
            for id in await process.store.ids(account):
                job = await process.store.get(account, id)
                before = self.jobs.get(id)
                if before is not None:
                    assert job.account == before.account
                    assert job.step >= before.step
                    assert job.said >= before.said
                    assert job.status == before.status or not before.has_ended
                self.jobs[id] = job


async def weights_are_their_owners(process, *, while_deleted=False):
    """Check that each model was made of its own account's examples alone.

    Args:
        while_deleted: Weights may be gone already of a model that somebody was deleting.
    """
    for account, other in (ACCOUNTS, ACCOUNTS[::-1]):
        for model in await process.models.list(account):
            assert model.account == account
            try:
                text = await process.weights(model)
            except NotFound:
                assert while_deleted
                continue
            assert f"of {account}" in text
            assert other not in text


async def one_operation(random, workshop, process, files, history):
    """Do something to some account, as a caller or the timer would; refusals are answers."""
    account = random.choice(ACCOUNTS)
    own = [job for job in history.jobs.values() if job.account == account]
    match random.choice(
        ("create", "create", "run", "run", "run", "cancel", "pause", "resume", "delete", "forget", "purge")
    ):
        case "create":
            models = [BASE, *(model.id for model in await process.models.list(account))]
            await process.create(account, model=random.choice(models), training=files[account], suffix=account)
        case "run":
            await process.run()
        case "purge":
            await process.jobs.purge(workshop.clock())
        case "forget":
            # Whole: what an interrupted deletion of a model leaves is finished by whoever begun it.
            models = workshop.start().models
            for model in (await models.list(account))[:1]:
                await models.delete(account, model.id)
        case "delete" if own:
            await process.jobs.delete(account, random.choice(own).id, actor=f"{account}/key1")
        case "cancel" | "pause" | "resume" as what if own:
            await getattr(process.jobs, what)(account, random.choice(own).id)
            await process.jobs.runner.stop()


def some_end(random, blobs):
    at = random.randrange(1, 120)
    return Mortal(blobs, at, for_good=random.random() < 0.7, applied=random.random() < 0.5)


async def live(workshop, process):
    """Let time pass until nothing is to be done any more."""
    for _ in range(12):
        await process.run()
        with suppress(PurgeIncomplete):
            await process.jobs.purge(workshop.clock())
        workshop.clock.advance(timedelta(hours=1))


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_accounts_stay_apart_and_jobs_come_to_their_end(seed):
    random_ = random.Random(seed)
    workshop = Workshop()
    workshop.trainer.script = [None if random_.random() < 0.9 else ValueError() for _ in range(1000)]
    alive, history = workshop.start(), History()
    files = {account: await alive.upload(account, jsonl(11, f"the secret of {account}")) for account in ACCOUNTS}

    for _ in range(OPERATIONS):
        process = workshop.start(some_end(random_, workshop.blobs)) if random_.random() < 0.6 else workshop.start()
        with suppress(SluicegateError):
            await one_operation(random_, workshop, process, files, history)
        await process.jobs.runner.stop()
        await process.uploads.drain()
        await history.look(alive)
        await weights_are_their_owners(alive, while_deleted=True)
        workshop.clock.advance(TERM * random_.choice((0.2, 2)))

    workshop.trainer.script = []
    last = workshop.start()
    await live(workshop, last)
    await history.look(last)
    await weights_are_their_owners(last)
    await everything_is_in_order(last)
    workshop.clock.advance(DAYS)
    await last.uploads.purge(workshop.clock())
    await last.jobs.purge(workshop.clock())
    await nothing_else_is_left(workshop, last)


async def everything_is_in_order(process):
    for account in ACCOUNTS:
        for id in await process.store.ids(account):
            job = await process.store.get(account, id)
            assert job.status in (*ENDED, "paused")
            made = [model for model in await process.models.list(account) if model.job == id]
            if job.status in ("failed", "cancelled"):
                assert made == []
            if job.status == "succeeded":
                assert job.step == EPOCHS
                assert len((await process.results(job)).splitlines()) == 1 + EPOCHS
                assert (account, id) not in await process.store.in_queue()


async def nothing_else_is_left(workshop, process):
    models = [model for account in ACCOUNTS for model in await process.models.list(account)]
    paused = set()
    for account in ACCOUNTS:
        for id in await process.store.ids(account):
            job = await process.store.get(account, id)
            if job.status == "paused":
                paused.add(id)
    of_models = {(model.job, model.weights_file) for model in models}
    for container in (HEADS, SEGMENTS):
        async for info in workshop.blobs.list(container):
            _, kind, file, *_ = info.name.split("/")
            assert not kind.startswith("ftjob-") or (kind, file) in of_models or kind in paused
    assert {id for _, id in await process.store.in_queue()} == paused
    assert not [blob async for blob in workshop.blobs.list("receipts-owed")]
