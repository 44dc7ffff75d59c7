"""Fine-tuned models by HTTP: who sees, deploys and deletes which, and who answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sluicegate.errors import ModelUnavailable, StorageUnavailable
from sluicegate.fine_tuning.tuned_models import TunedModel
from sluicegate.testing import FrozenClock
from tests.inside import ARM, COMPLETIONS, Tenant, folders, open_app

JOB = "ftjob-" + "1" * 32
MODELS = "/openai/v1/models"
ID = "rehearsal-chat.ft-" + "2" * 32 + "-mine"


@pytest.fixture
async def tenants(tmp_path):
    """Two accounts, the first with a fine-tuned model."""
    gate = open_app(tmp_path, folders(tmp_path, "local"))
    await gate.start()
    first, second = [await Tenant.create(gate, name, "local") for name in ("first", "second")]
    yield first, second
    for tenant in (first, second):
        for http in (tenant.caller, tenant.officer, tenant.operator):
            await http.aclose()
    await gate.shutdown()


async def learn(
    tenant: Tenant, *, deployable: bool | None = True, base: str = "rehearsal-chat", elsewhere: str | None = None
) -> None:
    region = await tenant.gate.region("local")

    async def weights():
        yield b"I have learnt. "

    await region.tuned_models._files.store(tenant.name, JOB).write("w1", weights())
    id = ID.replace("rehearsal-chat", base)
    model = TunedModel(id, tenant.name, base, JOB, None, datetime(2026, 1, 1, tzinfo=UTC), "w1", deployable, elsewhere)
    await region.tuned_models.add(model)


def blobs(folder) -> set[str]:
    storage = folder / "local" / "storage"
    return {str(path.relative_to(storage)) for path in storage.rglob("*") if path.is_file()}


async def deploy(tenant: Tenant, model: str = ID, name: str = "tuned"):
    properties = {"model": {"format": "OpenAI", "name": model, "version": "1"}}
    body = {"sku": {"name": "Standard", "capacity": 1000}, "properties": properties}
    return await tenant.operator.put(f"{tenant.path}/deployments/{name}", params=ARM, json=body)


async def ask(tenant: Tenant, deployment: str = "tuned"):
    body = {"model": deployment, "messages": [{"role": "user", "content": "hello"}]}
    return await tenant.caller.post(COMPLETIONS, json=body)


async def test_a_deployment_of_a_fine_tuned_model_answers_with_its_weights_and_name(tenants):
    tenant, _ = tenants
    await learn(tenant)

    made = await deploy(tenant)
    answer = (await ask(tenant)).json()
    base = (await ask(tenant, "chat")).json()

    assert made.status_code == 201
    assert made.json()["properties"]["capabilities"] == {"chatCompletion": "true", "completion": "true"}
    assert answer["choices"][0]["message"]["content"] == "I have learnt. You said: hello"
    assert answer["model"] == ID
    assert base["choices"][0]["message"]["content"] == "You said: hello"
    assert base["model"] == "rehearsal-chat"


async def test_what_is_kept_of_an_answer_names_the_fine_tuned_model(tenants):
    tenant, _ = tenants
    await learn(tenant)
    await deploy(tenant)
    id = (await ask(tenant)).headers["x-request-id"]

    kept = await tenant.officer.get(f"/governance/retained/{id}", params={"reason": "ticket 4711"})

    assert ID in kept.text


async def test_a_model_is_no_model_of_another_account(tenants):
    owner, other = tenants
    await learn(owner)

    refused = await deploy(other)

    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "DeploymentModelNotSupported"
    assert refused.text.replace(other.name, "") == (await deploy(other, f"{ID}x")).text.replace(other.name, "")


@pytest.mark.parametrize(
    ("deployable", "why"), [(None, "has not been evaluated yet"), (False, "has not passed its safety evaluation")]
)
async def test_a_model_without_a_good_verdict_is_not_deployed(tenants, deployable, why):
    tenant, _ = tenants
    await learn(tenant, deployable=deployable)

    refused = await deploy(tenant)

    assert refused.status_code == 400
    assert why in refused.json()["error"]["message"]


async def test_a_model_whose_base_is_gone_is_not_there(tenants):
    tenant, _ = tenants
    await learn(tenant, base="retired")

    assert (await deploy(tenant, ID.replace("rehearsal-chat", "retired"))).status_code == 400


async def test_a_warm_request_looks_nothing_up(tenants, monkeypatch):
    tenant, _ = tenants
    await learn(tenant)
    await deploy(tenant)
    await ask(tenant)
    region = await tenant.gate.region("local")
    looked = []
    monkeypatch.setattr(region.tuned_models, "get", lambda *asked: looked.append(asked))

    assert (await ask(tenant)).status_code == 200
    assert not looked


# --- seen and deleted ------------------------------------------------------------------------------------------------


async def test_a_model_is_listed_and_described_in_its_account_alone(tenants):
    owner, other = tenants
    await learn(owner)

    listed = [(await each.caller.get(MODELS)).json()["data"] for each in tenants]
    read = await owner.caller.get(f"{MODELS}/{ID}")

    assert [model["id"] for model in listed[0]] == ["rehearsal-chat", "rehearsal-embedding", ID]
    assert ID not in [model["id"] for model in listed[1]]
    assert read.json() == listed[0][2]
    assert (read.json()["model"], read.json()["fine_tune"], read.json()["created"]) == (
        "rehearsal-chat",
        JOB,
        1767225600,
    )
    assert read.json()["capabilities"]["inference"] is True
    assert (await other.caller.get(f"{MODELS}/{ID}")).status_code == 404


async def test_a_deleted_model_leaves_a_receipt_and_nothing_else(tenants, tmp_path):
    tenant, _ = tenants
    before = blobs(tmp_path)
    await learn(tenant)

    deleted = await tenant.caller.delete(f"{MODELS}/{ID}")

    assert deleted.status_code == 200
    assert deleted.json() | {"receipt": ""} == {"id": ID, "object": "model", "deleted": True, "receipt": ""}
    receipt = (await tenant.officer.get(f"/governance/receipts/{deleted.json()['receipt']}")).json()
    assert (receipt["kind"], receipt["subject"]) == ("delete.model", ID)
    assert receipt["removed"][0]["blobs"] == 3
    assert {name.partition("/")[0] for name in blobs(tmp_path) - before} <= {"receipts", "audit", "audit-tree"}
    assert (await tenant.caller.delete(f"{MODELS}/{ID}")).status_code == 404
    assert (await deploy(tenant)).status_code == 400


async def test_a_model_that_is_deployed_stays_and_the_sdk_asks_once(tenants):
    tenant, _ = tenants
    await learn(tenant)
    await deploy(tenant)

    refused = await tenant.caller.delete(f"{MODELS}/{ID}")

    assert refused.status_code == 409
    assert refused.headers["x-should-retry"] == "false"
    assert "'tuned'" in refused.json()["error"]["message"]
    await tenant.operator.delete(f"{tenant.path}/deployments/tuned", params=ARM)
    assert (await tenant.caller.delete(f"{MODELS}/{ID}")).status_code == 200


@pytest.mark.parametrize(("name", "status"), [("rehearsal-chat", 403), ("unknown", 404), (ID, 404)])
async def test_only_an_accounts_own_models_can_be_deleted(tenants, name, status):
    owner, other = tenants
    await learn(owner)

    refused = await other.caller.delete(f"{MODELS}/{name}")

    assert refused.status_code == status
    assert (await owner.caller.get(f"{MODELS}/{ID}")).status_code == 200


async def test_a_model_that_is_elsewhere_is_deleted_there_first_and_the_receipt_names_it(tenants, monkeypatch):
    tenant, _ = tenants
    await learn(tenant, elsewhere="ft:far")
    told = [ModelUnavailable("Not now."), ("model ft:far at far.example",)]

    async def forget_model(*_, name, **__):
        assert name == "ft:far"
        if isinstance(said := told.pop(0), Exception):
            raise said
        return said

    call = tenant.gate.plugins.call

    async def called(plugin, hook, expected, **arguments):
        work = forget_model if hook == "forget_model" else call
        return await work(plugin, hook, expected, **arguments)

    monkeypatch.setattr(tenant.gate.plugins, "call", called)

    assert (await tenant.caller.delete(f"{MODELS}/{ID}")).status_code == 503
    assert (await tenant.caller.get(f"{MODELS}/{ID}")).status_code == 200
    receipt = (await tenant.caller.delete(f"{MODELS}/{ID}")).json()["receipt"]
    checked = (await tenant.officer.get(f"/governance/receipts/{receipt}")).json()["checked"]
    assert checked["model ft:far at far.example"] == 0


async def test_an_interrupted_deletion_is_finished_by_the_purge(tenants, monkeypatch):
    tenant, _ = tenants
    await learn(tenant)
    region = await tenant.gate.region("local")
    with monkeypatch.context() as broken:
        broken.setattr(region.tuned_models, "delete", _unreachable)
        assert (await tenant.caller.delete(f"{MODELS}/{ID}")).status_code == 503

    await tenant.gate.purge()

    assert (await tenant.caller.get(f"{MODELS}/{ID}")).status_code == 404
    kinds = [receipt.document["kind"] for receipt in await region.receipts.list(tenant.name)]
    assert kinds == ["delete.model"]


async def _unreachable(*_):
    raise StorageUnavailable("storage cannot be reached")


# --- deployments that nobody uses ------------------------------------------------------------------------------------


@pytest.fixture
async def calendar(tmp_path):
    """A clock, and an account whose fine-tuned model is deployed."""
    clock = FrozenClock()
    gate = open_app(tmp_path, folders(tmp_path, "local"), now=clock)
    await gate.start()
    tenant = await Tenant.create(gate, "first", "local")
    await learn(tenant)
    await deploy(tenant)
    yield clock, tenant
    for http in (tenant.caller, tenant.officer, tenant.operator):
        await http.aclose()
    await gate.shutdown()


async def deployments(tenant: Tenant) -> set[str]:
    await tenant.gate.purge()
    return {document.name for document in await tenant.gate.deployments.documents(tenant.name).every()}


async def test_a_deployment_of_a_fine_tuned_model_goes_after_fifteen_idle_days_and_the_model_stays(calendar):
    clock, tenant = calendar
    assert (await ask(tenant)).status_code == 200
    clock.advance(timedelta(days=15))
    assert await deployments(tenant) == {"chat", "tuned"}

    clock.advance(timedelta(days=1))

    assert await deployments(tenant) == {"chat"}
    assert (await tenant.caller.get(f"{MODELS}/{ID}")).status_code == 200
    audit = await tenant.officer.get("/governance/audit", params={"reason": "ticket 4711", "limit": 100})
    assert "deployment.delete-idle" in audit.text
    assert (await deploy(tenant)).status_code == 201


async def test_whatever_is_used_stays(calendar):
    clock, tenant = calendar
    for _ in range(3):
        clock.advance(timedelta(days=14))
        assert (await ask(tenant)).status_code == 200
        assert await deployments(tenant) == {"chat", "tuned"}


async def test_a_deployment_that_was_never_used_is_counted_from_its_first_purge(calendar):
    clock, tenant = calendar
    clock.advance(timedelta(days=20))
    assert await deployments(tenant) == {"chat", "tuned"}

    clock.advance(timedelta(days=16))

    assert await deployments(tenant) == {"chat"}


async def test_a_change_of_a_deployment_counts_as_a_use(calendar):
    clock, tenant = calendar
    await ask(tenant)
    clock.advance(timedelta(days=10))
    await deploy(tenant)
    clock.advance(timedelta(days=10))

    assert await deployments(tenant) == {"chat", "tuned"}


async def test_an_account_has_so_many_deployments_of_fine_tuned_models_and_no_more(tenants):
    tenant, _ = tenants
    await learn(tenant)
    made = [(await deploy(tenant, name=f"tuned{number}")).status_code for number in range(5)]

    refused = await deploy(tenant, name="tuned5")

    assert made == [201] * 5
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "InsufficientQuota")
    assert (await deploy(tenant, name="tuned0")).status_code == 200
    assert (await deploy(tenant, "rehearsal-chat", name="more")).status_code == 201


async def test_the_models_that_an_account_can_deploy_are_those_of_everybody_and_its_own(tenants):
    for tenant in tenants:
        await learn(tenant, deployable=tenant is tenants[0])

    own, others = [
        {each["name"] for each in (await tenant.operator.get(f"{tenant.path}/models", params=ARM)).json()["value"]}
        for tenant in tenants
    ]

    assert own - others == {ID}
    assert "rehearsal-chat" in others
