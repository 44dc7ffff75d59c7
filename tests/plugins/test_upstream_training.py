import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta

import pytest
from pydantic import ValidationError

from plugins import openai_upstream
from plugins.openai_upstream import Config, remote_metrics
from plugins.openai_upstream.training import MARGIN_S
from plugins.openai_upstream.tuned import KEPT_S, TunedNames
from sluicegate import ChatRequest, ModelUnavailable, TrainingFailed
from sluicegate.errors import ApiError, Conflict, NotFound
from sluicegate.training import Hyperparameters, Metrics, TrainingJob, TrainingStep
from sluicegate.types import Model, utc_now
from tests.plugins.training_upstream import TrainingUpstream, training_upstream

CANARY = "canary-4711"
KEY_SETTING = "TEST_UPSTREAM_KEY"
TRAINING = json.dumps({"messages": [{"role": "user", "content": CANARY}]}).encode() + b"\n"
VALIDATION = TRAINING.replace(b"4711", b"4712")
JOB_ID = f"ftjob-{'0' * 31}7"
JOB = TrainingJob(JOB_ID, "gpt", "supervised", Hyperparameters(n_epochs=2), seed=7, suffix="mine")
MODEL = Model("gpt", frozenset({"chat.completions"}))
REFUSED = {"error": {"code": "invalid_training_file", "message": f"row 1: {CANARY}", "param": "training_file"}}
SURFACES = {
    "azure": ({"kind": "azure"}, ""),
    "azure dated": ({"kind": "azure", "api_version": "2024-10-21"}, ""),
    "openai": ({"kind": "openai"}, "/v1"),
    "compatible": ({"kind": "compatible"}, "/v1"),
}


@dataclass
class Kept:
    """Weights as the core hands them out."""

    id: str
    content: bytes | None

    async def read(self) -> AsyncIterator[bytes]:
        if self.content is None:
            raise NotFound("deleted")
        yield self.content

    async def exist(self) -> bool:
        return self.content is not None


@dataclass
class Files:
    """A job's files, in memory."""

    validates: bool = True
    start: Kept | None = None
    written: dict[str, bytes] = field(default_factory=dict)

    async def training(self) -> AsyncIterator[bytes]:
        yield TRAINING[:10]
        yield TRAINING[10:]

    def validation(self) -> AsyncIterator[bytes] | None:
        return self._validation() if self.validates else None

    async def _validation(self) -> AsyncIterator[bytes]:
        yield VALIDATION

    def starting_weights(self) -> Kept | None:
        return self.start

    async def write(self, name: str, data: AsyncIterator[bytes]) -> None:
        self.written[name] = b"".join([piece async for piece in data])


@dataclass
class Customer:
    """A job and what is kept of it, step by step, as the core keeps it."""

    config: Config
    job: TrainingJob = JOB
    files: Files = field(default_factory=Files)
    steps: list[TrainingStep] = field(default_factory=list)

    async def step(self, *, within: timedelta = timedelta(minutes=5)) -> TrainingStep:
        step = await openai_upstream.fine_tune(self.job, self.files, utc_now() + within, self.config)
        self.job = replace(self.job, state=json.loads(json.dumps(step.state)))
        self.steps.append(step)
        return step

    async def until_it_runs(self) -> None:
        while "job" not in self.job.state:
            await self.step()

    async def to_the_end(self, upstream: TrainingUpstream) -> None:
        """Go on until a step is the last; a step that the upstream broke off is done again."""
        while not (self.steps and self.steps[-1].finished):
            try:
                await self.step()
            except ModelUnavailable:
                continue
            if upstream.jobs and "job" in self.job.state and upstream.job["status"] == "queued":
                upstream.succeed()

    @property
    def rows(self) -> list[Metrics]:
        return [row for step in self.steps for row in step.metrics]

    @property
    def weights(self) -> list[dict]:
        return [
            json.loads(self.files.written[checkpoint.weights]) for step in self.steps for checkpoint in step.checkpoints
        ]


@pytest.fixture
async def upstream(monkeypatch) -> AsyncIterator[TrainingUpstream]:
    monkeypatch.setenv(KEY_SETTING, "key-of-the-upstream")
    async with training_upstream() as upstream:
        yield upstream


@pytest.fixture
async def customer(upstream) -> AsyncIterator[Callable[..., Customer]]:
    """Returns a function from a surface's name to somebody whose job is to be trained there."""
    opened = []

    def make(surface="azure", *, job=JOB, files=None, **model) -> Customer:
        settings, path = SURFACES[surface]
        key = {} if surface == "compatible" else {"api_key_setting": KEY_SETTING}
        retention = {"retention": "nothing"} if surface == "compatible" else {}
        served = {"id": "gpt", "operations": ["chat.completions"], "training_name": "gpt-2025", **retention, **model}
        entry = {"endpoint": upstream.root + path, **settings, **key, "models": [served]}
        opened.append(Config.model_validate({"upstreams": [entry]}))
        return Customer(opened[-1], job, files or Files())

    yield make
    for config in opened:
        await openai_upstream.shutdown(config)


# --- from files to a model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", SURFACES)
async def test_a_job_runs_at_the_upstream_and_its_results_come_back(upstream, customer, surface):
    somebody = customer(surface)

    await somebody.step()
    assert {upstream.files[id]["filename"]: content for id, content in upstream.contents.items()} == {
        f"{JOB_ID}-training.jsonl": TRAINING,
        f"{JOB_ID}-validation.jsonl": VALIDATION,
    }
    await somebody.until_it_runs()
    training, validation = upstream.files
    [sent] = upstream.created
    parameters = sent.pop("method", None) or {
        "type": "supervised",
        "supervised": {"hyperparameters": sent.pop("hyperparameters")},
    }
    assert parameters == {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    assert sent == {
        "model": "gpt-2025", "training_file": training, "validation_file": validation, "seed": 7, "suffix": "mine",
    }  # fmt: skip
    waiting = await somebody.step()
    assert waiting.not_before is not None
    assert not waiting.finished
    assert waiting.messages == ("The upstream says that the job is queued.",)
    assert (await somebody.step()).messages == ()
    upstream.succeed()
    await somebody.to_the_end(upstream)

    last = somebody.steps[-1]
    assert [row.step for row in somebody.rows] == [1, 2, 3, 4]
    assert somebody.rows[1] == Metrics(2, 2.5, 0.5, 2.75, 0.45, 2.8, 0.44)
    assert somebody.rows[2] == Metrics(3, 1.5, 0.75)
    assert last.hyperparameters == Hyperparameters(n_epochs=2, batch_size=1, learning_rate_multiplier=1.5)
    assert last.trained_tokens == 1234
    assert [checkpoint.metrics.step for step in somebody.steps for checkpoint in step.checkpoints] == [2, 4]
    names = ["ft:gpt-2025:org::abc:ckpt-step-2", "ft:gpt-2025:org::abc"]
    assert [weights["model"] for weights in somebody.weights] == names
    deployments = [f"{JOB_ID}-step-2", JOB_ID] if surface.startswith("azure") else [None, None]
    assert [weights["deployment"] for weights in somebody.weights] == deployments
    assert upstream.models == set(names)
    assert not upstream.files, "the upstream's copies of the files are deleted"
    versions = {query.get("api-version") for query in upstream.queries}
    assert versions == ({"2024-10-21"} if surface == "azure dated" else {None})


async def test_nothing_of_an_example_is_in_what_a_step_returns(upstream, customer):
    somebody = customer()
    await somebody.until_it_runs()
    upstream.happened(None, f"about {CANARY}")
    upstream.happened(1, f"Step 1 on {CANARY}")
    await somebody.to_the_end(upstream)

    assert CANARY not in json.dumps([asdict(step) for step in somebody.steps], default=str)


async def test_a_preference_job_without_validation_goes_out_as_such(upstream, customer):
    job = replace(JOB, method="dpo", hyperparameters=Hyperparameters(beta=0.25), suffix=None)
    somebody = customer("azure dated", job=job, files=Files(validates=False), training_type="GlobalStandard")

    await somebody.until_it_runs()

    assert upstream.created == [
        {
            "model": "gpt-2025", "training_file": next(iter(upstream.files)), "seed": 7, "trainingType": "GlobalStandard",
            "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.25}}},
        }
    ]  # fmt: skip


async def test_a_job_goes_on_from_a_fine_tuned_model(upstream, customer):
    start = Kept("w1", b'{"model": "ft:gpt-2025:org::first", "deployment": "ftjob-1"}')
    somebody = customer(files=Files(start=start))

    await somebody.until_it_runs()

    assert upstream.created[0]["model"] == "ft:gpt-2025:org::first"


async def test_a_job_waits_until_the_upstream_has_checked_its_files(upstream, customer):
    upstream.file_status = "pending"
    somebody = customer()
    await somebody.step()

    waiting = await somebody.step()

    assert waiting.not_before is not None
    assert not upstream.created
    for file in upstream.files.values():
        file["status"] = "processed"
    await somebody.until_it_runs()
    assert len(upstream.created) == 1


async def test_checkpoints_that_are_too_many_are_deleted_at_the_upstream(upstream, customer):
    somebody = customer()
    await somebody.until_it_runs()
    upstream.succeed()
    for step in (1, 3):
        fields = {
            "id": f"ftckpt-{step}",
            "fine_tuned_model_checkpoint": f"ft:{step}",
            "step_number": step,
            "metrics": {},
        }
        upstream.checkpoints[upstream.job["id"]].append(fields)
        upstream.models.add(f"ft:{step}")

    await somebody.to_the_end(upstream)

    model = "ft:gpt-2025:org::abc"
    assert [weights["model"] for weights in somebody.weights] == [f"{model}:ckpt-step-2", "ft:3", model]
    assert upstream.models == {f"{model}:ckpt-step-2", "ft:3", model}


# --- numbers while it runs -------------------------------------------------------------------------------------------


async def test_steps_are_told_as_they_come_and_none_twice(upstream, customer):
    upstream.page = 2
    somebody = customer()
    await somebody.until_it_runs()
    for step in (1, None, 2):
        upstream.happened(step)
    await somebody.step()
    assert [row.step for row in somebody.rows] == [1, 2]
    for step in (None, 3):
        upstream.happened(step)
    await somebody.step()

    assert [row.step for row in somebody.rows] == [1, 2, 3]
    assert somebody.rows[2] == Metrics(3, 1.5, 0.75)


async def test_what_events_leave_out_comes_with_the_results(upstream, customer):
    somebody = customer()
    await somebody.until_it_runs()
    upstream.happened(1)
    upstream.happened(3)
    await somebody.step()
    assert [row.step for row in somebody.rows] == [1]

    upstream.succeed(in_base64=True)
    await somebody.to_the_end(upstream)

    assert [row.step for row in somebody.rows] == [1, 2, 3, 4]


async def test_events_that_begin_with_the_oldest_are_read_too(upstream, customer):
    upstream.page = 1
    somebody = customer()
    await somebody.until_it_runs()
    for step in (1, 2, 3):
        upstream.happened(step, at=step)
    upstream.events[upstream.job["id"]].reverse()

    await somebody.step()

    assert [row.step for row in somebody.rows] == [1, 2, 3]


@pytest.mark.parametrize("refusal", [(404, {}), (200, "not a table")])
async def test_a_model_without_results_is_a_model(upstream, customer, refusal):
    somebody = customer()
    await somebody.until_it_runs()
    upstream.succeed()
    upstream.refusals[f"GET files/{upstream.job['result_files'][0]}/content"] = refusal

    await somebody.to_the_end(upstream)

    assert somebody.weights[-1]["model"] == "ft:gpt-2025:org::abc"
    assert somebody.steps[-1].checkpoints[0].metrics == Metrics(
        4, None, None, full_valid_loss=0.5, full_valid_mean_token_accuracy=0.25
    )


def test_cells_that_are_no_numbers_are_empty():
    rows = remote_metrics.results(b"step,train_loss,valid_loss,note\n1,nan,0.5,secret\nx,1,1,\n2,,inf,\n")

    assert rows == {1: Metrics(1, None, None, valid_loss=0.5)}


# --- crashes ---------------------------------------------------------------------------------------------------------


async def story(upstream: TrainingUpstream, somebody: Customer) -> None:
    await somebody.to_the_end(upstream)
    assert len(upstream.created) == 1
    assert [weights["model"] for weights in somebody.weights] == [
        "ft:gpt-2025:org::abc:ckpt-step-2", "ft:gpt-2025:org::abc",
    ]  # fmt: skip
    assert [row.step for row in somebody.rows] == [1, 2, 3, 4]
    assert not upstream.files


async def test_a_connection_that_breaks_after_any_request_costs_nothing(monkeypatch):
    monkeypatch.setenv(KEY_SETTING, "key")
    place, requests = 0, 1
    while place < requests:
        async with training_upstream() as upstream:
            upstream.fault = lambda number, _what, place=place: number == place
            entry = {"kind": "openai", "endpoint": f"{upstream.root}/v1", "api_key_setting": KEY_SETTING}
            served = {"id": "gpt", "operations": ["chat.completions"], "training_name": "gpt-2025"}
            config = Config.model_validate({"upstreams": [{**entry, "models": [served]}]})
            await story(upstream, Customer(config))
            await openai_upstream.shutdown(config)
            requests = len(upstream.requests)
            place += 1

    assert place > 15


async def test_a_step_whose_state_was_lost_is_done_again_without_a_second_effect(upstream, customer):
    somebody = customer()

    while not (somebody.steps and somebody.steps[-1].finished):
        await openai_upstream.fine_tune(somebody.job, somebody.files, utc_now() + timedelta(minutes=5), somebody.config)
        await somebody.step()
        if upstream.jobs and "job" in somebody.job.state and upstream.job["status"] == "queued":
            upstream.succeed()

    assert len(upstream.created) == 1
    assert not upstream.files
    assert [row.step for row in somebody.rows] == [1, 2, 3, 4]


async def test_a_step_ends_before_its_deadline(upstream, customer):
    somebody = customer()
    asked = asyncio.Event()

    async def never(_request):
        asked.set()
        await asyncio.Event().wait()

    upstream._answer = lambda request, _what: never(request)

    with pytest.raises(ModelUnavailable):
        await somebody.step(within=timedelta(seconds=MARGIN_S + 1))

    assert asked.is_set()


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "code", "param"),
    [
        (400, REFUSED, "invalid_training_file", "training_file"),
        (400, {"error": {"code": f"{CANARY} is no name", "message": CANARY, "param": CANARY}}, "400", None),
        (403, {"error": {"code": "x", "message": CANARY}}, None, None),
        (404, {"error": {"code": "model_not_found", "message": CANARY}}, "model_not_found", None),
        (409, {"error": {"code": "conflict", "message": CANARY}}, "conflict", None),
        (429, {"error": {"code": "quota", "message": CANARY}}, None, None),
        (401, {}, None, None),
        (500, {}, None, None),
        (200, ["no job"], None, None),
    ],
)
async def test_what_an_upstream_refuses_fails_the_job_and_what_may_pass_lets_it_wait(
    upstream, customer, caplog, status, body, code, param
):
    somebody = customer()
    await somebody.step()
    upstream.refusals["POST fine_tuning/jobs"] = (status, body)

    with pytest.raises((TrainingFailed, ModelUnavailable)) as raised:
        await somebody.step()

    assert isinstance(raised.value, TrainingFailed) is (code is not None)
    if code is not None:
        assert (raised.value.code, raised.value.param) == (code, param)
    assert CANARY not in str(raised.value) + caplog.text


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"status": "failed", "error": REFUSED["error"]}, "invalid_training_file", "code invalid_training_file"),
        ({"status": "failed", "error": {"code": "x y", "message": CANARY}}, "trainingFailed", "failed"),
        ({"status": "failed", "error": None}, "trainingFailed", "failed"),
        (
            {
                "status": "failed",
                "error": {"code": "unsafe", "message": f"exceeds: [hate_fairness, violence] {CANARY}"},
            },
            "unsafe",
            "[hate_fairness, violence]",
        ),
        ({"status": "cancelled"}, "cancelled", "cancelled at the upstream"),
    ],
)
async def test_why_a_job_failed_is_told_without_the_upstreams_text(upstream, customer, change, code, words):
    somebody = customer()
    await somebody.until_it_runs()
    upstream.job.update(change)

    with pytest.raises(TrainingFailed) as raised:
        await somebody.step()

    assert raised.value.code == code
    assert words in raised.value.message
    assert CANARY not in raised.value.message


async def test_a_file_that_the_upstream_finds_wrong_fails_the_job(upstream, customer):
    upstream.file_status = "error"
    somebody = customer()
    somebody.job = replace(JOB, state={"training": "file-1"})
    upstream.files["file-1"] = {"id": "file-1", "status": "error"}

    with pytest.raises(TrainingFailed) as raised:
        await somebody.step()

    assert raised.value.param == "training_file"


async def test_a_job_that_was_deleted_at_the_upstream_fails(upstream, customer):
    somebody = customer()
    await somebody.until_it_runs()
    upstream.jobs.clear()

    with pytest.raises(TrainingFailed, match="no longer has the job"):
        await somebody.step()


async def test_a_model_without_a_training_name_sends_nothing(upstream, customer):
    with pytest.raises(TrainingFailed, match="cannot be fine-tuned"):
        await customer(training_name="").step()

    assert not upstream.requests


async def test_a_copy_that_the_upstream_does_not_delete_is_told(upstream, customer):
    somebody = customer()
    await somebody.step()
    [copy, _] = upstream.files
    upstream.refusals[f"DELETE files/{copy}"] = (409, {})

    await somebody.to_the_end(upstream)

    assert f"The upstream refuses to delete its copy {copy}: delete it there." in somebody.steps[-1].messages


async def test_whoever_asks_what_the_provider_keeps_is_told_of_training_files(customer):
    [plain] = openai_upstream.register_models(customer(training_name="").config)
    [trained] = openai_upstream.register_models(customer().config)

    assert "fine-tuning" not in plain.retention
    assert trained.retention.startswith(plain.retention)
    assert "Files of fine-tuning jobs go there too" in trained.retention


@pytest.mark.parametrize(
    ("upstream_settings", "problem"),
    [({"kind": "openai"}, "training_type is for kind azure"), ({"kind": "azure"}, "training_type")],
)
def test_where_to_train_is_checked(upstream_settings, problem):
    wrong = "Developer" if upstream_settings["kind"] == "openai" else "Anywhere"
    model = {"id": "gpt", "operations": ["chat.completions"], "training_type": wrong}
    entry = {"endpoint": "https://host", "api_key_setting": KEY_SETTING, **upstream_settings, "models": [model]}

    with pytest.raises(ValidationError, match=problem):
        Config.model_validate({"upstreams": [entry]})


# --- deletion --------------------------------------------------------------------------------------------------------


async def test_a_job_that_is_cancelled_leaves_nothing_at_the_upstream(upstream, customer):
    somebody = customer()
    await somebody.until_it_runs()
    ids, job = [*upstream.files], upstream.job["id"]
    upstream.checkpoints[job] = [
        {"id": "c", "fine_tuned_model_checkpoint": "ft:early", "step_number": 2, "metrics": {}}
    ]
    upstream.models.add("ft:early")

    gone = await openai_upstream.forget_training(somebody.job, somebody.config)

    host = upstream.root.removeprefix("http://")
    assert gone == tuple(
        f"{each} at {host}" for each in (f"job {job}", "model ft:early", *(f"file {id}" for id in ids))
    )
    assert upstream.job["status"] == "cancelled"
    assert not upstream.files
    assert not upstream.models


@pytest.mark.parametrize("steps", [1, 2])
async def test_what_a_step_left_before_it_died_is_found(upstream, customer, steps):
    somebody = customer()
    for _ in range(steps):
        await somebody.step()

    await openai_upstream.forget_training(JOB, somebody.config)

    assert not upstream.files
    assert all(job["status"] == "cancelled" for job in upstream.jobs.values())


async def test_deleting_again_finds_nothing_to_do(upstream, customer):
    somebody = customer()
    await somebody.until_it_runs()
    await openai_upstream.forget_training(somebody.job, somebody.config)

    again = await openai_upstream.forget_training(somebody.job, somebody.config)

    assert not [name for name in again if name.startswith(("job", "model"))]
    assert await openai_upstream.forget_training(JOB, somebody.config) == ()


async def test_models_that_were_handed_over_outlive_their_job_and_others_do_not(upstream, customer):
    finished, broken = customer(), customer()
    await finished.to_the_end(upstream)
    handed_over = set(upstream.models)
    await openai_upstream.forget_training(finished.job, finished.config)
    assert upstream.models == handed_over

    broken.job = replace(finished.job, state={**finished.job.state, "finished": False})
    await openai_upstream.forget_training(broken.job, broken.config)

    assert upstream.models == {"ft:gpt-2025:org::abc:ckpt-step-2"}


async def test_a_deletion_that_the_upstream_cannot_do_now_is_not_reported_as_done(upstream, customer):
    somebody = customer()
    await somebody.until_it_runs()
    upstream.refusals[f"DELETE files/{next(iter(upstream.files))}"] = (503, {})

    with pytest.raises(ApiError):
        await openai_upstream.forget_training(somebody.job, somebody.config)

    upstream.refusals.clear()
    assert len(await openai_upstream.forget_training(somebody.job, somebody.config)) == 2


async def test_a_model_is_deleted_at_the_upstream(upstream, customer):
    somebody = customer()
    await somebody.to_the_end(upstream)
    names = [checkpoint.elsewhere for step in somebody.steps for checkpoint in step.checkpoints]

    gone = [await openai_upstream.forget_model(name, MODEL, somebody.config) for name in names]

    host = upstream.root.removeprefix("http://")
    assert gone == [(f"model ft:gpt-2025:org::abc:ckpt-step-2 at {host}",), (f"model ft:gpt-2025:org::abc at {host}",)]
    assert not upstream.models
    assert await openai_upstream.forget_model(names[0], MODEL, somebody.config) == gone[0]


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ((409, {}), Conflict),
        ((404, {}), ModelUnavailable),
        ((405, {}), ModelUnavailable),
        ((500, {}), ModelUnavailable),
    ],
)
async def test_a_model_that_is_still_there_is_not_reported_as_gone(upstream, customer, refusal, error):
    somebody = customer()
    await somebody.to_the_end(upstream)
    upstream.refusals["DELETE models/ft:gpt-2025:org::abc"] = refusal

    with pytest.raises(error):
        await openai_upstream.forget_model("ft:gpt-2025:org::abc", MODEL, somebody.config)


# --- use -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("surface", "name"), [("azure", JOB_ID), ("openai", "ft:gpt-2025:org::abc")])
async def test_a_fine_tuned_model_is_asked_for_by_its_name_or_deployment(upstream, customer, surface, name):
    somebody = customer(surface)
    await somebody.to_the_end(upstream)
    asked = {"model": "mine", "messages": [{"role": "user", "content": "hello"}]}
    request = ChatRequest.model_validate_json(json.dumps(asked))

    for weights in (Kept("w1", somebody.files.written["model"]), None):
        with pytest.raises(ModelUnavailable):
            await anext(openai_upstream.inference(request, MODEL, weights, somebody.config))

    assert [body["model"] for body in upstream.asked] == [name, "gpt"]


async def test_a_models_name_is_read_once_in_a_while_and_forgotten_with_the_model():
    now = [0.0]
    names = TunedNames(lambda: now[0])
    weights = Kept("w1", b'{"model": "ft:a", "deployment": null}')
    other = Kept("w2", b'{"model": "ft:b", "deployment": "ftjob-b"}')

    assert [(await names.get(each)).name for each in (weights, other)] == ["ft:a", "ftjob-b"]
    weights.content = None
    now[0] = KEPT_S - 1
    assert (await names.get(weights)).name == "ft:a"
    now[0] = KEPT_S
    with pytest.raises(NotFound):
        await names.get(weights)
