"""Jobs from creation to their end: what becomes of them, what they leave, and what their owner is told."""

import asyncio
from datetime import timedelta

import pytest

from sluicegate.errors import (
    Conflict,
    InvalidRequest,
    ModelUnavailable,
    NotFound,
    QuotaExceeded,
    StorageUnavailable,
    TrainingFailed,
)
from sluicegate.fine_tuning import runner
from sluicegate.fine_tuning.runner import MOST_ATTEMPTS
from sluicegate.fine_tuning.stages import Verdict
from tests.fine_tuning.workshop import BASE, Workshop, jsonl, stored


@pytest.fixture
def workshop():
    return Workshop()


@pytest.fixture
def process(workshop):
    return workshop.start()


async def test_a_job_becomes_a_model_of_its_account(workshop, process):
    validation = await process.upload(data=jsonl(2, "other"))
    job = await process.create(validation=validation, suffix="mine")

    await process.run()

    done = await process.get(job)
    assert (done.status, done.stage, done.error) == ("succeeded", "rest", None)
    assert done.fine_tuned_model == job.name
    assert job.name.startswith(f"{BASE}.ft-")
    assert job.name.endswith("-mine")
    assert done.trained_tokens == 30
    assert (done.hyperparameters["n_epochs"], done.used["n_epochs"]) == (None, 3)
    model = await process.models.get("contoso", job.name)
    assert (model.base, model.job, model.step, model.deployable) == (BASE, job.id, None, True)
    assert "What is 0" in await process.weights(model)
    checkpoints = [each for each in await process.models.list("contoso") if each.id != job.name]
    assert [each.id for each in checkpoints] == [f"{job.name}:ckpt-step-1", f"{job.name}:ckpt-step-2"]
    assert await process.messages(job) == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.training_file}",
        f"Validating validation file: {validation}",
        "The training file has 12 examples.",
        "The validation file has 2 examples.",
        "Training data has passed the safety evaluation.",
        "Job enqueued. Waiting for jobs ahead to complete.",
        "Job started.",
        "Step 1: training loss=1.00",
        "Checkpoint created at step 1.",
        "Step 2: training loss=0.50",
        "Checkpoint created at step 2.",
        "Step 3: training loss=0.33",
        "Checkpoint created at step 3.",
        "Training completed: 30 tokens.",
        f"Completed results file: {done.result_file}",
        "Job succeeded.",
    ]
    assert (await process.results(done)).splitlines() == [
        "step,train_loss,train_mean_token_accuracy,valid_loss,validation_mean_token_accuracy,"
        "full_valid_loss,full_valid_mean_token_accuracy",
        "1,1.0,0.5,,,0.25,",
        "2,0.5,0.5,,,0.25,",
        f"3,{1 / 3},0.5,,,0.25,",
    ]
    assert await process.store.in_queue() == []
    assert len([name async for name in process.store.files(done).names()]) == 3


async def pause_at(process, job, step):
    await advance_to(process, job, lambda job: job.step == step and job.status == "running")
    await process.jobs.pause("contoso", job.id)
    await process.jobs.runner.stop()
    await process.run()
    await process.jobs.resume("contoso", job.id)
    await process.jobs.runner.stop()


async def test_only_the_last_three_checkpoints_are_kept_and_those_that_are_deployed(workshop, process):
    workshop.trainer.per_epoch = 3
    job = await process.create()
    workshop.deployed = {f"{job.name}:ckpt-step-2"}
    for step in (1, 3, 5):
        await pause_at(process, job, step)
    assert [each.step for each in (await process.get(job)).made] == [3, 4, 6]

    await process.run()

    assert [each.step for each in (await process.get(job)).made] == [4, 6, 9]
    assert {model.step for model in await process.models.list("contoso")} == {2, 4, 6, None}
    assert len([name async for name in process.store.files(job).names()]) == 4


async def advance_to(process, job, there):
    """Take single steps until the job is there."""
    for _ in range(50):
        if there(await process.get(job)):
            return
        await process.jobs.runner.advance(await process.get(job))
    raise AssertionError(await process.get(job))


async def test_a_job_goes_on_from_a_fine_tuned_model_and_from_a_checkpoint(process):
    first = await process.create()
    await process.run()

    further = [await process.create(model=model) for model in (first.name, f"{first.name}:ckpt-step-2")]
    await process.run()

    of_model, of_checkpoint = [await process.models.get("contoso", job.name) for job in further]
    assert "|step 3|" in await process.weights(of_model)
    assert (await process.weights(of_model)).count("What is 0") == 2
    assert "|step 2|" in await process.weights(of_checkpoint)
    assert of_model.base == BASE


async def test_nobody_goes_on_from_another_accounts_model(process):
    job = await process.create()
    await process.run()

    with pytest.raises(InvalidRequest) as caught:
        await process.create("fabrikam", model=job.name)

    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (jsonl(9), "invalidTrainingFile", "too_few_examples"),
        (jsonl(12) + b'{"canary-74093": 1}\n', "invalidTrainingFile", "format_unknown (1; line 13)"),
        (jsonl(12, "massacre canary-74093"), "safetyEvaluationFailed", "[violence]"),
    ],
    ids=["few", "malformed", "harmful"],
)
async def test_a_file_that_nobody_may_train_on_fails_the_job_without_a_word_of_it(process, data, code, words):
    job = await process.create(training=await process.upload(data=data))

    await process.run()

    failed = await process.get(job)
    assert (failed.status, failed.error["code"], failed.error["param"]) == ("failed", code, "training_file")
    assert words in failed.error["message"]
    assert (await process.messages(job))[-1] == failed.error["message"]
    assert "canary" not in str(failed.document())
    assert await stored(process.blobs, "canary") == []


async def test_what_validation_repeats_of_training_is_warned_of(process):
    job = await process.create(validation=await process.upload(data=jsonl(1)))

    await process.run()

    assert "The validation file has warnings: leak (1; line 1)." in await process.messages(job)


async def test_preferences_need_the_method_that_learns_from_them(process):
    job = await process.create(method="dpo")

    await process.run()

    assert "the method dpo does not learn from" in (await process.get(job)).error["message"]


async def test_a_plugin_can_fail_a_job(workshop, process):
    workshop.trainer.script = [None, TrainingFailed("The batch is too large.", code="outOfMemory")]
    job = await process.create()

    await process.run()

    failed = await process.get(job)
    assert failed.error == {"code": "outOfMemory", "message": "The batch is too large.", "param": None}
    assert workshop.trainer.forgotten == [job.id]
    assert await process.models.list("contoso") == []
    assert [name async for name in process.store.files(failed).names()] == []
    [receipt] = await process.receipts.list("contoso")
    assert (receipt.document["kind"], receipt.document["subject"]) == ("delete.job-files", job.id)
    assert f"dataset of {job.id} elsewhere" in receipt.document["checked"]


async def test_a_bug_is_tried_again_and_then_fails_the_job(workshop, process, caplog):
    workshop.trainer.script = [ValueError("canary-74093")] * 100
    job = await process.create()

    for _ in range(20):
        await process.run()
        workshop.clock.advance(timedelta(hours=1))

    failed = await process.get(job)
    assert (failed.status, failed.error["code"]) == ("failed", "internalFailure")
    assert len(workshop.trainer.calls) == MOST_ATTEMPTS
    assert "canary" not in str(failed.document()) + caplog.text


async def forever():
    await asyncio.Event().wait()


async def test_a_step_that_was_not_done_in_time_has_more_the_next_time(workshop, process, monkeypatch):
    job = await process.create()
    monkeypatch.setattr(runner, "GRACE", -timedelta(seconds=workshop.settings.step_s))

    for _ in range(20):
        await process.run()
        workshop.clock.advance(timedelta(hours=1))

    assert (await process.get(job)).status == "succeeded"


async def test_a_step_that_is_never_done_in_time_fails_the_job_with_what_to_do(workshop, process, monkeypatch):
    workshop.trainer.script = [forever] * 100
    job = await process.create()
    await advance_to(process, job, lambda job: job.stage == "train")
    monkeypatch.setattr(runner, "GRACE", -runner.LONGEST)

    for _ in range(MOST_ATTEMPTS):
        await process.jobs.runner.advance(await process.get(job))
        workshop.clock.advance(timedelta(hours=1))

    failed = await process.get(job)
    assert (failed.status, failed.error["code"]) == ("failed", "stepTimedOut")
    assert "Choose a smaller 'batch_size'" in failed.error["message"]


async def test_a_step_that_succeeds_at_last_counts_its_failures_no_more(workshop, process):
    workshop.trainer.script = [ValueError(), ValueError(), None, ValueError(), ValueError(), ValueError(), ValueError()]
    job = await process.create()

    for _ in range(20):
        await process.run()
        workshop.clock.advance(timedelta(hours=1))

    assert (await process.get(job)).status == "succeeded"


async def test_a_job_waits_for_what_is_unavailable_and_says_so_once(workshop, process):
    workshop.trainer.script = [ModelUnavailable("canary", retry_after_s=60)] * 8
    job = await process.create()

    for _ in range(8):
        await process.run()
        assert (await process.get(job)).status == "running"
        workshop.clock.advance(timedelta(seconds=59))
        calls = len(workshop.trainer.calls)
        await process.run()
        assert len(workshop.trainer.calls) == calls
        workshop.clock.advance(timedelta(seconds=1))
    await process.run()

    assert (await process.get(job)).status == "succeeded"
    assert [each for each in await process.messages(job) if "Waiting:" in each] == [
        "Waiting: something that the job needs cannot be reached (ModelUnavailable)."
    ]


async def test_storage_that_fails_while_the_plugin_reads_is_not_the_plugins_fault(workshop, process, monkeypatch):
    job = await process.create()
    await advance_to(process, job, lambda job: job.step == 1)
    get, failing = process.blobs.get, True

    async def get_or_fail(container, name, **options):
        if failing and container == "file-segments":
            raise StorageUnavailable("down")
        return await get(container, name, **options)

    monkeypatch.setattr(process.blobs, "get", get_or_fail)
    for _ in range(3 * MOST_ATTEMPTS):
        await process.run()
        workshop.clock.advance(timedelta(minutes=1))
    assert (await process.get(job)).status == "running"
    failing = False
    await process.run()

    assert (await process.get(job)).status == "succeeded"


async def test_a_deleted_training_file_fails_the_job(workshop, process):
    job = await process.create()
    await advance_to(process, job, lambda job: job.step == 1)
    await process.uploads.delete("contoso", job.training_file, actor="contoso/key1")

    await process.run()

    failed = await process.get(job)
    assert (failed.error["code"], failed.error["param"]) == ("notFound", "training_file")


async def test_a_cancelled_job_leaves_nothing_but_itself(workshop, process):
    job = await process.create()
    await advance_to(process, job, lambda job: job.step == 2)
    assert len(await process.models.list("contoso")) >= 1

    cancelled = await process.jobs.cancel("contoso", job.id)
    await process.run()

    assert cancelled.status == "cancelled"
    assert await process.models.list("contoso") == []
    assert [name for name in await stored(process.blobs, job.id) if name.startswith("file-")] == []
    with pytest.raises(Conflict):
        await process.jobs.cancel("contoso", job.id)


async def test_a_step_that_ends_after_the_cancellation_changes_nothing(workshop, process):
    job = await process.create()
    await advance_to(process, job, lambda job: job.stage == "train")

    async def cancel():
        await workshop.start().store.change(job, lambda job: job.cancelled(workshop.clock()))

    workshop.trainer.script = [cancel]
    await process.run()

    ended = await process.get(job)
    assert (ended.status, ended.step, ended.made) == ("cancelled", 0, ())
    assert [name for name in await stored(process.blobs, job.id) if name.startswith("file-")] == []


async def test_a_pause_during_a_step_is_heeded_and_what_was_learnt_is_kept(workshop, process):
    workshop.trainer.per_epoch = 2
    job = await process.create()
    await advance_to(process, job, lambda job: job.step == 1)

    async def pause():
        await workshop.start().jobs.store.change(job, lambda job: job.pausing(workshop.clock()))

    workshop.trainer.script = [pause]
    await process.run()

    paused = await process.get(job)
    assert (paused.status, paused.step, [each.step for each in paused.made]) == ("paused", 2, [2])
    assert (await process.models.get("contoso", f"{job.name}:ckpt-step-2")).deployable
    await process.jobs.resume("contoso", job.id)
    await process.run()
    assert (await process.get(job)).status == "succeeded"
    messages = await process.messages(job)
    assert messages.index("Job pausing.") < messages.index("Job paused.") < messages.index("Job resumed.")


async def test_a_step_that_did_not_know_of_the_pause_is_followed_by_one_that_makes_a_checkpoint(workshop, process):
    workshop.trainer.per_epoch = 4
    job = await process.create()
    await advance_to(process, job, lambda job: job.step == 1)

    async def pause():
        await workshop.start().jobs.store.change(job, lambda job: job.pausing(workshop.clock()))

    workshop.trainer.script = [pause]
    await process.run()

    paused = await process.get(job)
    assert (paused.status, paused.step, [each.step for each in paused.made]) == ("paused", 3, [3])


@pytest.mark.parametrize("what", ["pause", "resume", "delete"])
async def test_what_a_jobs_state_does_not_allow_is_a_conflict(process, what):
    job = await process.create()
    options = {"actor": "contoso/key1"} if what == "delete" else {}

    with pytest.raises(Conflict):
        await getattr(process.jobs, what)("contoso", job.id, **options)


async def test_a_model_that_fails_its_evaluation_is_deleted_with_its_job(workshop):
    async def judge(model, deadline):
        return Verdict(("Violence",) if model.step is None else ())

    workshop.judge = judge
    process = workshop.start()
    job = await process.create()

    await process.run()

    failed = await process.get(job)
    assert failed.error["code"] == "modelSafetyEvaluationFailed"
    assert "Violence" in failed.error["message"]
    assert await process.models.list("contoso") == []


async def test_a_checkpoint_that_fails_its_evaluation_cannot_be_deployed(workshop):
    async def judge(model, deadline):
        return Verdict(("Sexual",) if model.step == 1 else ())

    workshop.judge = judge
    process = workshop.start()
    job = await process.create()

    await process.run()

    assert (await process.get(job)).status == "succeeded"
    verdicts = {model.step: model.deployable for model in await process.models.list("contoso")}
    assert verdicts == {1: False, 2: True, None: True}


async def test_a_checkpoint_that_its_owner_has_deleted_does_not_come_back(process):
    job = await process.create()
    await advance_to(process, job, lambda job: job.step == 2)
    await process.models.delete("contoso", f"{job.name}:ckpt-step-1")

    await process.run()

    assert {model.step for model in await process.models.list("contoso")} == {2, None}


async def test_a_deleted_job_leaves_its_model_and_nothing_else(process):
    job = await process.create(metadata={"team": "canary-74093"})
    assert await process.store.metadata(job) == {"team": "canary-74093"}
    assert await stored(process.blobs, "canary") == []
    await process.run()

    receipt = await process.jobs.delete("contoso", job.id, actor="contoso/key1")

    assert (receipt.document["kind"], receipt.document["subject"]) == ("delete.job", job.id)
    assert await process.models.get("contoso", job.name) is not None
    left = await stored(process.blobs, job.id)
    assert {name.partition("/")[0] for name in left} <= {
        "file-heads", "file-segments", "tuned-models", "receipts", "audit"
    }  # fmt: skip
    with pytest.raises(NotFound):
        await process.jobs.get("contoso", job.id)
    for model in await process.models.list("contoso"):
        await process.models.delete("contoso", model.id)
    assert [name for name in await stored(process.blobs, job.id) if name.startswith("file-")] == []


async def test_everything_of_an_account_goes_and_nothing_of_another(process):
    gone, other = await process.create(), await process.create("fabrikam")
    await process.run()
    running = await process.create()
    await advance_to(process, running, lambda job: job.step == 1)

    await process.jobs.delete_all("contoso", actor="timer/purge")

    for job in (gone, running):
        names = await stored(process.blobs, job.id)
        assert {name.partition("/")[0] for name in names} <= {"receipts", "audit"}
    assert (await process.get(other)).status == "succeeded"
    assert await process.models.get("fabrikam", other.name) is not None
    assert len(await process.receipts.list("contoso")) >= 2


async def test_accounts_are_served_in_turn(workshop, process):
    jobs = [await process.create("contoso") for _ in range(3)] + [await process.create("fabrikam")]
    workshop.settings = workshop.settings.model_copy(update={"running_jobs": 3})

    await workshop.start().run()

    calls = ["fabrikam" if call == jobs[-1].id else "contoso" for call in workshop.trainer.calls]
    first = calls[: 2 * calls.count("fabrikam")]
    assert first.count("fabrikam") == calls.count("fabrikam")


async def test_one_job_of_an_account_trains_at_a_time(workshop, process):
    jobs = []
    for _ in range(3):
        jobs.append(await process.create())
        workshop.clock.advance(timedelta(milliseconds=1))

    await process.run()

    assert workshop.trainer.calls == [job.id for job in jobs for _ in range(3)]


async def test_an_account_has_as_many_jobs_as_it_may(workshop):
    workshop.settings = workshop.settings.model_copy(update={"queued_jobs": 1, "stored_jobs": 3})
    process = workshop.start()
    first = [await process.create() for _ in range(2)]
    with pytest.raises(QuotaExceeded, match="2 jobs that run, wait"):
        await process.create()
    await process.create("fabrikam")
    assert len(await process.store.in_queue("contoso")) == 2
    await process.run()

    await process.create()
    await process.run()

    with pytest.raises(QuotaExceeded, match="3 jobs"):
        await process.create()
    await process.jobs.delete("contoso", first[0].id, actor="contoso/key1")
    await process.create()


async def test_a_job_takes_no_longer_than_it_may(workshop, process):
    job = await process.create()
    await advance_to(process, job, lambda job: job.step == 1)
    workshop.clock.advance(timedelta(hours=721))

    await process.run()

    assert (await process.get(job)).error["code"] == "timeout"


async def test_many_events_are_kept_apart_and_found_again(workshop, process):
    workshop.trainer.per_epoch = 100
    job = await process.create()

    await process.run()

    done = await process.get(job)
    assert len(done.pages) >= 2
    assert len(done.events) < 200
    every = await process.store.events(done, before=done.said, limit=10_000)
    assert [event["number"] for event in every] == list(range(done.said))[::-1]
    assert [event["number"] for event in await process.store.events(done, before=151, limit=120)] == list(
        range(31, 151)
    )[::-1]
    assert len((await process.results(done)).splitlines()) == 301


async def test_another_process_that_is_at_it_is_left_alone(workshop, process):
    job = await process.create()
    other = workshop.start()
    told = []

    async def look():
        await other.run()
        told.append((await process.get(job)).step)

    workshop.trainer.script = [look, look, look]
    await process.run()

    assert told == [0, 1, 2]
    assert (await process.get(job)).status == "succeeded"


async def test_a_run_that_is_stopped_loses_its_step_and_nothing_else(workshop, process):
    job = await process.create()
    begun = asyncio.Event()

    async def hang():
        begun.set()
        await asyncio.Event().wait()

    workshop.trainer.script = [None, hang]
    task = asyncio.create_task(process.run())
    await begun.wait()
    await process.jobs.runner.stop()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ((await process.get(job)).attempts, (await process.get(job)).step) == (0, 1)

    await workshop.start().run()

    assert (await process.get(job)).status == "succeeded"


async def test_an_attempt_that_is_late_takes_nothing_of_a_later_one_away(workshop, process):
    job = await process.create()
    await advance_to(process, job, lambda job: job.step == 1)
    late = await process.get(job)

    other = workshop.start()
    await advance_to(other, job, lambda job: job.step == 2)
    await process.work.sweep(late)
    await process.work.register(late)

    await other.run()
    assert (await process.get(job)).status == "succeeded"
    assert len(workshop.trainer.calls) == 3
    assert {model.step for model in await process.models.list("contoso")} == {1, 2, None}


async def test_what_is_late_cannot_be_taken_for_the_result(workshop, process):
    job = await process.create()
    await advance_to(process, job, lambda job: job.stage == "train")

    async def overtaken():
        await advance_to(workshop.start(), job, lambda job: job.step == 1)

    workshop.trainer.script = [overtaken]
    await process.jobs.runner.advance(await process.get(job))

    found = await process.get(job)
    assert (found.step, len(found.made), len(found.files)) == (1, 1, 1)
    names = {name async for name in process.store.files(job).names()}
    assert names == {*found.files.values(), found.made[0].file}


async def test_jobs_of_a_deleted_account_rest_until_it_is_restored(workshop, process):
    job = await process.create()
    workshop.deleted.add("contoso")
    await process.run()
    assert (await process.get(job)).stage == "check"
    workshop.deleted.clear()

    await process.run()

    assert (await process.get(job)).status == "succeeded"


async def test_nobody_goes_on_from_a_checkpoint_that_does_harm(workshop):
    async def judge(model, deadline):
        return Verdict(("Sexual",) if model.step == 1 else ())

    workshop.judge = judge
    process = workshop.start()
    job = await process.create()
    await process.run()

    with pytest.raises(InvalidRequest) as caught:
        await process.create(model=f"{job.name}:ckpt-step-1")

    assert caught.value.param == "model"


async def test_what_never_came_to_be_a_job_goes_after_a_day(workshop, process, monkeypatch):
    async def create(*_, **__):
        raise StorageUnavailable("killed")

    monkeypatch.setattr(process.store, "create", create)
    monkeypatch.setattr(process.store, "erase", create)
    with pytest.raises(StorageUnavailable):
        await process.create()
    other = workshop.start()
    await other.run()
    await other.jobs.purge(workshop.clock())
    assert len(await other.store.in_queue()) == 1
    workshop.clock.advance(timedelta(days=1))

    await other.jobs.purge(workshop.clock())

    assert await other.store.in_queue() == []


async def test_an_interrupted_deletion_is_finished_by_the_timer(workshop, process, monkeypatch):
    job = await process.create()
    await process.run()

    async def erase(*_, **__):
        raise StorageUnavailable("killed")

    monkeypatch.setattr(process.store, "erase", erase)
    with pytest.raises(StorageUnavailable):
        await process.jobs.delete("contoso", job.id, actor="contoso/key1")

    await workshop.start().jobs.purge(workshop.clock())

    assert await process.get(job) is None
    assert [receipt.document["kind"] for receipt in await process.receipts.list("contoso")].count("delete.job") == 1


async def test_a_job_without_room_for_its_results_succeeds_without_them(workshop):
    workshop.most_files = 1
    process = workshop.start()
    job = await process.create()

    await process.run()

    done = await process.get(job)
    assert (done.status, done.has_results) == ("succeeded", False)
    assert any(message.startswith("There is no results file: ") for message in await process.messages(job))
