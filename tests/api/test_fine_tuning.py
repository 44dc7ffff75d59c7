"""Fine-tuning jobs by the openai package, unmodified, on both surfaces: spellings, pages, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from sluicegate.api import files, fine_tuning
from sluicegate.app import Sluicegate
from sluicegate.fine_tuning.model_catalogue import is_tunable
from sluicegate.tenancy.tenants import Scope
from sluicegate.types import Model, Role
from tests.fine_tuning.workshop import BASE, jsonl

VERSION = "2024-10-21"
DEPLOYMENT = """
storage = "memory:"
keys = "memory:"
region = "local"

[pipeline]
authenticate = ["services"]
models = ["services"]

[limits]
stored_files = 10

[fine_tuning]
queued_jobs = 3
"""
SERVICES = f"""
from sluicegate import Principal, Role, hookimpl
from sluicegate.testing import MemoryKeys, MemoryStorage
from tests.fine_tuning.workshop import Trainer

trainer = Trainer()
register_models, inference, classify = trainer.register_models, trainer.inference, trainer.classify
fine_tune, forget_training = trainer.fine_tune, trainer.forget_training

@hookimpl
def open_storage(url): return MemoryStorage()
@hookimpl
def open_keys(url): return MemoryKeys()
@hookimpl
async def authenticate(headers):
    name = headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    return Principal(name, Role.{Role.CALLER.name}, "key1")
"""
JOBS = (
    ("POST", "", fine_tuning.create),
    ("GET", "", fine_tuning.list_jobs),
    ("GET", "/{job}", fine_tuning.get),
    ("DELETE", "/{job}", fine_tuning.delete),
    ("POST", "/{job}/cancel", fine_tuning.cancel),
    ("POST", "/{job}/pause", fine_tuning.pause),
    ("POST", "/{job}/resume", fine_tuning.resume),
    ("GET", "/{job}/events", fine_tuning.list_events),
    ("GET", "/{job}/checkpoints", fine_tuning.list_checkpoints),
)
SCOPE = Scope("00000000-1111-2222-3333-444444444444", "all")
SURFACES = {"classic": "/openai", "v1": "/openai/v1"}


@pytest.fixture
async def gate(make_app):
    gate = Sluicegate(make_app(DEPLOYMENT, services=SERVICES), {})
    for name in ("contoso", "fabrikam"):
        resource = {"name": name, "subscription": SCOPE.subscription, "group": SCOPE.group}
        await gate.tenants.create(SCOPE, "local", resource, 30, instead=None)
    yield gate
    await gate.shutdown()


def routes(gate: Sluicegate) -> list[Route]:
    def route(method: str, path: str, work: Callable) -> Route:
        async def endpoint(http: Request):
            return await work(gate, http)

        return Route(path, endpoint, methods=[method])

    found = [route("POST", f"{base}/files", files.create) for base in SURFACES.values()]
    found += [route("GET", f"{base}/files/{{file}}/content", files.content) for base in SURFACES.values()]
    return found + [
        route(method, f"{base}/fine_tuning/jobs{path}", work)
        for base in SURFACES.values()
        for method, path, work in JOBS
    ]


def sdk(gate: Sluicegate, surface: str, account: str = "contoso"):
    """Return the SDK's client of a surface, in this process."""
    http = httpx.AsyncClient(transport=httpx.ASGITransport(Starlette(routes=routes(gate))))
    options = {"api_key": account, "max_retries": 0, "http_client": http}
    if surface == "classic":
        return openai.AsyncAzureOpenAI(azure_endpoint="http://gate", api_version=VERSION, **options)
    return openai.AsyncOpenAI(base_url="http://gate/openai/v1/", **options)


@pytest.fixture(params=SURFACES)
def surface(request):
    return request.param


@pytest.fixture
async def client(gate, surface):
    async with sdk(gate, surface) as client:
        yield client


@pytest.fixture
async def file(client):
    return (await client.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune")).id


async def held(gate, client, file, **options):
    """Make a job of which no step is taken by itself."""
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=file, **options)
    await gate.fine_tuning["local"].jobs.runner.stop()
    return job


async def ended(gate, client, file, **options):
    """Make a job and have it come to its end."""
    job = await held(gate, client, file, **options)
    await gate.fine_tune()
    return await client.fine_tuning.jobs.retrieve(job.id)


async def test_a_job_is_shown_in_the_spelling_of_the_surface(gate, client, file, surface):
    job = await held(gate, client, file, seed=7, suffix="mine", hyperparameters={"n_epochs": 2})

    assert job.status == {"classic": "pending", "v1": "validating_files"}[surface]
    assert (job.object, job.model, job.training_file, job.seed) == ("fine_tuning.job", BASE, file, 7)
    assert (job.fine_tuned_model, job.finished_at, job.trained_tokens, job.error) == (None, None, None, None)
    assert job.hyperparameters.to_dict() == {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    if surface == "v1":
        assert (job.organization_id, job.user_provided_suffix, job.integrations) == ("contoso", "mine", [])
        assert job.method.type == "supervised"
        assert job.method.supervised.hyperparameters.n_epochs == 2
    else:
        assert job.model_extra["suffix"] == "mine"
    await gate.fine_tune()
    done = await client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.trained_tokens) == ("succeeded", 30)
    assert done.fine_tuned_model.endswith("-mine")
    assert done.hyperparameters.n_epochs == 3
    assert done.finished_at >= done.created_at
    [results] = done.result_files
    assert (await client.files.content(results)).text.startswith("step,train_loss,")


async def test_a_new_job_is_created_with_the_status_of_the_surface(gate, client, file, surface):
    answer = await client.fine_tuning.jobs.with_raw_response.create(model=BASE, training_file=file)

    id = answer.parse().id
    if surface == "v1":
        assert (answer.status_code, answer.headers.get("location")) == (200, None)
    else:
        location = f"/openai/fine_tuning/jobs/{id}?api-version={VERSION}"
        assert (answer.status_code, answer.headers["location"]) == (201, location)


async def test_a_new_job_does_not_wait_for_the_timer(gate, client, file):
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=file)

    await gate.fine_tuning["local"].jobs.runner.wake()

    assert (await client.fine_tuning.jobs.retrieve(job.id)).status == "succeeded"


async def test_events_are_listed_newest_first_page_by_page(gate, client, file, surface):
    job = await ended(gate, client, file, validation_file=file)

    events = [event async for event in client.fine_tuning.jobs.list_events(job.id, limit=4)]

    assert events[0].message == "Job succeeded."
    assert events[-1].message == f"Created fine-tuning job: {job.id}"
    assert len({event.id for event in events}) == len(events)
    measured = [event.data for event in events if event.type == "metrics"]
    assert [each["step"] for each in measured] == [3, 2, 1]
    assert measured[0]["full_valid_loss"] == 0.25
    assert {event.level for event in events} == {"info", "warning" if surface == "classic" else "warn"}


async def test_checkpoints_are_listed_newest_first_page_by_page(gate, client, file):
    job = await ended(gate, client, file)

    found = [each async for each in client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)]

    assert [each.step_number for each in found] == [3, 2, 1]
    assert found[0].fine_tuned_model_checkpoint == job.fine_tuned_model
    assert found[1].fine_tuned_model_checkpoint == f"{job.fine_tuned_model}:ckpt-step-2"
    assert found[1].metrics.train_loss == 0.5
    assert found[1].id.startswith("ftchkpt-")


async def test_models_say_whether_they_can_be_fine_tuned(gate):
    [base] = gate.models.registered()

    assert (base.name, base.tunable) == (BASE, True)
    assert not is_tunable(gate.plugins, Model("vectors", frozenset({"embeddings"}), dimensions=2), base.plugin)
    assert not is_tunable(gate.plugins, base.model, "another_plugin")


async def test_jobs_are_listed_newest_first_and_by_their_metadata(gate, client, file):
    ids = [(await held(gate, client, file, metadata={"team": team, "n": "1"})).id for team in ("a", "b", "a")]
    ids.sort(reverse=True)

    assert [job.id async for job in client.fine_tuning.jobs.list(limit=2)] == ids
    assert (await client.fine_tuning.jobs.list(limit=2)).has_more
    found = [job async for job in client.fine_tuning.jobs.list(metadata={"team": "a"}, limit=1)]
    assert len(found) == 2
    assert [job async for job in client.fine_tuning.jobs.list(metadata={"team": "c"})] == []
    bare = (await held(gate, client, file)).id
    assert [job.id async for job in client.fine_tuning.jobs.list(extra_query={"metadata": "null"})] == [bare]
    await client.fine_tuning.jobs.cancel(bare)
    async with sdk(gate, "v1") as v1:
        assert {(job.metadata or {}).get("team") async for job in v1.fine_tuning.jobs.list()} == {"a", "b", None}


async def test_a_job_is_paused_resumed_and_cancelled(gate, client, file):
    job = await held(gate, client, file)
    jobs = gate.fine_tuning["local"].jobs
    runner, store = jobs.runner, jobs.store
    with pytest.raises(openai.ConflictError) as caught:
        await client.fine_tuning.jobs.pause(job.id)
    assert caught.value.code == "unexpectedEntityState"
    assert caught.value.response.headers["x-should-retry"] == "false"
    while (await store.get("contoso", job.id)).step < 1:
        await runner.advance(await store.get("contoso", job.id))

    pausing = await client.fine_tuning.jobs.pause(job.id)
    await gate.fine_tune()
    paused = await client.fine_tuning.jobs.retrieve(job.id)
    await client.fine_tuning.jobs.resume(job.id)
    cancelled = await client.fine_tuning.jobs.cancel(job.id)

    assert (pausing.status, paused.status, cancelled.status) == ("running", "paused", "cancelled")
    await gate.fine_tune()
    assert (await client.fine_tuning.jobs.checkpoints.list(job.id)).data == []


async def test_a_job_that_is_over_is_deleted_with_a_receipt(gate, client, file, surface):
    job = await held(gate, client, file)
    path = f"/fine_tuning/jobs/{job.id}"
    with pytest.raises(openai.ConflictError):
        await client.delete(path, cast_to=httpx.Response)
    await gate.fine_tune()

    answer = await client.delete(path, cast_to=httpx.Response)

    if surface == "classic":
        assert (answer.status_code, answer.content) == (204, b"")
        receipt = answer.headers["x-sluicegate-receipt"]
    else:
        document = answer.json()
        receipt = document.pop("receipt")
        assert document == {"object": "fine_tuning.job", "id": job.id, "deleted": True}
    issued = await gate.regions.home.receipts.get("contoso", receipt)
    assert (issued.document["kind"], issued.document["subject"]) == ("delete.job", job.id)
    with pytest.raises(openai.NotFoundError):
        await client.fine_tuning.jobs.retrieve(job.id)


async def test_another_account_finds_no_job_and_no_file(gate, client, file, surface):
    job = await ended(gate, client, file)

    async with sdk(gate, surface, "fabrikam") as other:
        jobs = other.fine_tuning.jobs
        for ask in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list):
            with pytest.raises(openai.NotFoundError) as caught:
                await ask(job.id)
            assert caught.value.code == "notFound"
        assert (await jobs.list()).data == []
        for options in ({"model": BASE, "training_file": file}, {"model": job.fine_tuned_model, "training_file": file}):
            with pytest.raises(openai.BadRequestError):
                await jobs.create(**options)


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"model": "unknown"}, "model", "model_not_found"),
        ({"training_file": "file-1"}, "training_file", "invalid_value"),
        ({"validation_file": "file-1"}, "validation_file", "invalid_value"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations", "unsupported_parameter"),
        ({"method": {"type": "reinforcement"}}, "method.type", "unsupported_parameter"),
        ({"method": {"type": "magic"}}, "method.type", "invalid_value"),
        ({"suffix": "a.b"}, "suffix", "invalid_value"),
        ({"suffix": "a" * 65}, "suffix", "invalid_value"),
        ({"seed": -1}, "seed", "integer_below_min_value"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "integer_below_min_value"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs", "invalid_value"),
        ({"hyperparameters": {"beta": 0.1}}, "hyperparameters.beta", "unknown_parameter"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method", "invalid_value"),
        (
            {"hyperparameters": {}, "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}}},
            "hyperparameters",
            "invalid_value",
        ),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"extra_body": {"canary": 1}}, "canary", "unknown_parameter"),
    ],
)
async def test_what_is_wrong_is_named(client, file, options, param, code):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.fine_tuning.jobs.create(**({"model": BASE, "training_file": file} | options))

    assert (caught.value.param, caught.value.code) == (param, code)


async def test_a_file_of_another_purpose_trains_nobody(client):
    other = await client.files.create(file=("batch.jsonl", jsonl()), purpose="batch")

    with pytest.raises(openai.BadRequestError) as caught:
        await client.fine_tuning.jobs.create(model=BASE, training_file=other.id)

    assert caught.value.param == "training_file"


async def test_settings_of_a_method_are_taken_over_and_a_training_type_is_accepted(gate, client, file):
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5, "n_epochs": "auto"}}}

    job = await held(gate, client, file, method=method, extra_body={"trainingType": "GlobalStandard"})

    async with sdk(gate, "v1") as v1:
        shown = (await v1.fine_tuning.jobs.retrieve(job.id)).method
    assert (shown.type, shown.dpo.hyperparameters.beta, shown.dpo.hyperparameters.n_epochs) == ("dpo", 0.5, "auto")


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"limit": "many"}])
@pytest.mark.parametrize("what", ["list", "list_events"])
async def test_a_page_that_makes_no_sense_is_refused(gate, client, file, what, query):
    job = await held(gate, client, file)
    arguments = [] if what == "list" else [job.id]

    with pytest.raises(openai.BadRequestError) as caught:
        await getattr(client.fine_tuning.jobs, what)(*arguments, extra_query=query)

    assert caught.value.param == "limit"


@pytest.mark.parametrize("query", [{"after": "nope"}, {"after": "ftjob-1"}, {"metadata": "team"}])
async def test_a_listing_of_jobs_that_makes_no_sense_is_refused(client, query):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.fine_tuning.jobs.list(extra_query=query)

    assert caught.value.param == next(iter(query))


@pytest.mark.parametrize("number", ["+0000000000a", "0x0000000001", "0000_0000001", "           1"])
async def test_a_number_that_is_written_otherwise_is_no_event(gate, client, file, number):
    job = await held(gate, client, file)

    with pytest.raises(openai.BadRequestError):
        await client.fine_tuning.jobs.list_events(job.id, after=f"ftevent-{number}{job.id[-20:]}")


@pytest.mark.parametrize("after", ["ftevent-1", "x", "ftevent-" + "z" * 32, "ftevent-" + "0" * 32])
async def test_events_after_what_is_no_event_of_the_job_are_refused(gate, client, file, after):
    job = await held(gate, client, file)

    with pytest.raises(openai.BadRequestError) as caught:
        await client.fine_tuning.jobs.list_events(job.id, after=after)

    assert caught.value.param == "after"


async def test_too_many_jobs_are_told_not_to_try_again(gate, client, file):
    for _ in range(4):
        await held(gate, client, file)

    with pytest.raises(openai.RateLimitError) as caught:
        await held(gate, client, file)

    assert caught.value.code == "quotaExceeded"
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_a_purged_account_leaves_no_job_and_no_model(gate, client, file):
    region = gate.regions.home
    await ended(gate, client, file, metadata={"team": "a"})
    await held(gate, client, file)
    async with sdk(gate, "v1", "fabrikam") as other:
        kept = (await other.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune")).id
        job = await ended(gate, other, kept)

    await gate.erasure.account(await gate.tenants.get("contoso"), actor="deployment/operator")

    left = []
    for container in await region.blobs.containers():
        left += [f"{container}/{blob.name}" async for blob in region.blobs.list(container) if "contoso" in blob.name]
    assert {name.partition("/")[0] for name in left} <= {"accounts", "receipts"}
    assert await region.jobs.ids("fabrikam") == [job.id]
