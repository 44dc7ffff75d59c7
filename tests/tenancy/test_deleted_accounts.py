"""Whoever belongs to a deleted account is nobody, until the account is restored."""

from __future__ import annotations

import pytest

from tests.inside import ARM, REASON, Tenant, folders, open_app


@pytest.fixture
async def open_one(tmp_path):
    """Return a function that opens the app as another process does, which remembers nothing."""
    apps = []

    def open():
        apps.append(open_app(tmp_path, folders(tmp_path, "local")))
        return apps[-1]

    yield open
    for app in apps:
        await app.shutdown()


async def statuses(tenant):
    """Return what callers and officers of an account are answered."""
    said = await tenant.say("hello")
    read = await tenant.officer.get("/governance/retained", params=REASON)
    return said.status_code, read.status_code


async def test_callers_and_officers_of_a_deleted_account_are_unknown_until_it_is_restored(open_one):
    tenant = await Tenant.create(open_one(), "contoso", "local")
    assert await statuses(tenant) == (200, 200)
    assert (await tenant.operator.delete(tenant.path, params=ARM)).status_code == 200

    assert await statuses(tenant.by(open_one())) == (401, 401)

    body = {"location": "local", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {"restore": True}}
    assert (await tenant.operator.put(tenant.path, params=ARM, json=body)).status_code == 201
    assert await statuses(tenant.by(open_one())) == (200, 200)


async def test_nobody_of_a_purged_account_gets_in(open_one):
    gate = open_one()
    tenant = await Tenant.create(gate, "contoso", "local")
    await tenant.operator.delete(tenant.path, params=ARM)
    await gate.erasure.account(await gate.tenants.get("contoso"), actor="deployment/operator")

    later = tenant.by(open_one())
    assert await statuses(later) == (401, 401)
    assert (await later.operator.get(tenant.path, params=ARM)).status_code == 401


@pytest.mark.parametrize("name", ["%2e%2e", "a" * 65, "ünïcode", "a b", "-a", "a.", "a%00b", "a;b", "Ⅷ"])
@pytest.mark.parametrize("kind", ["deployments", "raiPolicies", "raiBlocklists"])
async def test_names_outside_the_pattern_are_refused_and_never_a_servers_error(open_one, kind, name):
    tenant = await Tenant.create(open_one(), "contoso", "local")
    model = {"format": "OpenAI", "name": "rehearsal-chat", "version": "1"}
    body = (
        {"properties": {}} if kind != "deployments" else {"sku": {"name": "Standard"}, "properties": {"model": model}}
    )

    for method, json in (("GET", None), ("DELETE", None), ("PUT", body)):
        response = await tenant.operator.request(method, f"{tenant.path}/{kind}/{name}", params=ARM, json=json)

        assert response.status_code in (204, 400, 404, 405)


async def test_headers_of_any_shape_are_unknown_credentials_and_too_large_ones_are_refused(open_one):
    tenant = await Tenant.create(open_one(), "contoso", "local")
    long, longer = "x" * 60_000, "x" * 200_000
    for headers, status in (
        ({"api-key": long}, 401),
        ({"authorization": f"Bearer {long}"}, 401),
        ({"api-key": "\x7f"}, 401),
        ({"api-key": longer}, 431),
        ({"authorization": f"Bearer {longer}"}, 431),
    ):
        response = await tenant.caller.get("/governance/audit", headers={"api-key": "", **headers})

        assert response.status_code == status
        assert len(response.text) < 1000
