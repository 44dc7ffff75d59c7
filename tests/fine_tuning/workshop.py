"""Fine-tuning with a plugin that counts instead of training: its weights say of what and from what they were made."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

from sluicegate import Chunk, Classification, Model, hookimpl
from sluicegate.audit.log import Audit
from sluicegate.config import FineTuning, Pipeline
from sluicegate.fine_tuning.job_operations import Asked, Jobs
from sluicegate.fine_tuning.job_store import JobStore
from sluicegate.fine_tuning.runner import Runner
from sluicegate.fine_tuning.safety import SafetyEvaluation
from sluicegate.fine_tuning.stages import Work
from sluicegate.fine_tuning.tuned_models import TunedModels
from sluicegate.plugins import Plugins
from sluicegate.retention.receipts import Receipts
from sluicegate.storage.files import Files
from sluicegate.storage.uploaded_files import Details, UploadedFiles
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage
from sluicegate.training import Checkpoint, Hyperparameters, Metrics, TrainingStep

BASE = "counter"
EPOCHS = 3


def example(number, secret=""):
    question = {"role": "user", "content": f"What is {number} and {secret or 'nothing'}?"}
    return {"messages": [question, {"role": "assistant", "content": f"It is {number}, as ever."}]}


def jsonl(rows=12, secret=""):
    return "".join(json.dumps(example(number, secret)) + "\n" for number in range(rows)).encode()


class Trainer:
    """A plugin that takes one optimiser step a step, ``per_epoch`` of them an epoch, and keeps a file of its own.

    Attributes:
        script: What steps do before anything else, the first of them first: raise an exception, or await a function.
        forgotten: The jobs that it was told to forget.
        calls: The jobs of the steps, in order.
    """

    def __init__(self, per_epoch=1):
        self.per_epoch = per_epoch
        self.script = []
        self.forgotten = []
        self.calls = []

    @hookimpl
    def register_models(self):
        return [Model(BASE, frozenset({"chat.completions"}), context_length=1000)]

    @hookimpl
    async def inference(self):
        yield Chunk("One, two, three.", finish_reason="stop")

    @hookimpl
    async def classify(self, text):
        severity = 6 if "massacre" in text else 0
        return Classification({"violence": severity / 6}, {"violence": severity}, frozenset())

    @hookimpl
    async def forget_training(self, job):
        self.forgotten.append(job.id)
        return (f"dataset of {job.id} elsewhere",)

    @hookimpl
    async def fine_tune(self, job, files):
        self.calls.append(job.id)
        if self.script:
            todo = self.script.pop(0)
            if isinstance(todo, Exception):
                raise todo
            if todo is not None:
                await todo()
        learnt = await _read(files.training())
        start = files.starting_weights()
        earlier = b"" if start is None else await _read(start.read())
        step = job.state.get("step", 0) + 1
        if job.state:
            assert await _read(files.read(f"optimizer-{step - 1}")) == f"{job.id} {step - 1}".encode()
            await files.delete(f"optimizer-{step - 1}")
        await files.write(f"optimizer-{step}", _pieces(f"{job.id} {step}".encode()))
        metrics = Metrics(step, 1.0 / step, 0.5, full_valid_loss=0.25 if step % self.per_epoch == 0 else None)
        checkpoints = ()
        finished = step == EPOCHS * self.per_epoch
        if step % self.per_epoch == 0 or job.is_pausing:
            await files.write(f"weights-{step}", _pieces(b"%s|step %d|" % (earlier, step) + learnt[:200]))
            checkpoints = (Checkpoint(metrics, f"weights-{step}"),)
        used = replace(job.hyperparameters, n_epochs=EPOCHS, batch_size=1, learning_rate_multiplier=1.0)
        return TrainingStep({"step": step}, finished, used, (metrics,), checkpoints, trained_tokens=10 * step)


class Upload:
    """A file on its way in."""

    def __init__(self, data, name="train.jsonl", purpose="fine-tune"):
        self._data = data
        self._details = Details(name, purpose, None)

    async def content(self):
        yield self._data

    def details(self):
        return self._details


class Workshop:
    """What several processes share; ``start`` makes one."""

    def __init__(self, blobs=None):
        self.blobs = MemoryStorage() if blobs is None else blobs
        self.keys = MemoryKeys()
        self.clock = FrozenClock()
        self.trainer = Trainer()
        self.judge = None
        self.deployed = set()
        self.most_files = 1000
        self.deleted = set()
        self.settings = FineTuning()
        self.plugins = Plugins()
        self.plugins.add(self.trainer, "trainer")
        self.plugins.configure({}, Pipeline.model_validate({"authenticate": [], "models": ["trainer"]}))

    async def _is_served(self, account):
        return account not in self.deleted

    async def _deployed(self, account):
        return self.deployed

    def start(self, blobs=None):
        """Return the jobs as one process has them; its runner does not start by itself."""
        blobs = self.blobs if blobs is None else blobs
        files = Files(blobs, self.keys, clock=self.clock)
        receipts = Receipts(
            blobs, self.keys, Audit(blobs, self.keys, origin="test", clock=self.clock), clock=self.clock
        )
        uploads = UploadedFiles(
            blobs, files, receipts, clock=self.clock, most_files=self.most_files, most_bytes=1 << 30
        )
        models = TunedModels(blobs, files)
        store = JobStore(blobs, files)
        safety = SafetyEvaluation(self.plugins, ["trainer"], is_required=True)
        work = Work(
            store,
            uploads,
            models,
            receipts,
            self.plugins,
            safety,
            judge=self.judge,
            is_served=self._is_served,
            deployed=self._deployed,
            longest=timedelta(hours=self.settings.job_hours),
            clock=self.clock,
        )
        jobs = Jobs(store, uploads, work, Runner(blobs, work, self.settings, self.clock), self.settings, self.clock)
        return Process(jobs, work, uploads, models, store, receipts, blobs)


class Process:
    """One process; nothing happens by itself."""

    def __init__(self, jobs, work, uploads, models, store, receipts, blobs):
        self.jobs = jobs
        self.work = work
        self.uploads = uploads
        self.models = models
        self.store = store
        self.receipts = receipts
        self.blobs = blobs

    async def upload(self, account="contoso", data=None, **options):
        return (await self.uploads.create(account, Upload(jsonl() if data is None else data, **options))).id

    async def create(self, account="contoso", *, model=BASE, training=None, validation=None, **more):
        training = training or await self.upload(account)
        values = {
            "method": "supervised",
            "hyperparameters": Hyperparameters(),
            "seed": 1,
            "suffix": None,
            "metadata": None,
        }
        job = await self.jobs.create(account, Asked(model, training, validation, **(values | more)))
        await self.jobs.runner.stop()
        return job

    async def run(self):
        await self.jobs.runner.run()

    async def get(self, job):
        return await self.store.get(job.account, job.id)

    async def messages(self, job):
        job = await self.get(job)
        return [event["message"] for event in reversed(await self.store.events(job, before=job.said, limit=10_000))]

    async def weights(self, model):
        return (await _read(self.models.weights(model).read())).decode()

    async def results(self, job):
        opened = await self.uploads.open(job.account, job.result_file)
        return (await _read(opened.read())).decode()


async def stored(blobs, *words):
    """Return the names of blobs that have all these words in their names or, in plain text, in their content."""
    found = []
    for container in await blobs.containers():
        async for info in blobs.list(container):
            data = (await blobs.get(container, info.name)).data
            if all(word in f"{container}/{info.name}" or word.encode() in data for word in words):
                found.append(f"{container}/{info.name}")
    return found


async def _pieces(data):
    yield data


async def _read(pieces):
    return b"".join([piece async for piece in pieces])
