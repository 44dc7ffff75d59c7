"""Two regions in two Azure storage accounts: what is kept of an account is in its own, and nothing of it in the other."""

from __future__ import annotations

import pytest

from sluicegate.testing import FrozenClock
from tests.azurite import server
from tests.inside import REASON, Tenant, folders, open_app


@pytest.fixture(scope="module")
def far_port():
    with server.running() as port:
        yield port


async def contents(blobs):
    """Return everything a store holds."""
    return {
        (container, blob.name): (await blobs.get(container, blob.name)).data
        for container in await blobs.containers()
        async for blob in blobs.list(container)
    }


async def test_each_account_is_kept_in_the_storage_of_its_region_only(tmp_path, blobs, connection_string, far_port):
    keys = folders(tmp_path, "local", "faraway")
    stores = {"local": connection_string, "faraway": server.connection_string(far_port)}
    gate = open_app(tmp_path, {name: (stores[name], keys[name][1]) for name in stores}, now=FrozenClock())
    try:
        here, there = await Tenant.create(gate, "contoso", "local"), await Tenant.create(gate, "fabrikam", "faraway")
        await there.write_list("codenames", "Nightjar")
        await gate.purge()
        before = {region.name: await contents(region.blobs) for region in gate.regions}

        assert (await there.say("the canary sang")).status_code == 200
        deleted = await there.officer.delete("/governance/retained", params={**REASON, "user": "someone"})
        assert deleted.status_code == 200
        assert (await there.say("the canary sang again")).status_code == 200
        assert await contents(gate.regions.home.blobs) == before["local"]

        after = await contents(gate.regions.of("faraway").blobs)
        assert (await here.say("the canary sang")).status_code == 200
        assert await contents(gate.regions.of("faraway").blobs) == after
        assert not [name for name in after if "contoso" in name[1]]
        assert {name for name, _ in before["local"] if "ret-" in name} == set()
        naming = {
            name for (container, name), data in before["local"].items() if b"fabrikam" in data or "fabrikam" in name
        }
        assert {name.split("/")[0] for name in naming} == {"account", "deployment", "key", "scope"}
    finally:
        await gate.shutdown()
