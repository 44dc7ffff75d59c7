"""Fine-tuned models behind deployments: who may deploy which, and who answers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sluicegate.fine_tuning.tuned_models import TunedModel
from tests.inside import ARM, COMPLETIONS, Tenant, folders, open_app

JOB = "ftjob-" + "1" * 32
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


async def learn(tenant: Tenant, *, deployable: bool | None = True, base: str = "rehearsal-chat") -> None:
    region = await tenant.gate.region("local")

    async def weights():
        yield b"I have learnt. "

    await region.tuned_models._files.store(tenant.name, JOB).write("w1", weights())
    id = ID.replace("rehearsal-chat", base)
    model = TunedModel(id, tenant.name, base, JOB, None, datetime(2026, 1, 1, tzinfo=UTC), "w1", deployable)
    await region.tuned_models.add(model)


async def deploy(tenant: Tenant, model: str = ID):
    properties = {"model": {"format": "OpenAI", "name": model, "version": "1"}}
    body = {"sku": {"name": "Standard", "capacity": 1000}, "properties": properties}
    return await tenant.operator.put(f"{tenant.path}/deployments/tuned", params=ARM, json=body)


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
