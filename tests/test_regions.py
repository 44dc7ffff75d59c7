"""An account's data is in the storage and the vault of its location, and nothing of it elsewhere."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plugins import local_folder
from sluicegate.errors import PurgeIncomplete, StartupError
from sluicegate.testing import FrozenClock
from tests.inside import ARM, REASON, Calls, Tenant, folders, open_app

DAY = timedelta(days=1)
WORDS = "canary-73108 sang"


class World:
    """The app with two regions in folders, and an account in each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FrozenClock(datetime(2026, 1, 1, 12, tzinfo=UTC))
        self.apps = []

    def open(self, *regions, more=""):
        """Open the app as a process does."""
        places = folders(self.folder, *(regions or ("local", "faraway")))
        self.apps.append(open_app(self.folder, places, now=self.clock, more=more))
        return self.apps[-1]

    def names(self, region):
        """Return what there is in a region, as file names relative to it, and what the files hold."""
        files = [path for path in (self.folder / region).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder / region)): path.read_bytes() for path in files}

    def lose(self, region, *what):
        """Make a region's storage, or what is named, unusable, as an outage does."""
        for name in what or ("storage",):
            folder = self.folder / region / name
            folder.rename(folder.with_name(f"lost-{name}"))
            folder.write_text("a file where a folder should be")

    def find(self, region):
        """End the outage."""
        for lost in (self.folder / region).glob("lost-*"):
            folder = lost.with_name(lost.name.removeprefix("lost-"))
            folder.unlink()
            lost.rename(folder)


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path)
    yield world
    for app in world.apps:
        await app.shutdown()


async def left_by(gate):
    with pytest.raises(PurgeIncomplete) as caught:
        await gate.purge()
    return caught.value.left


async def test_what_is_kept_of_an_account_is_in_its_region_and_nothing_of_it_elsewhere(world):
    gate = world.open()
    there = await Tenant.create(gate, "fabrikam", "faraway")
    await gate.purge()
    before = world.names("local")
    assert (await there.say(WORDS)).status_code == 200

    assert (await there.officer.delete("/governance/retained", params={**REASON, "user": "someone"})).status_code == 200
    assert (await there.say(WORDS)).status_code == 200

    assert world.names("local") == before
    added = " ".join(world.names("faraway"))
    for container in ("ret-20260101", "keyring-20260101", "receipts/account/fabrikam", "audit/", "deletions"):
        assert container in added


async def test_home_knows_of_an_account_elsewhere_only_what_finds_it(world):
    gate = world.open()
    there = await Tenant.create(gate, "fabrikam", "faraway")
    await there.say(WORDS)
    await gate.purge()
    world.clock.advance(DAY)
    await gate.purge()

    naming = {name for name, data in world.names("local").items() if "fabrikam" in name or b"fabrikam" in data}

    kinds = {name.removeprefix("storage/").split("/")[1] for name in naming if name.startswith("storage/accounts/")}
    assert kinds == {"account", "deployment", "key", "scope"}
    assert naming == {name for name in naming if name.startswith("storage/accounts/")}


async def test_each_region_has_the_same_days_under_keys_of_its_own(world):
    gate = world.open()
    here, there = await Tenant.create(gate, "contoso", "local"), await Tenant.create(gate, "fabrikam", "faraway")
    await here.say(WORDS)
    await there.say(WORDS)
    shutil.rmtree(world.folder / "faraway" / "keys")
    gate = world.open()

    kept = [record async for record in gate.regions.of("local").vault.store("contoso", "keep_encrypted").records()]
    lost = [record async for record in gate.regions.of("faraway").vault.store("fabrikam", "keep_encrypted").records()]

    assert ([WORDS in record.data.decode() for record in kept], lost) == ([True], [])


async def test_a_request_in_another_region_asks_home_nothing_when_warm(world, monkeypatch):
    gate = world.open()
    there = await Tenant.create(gate, "fabrikam", "faraway")
    for _ in range(2):
        await there.say(WORDS)
    home = Calls(gate.regions.home.blobs, monkeypatch)
    far = Calls(gate.regions.of("faraway").blobs, monkeypatch)

    await there.say(WORDS)

    assert not home.made
    # Signals are written beside requests, whenever it is time.
    assert {container for _, container in far.made} - {"signals"} == {"ret-20260101"}


async def test_an_officer_reads_deletes_and_audits_where_the_account_is(world):
    gate = world.open()
    there = await Tenant.create(gate, "fabrikam", "faraway")
    await there.say(WORDS)

    found = (await there.officer.get("/governance/retained", params=REASON)).json()["data"]
    exported = await there.officer.get("/governance/export", params=REASON)
    deleted = (await there.officer.delete("/governance/retained", params={**REASON, "all": "true"})).json()
    receipt = await there.officer.get(f"/governance/receipts/{deleted['receipt']}")
    actions = [entry["action"] for entry in (await there.officer.get("/governance/audit")).json()["data"]]
    checkpoint = (await there.officer.get("/governance/checkpoint")).json()["checkpoint"]

    assert len(found) == 1
    assert WORDS in exported.text
    assert receipt.status_code == 200
    assert set(actions) == {"account.create", "retained.list", "retained.export", "retained.delete", "delete.account"}
    assert "sluicegate/faraway" in json.dumps(checkpoint)


async def test_every_region_is_purged_with_receipts_and_a_checkpoint_of_its_own(world):
    sink = world.folder / "sink"
    gate = world.open(more=f'checkpoints = ["folder:{sink}"]')
    here, there = await Tenant.create(gate, "contoso", "local"), await Tenant.create(gate, "fabrikam", "faraway")
    await here.say(WORDS)
    await there.say(WORDS)
    world.clock.advance(30 * DAY)

    summaries = await gate.purge()

    assert {name: summary.overdue.blobs > 0 for name, summary in summaries.items()} == {"local": True, "faraway": True}
    for region in gate.regions:
        subjects = [receipt.document["subject"] async for receipt in region.receipts.every()]
        assert "20260101" in subjects
        assert not [name for name in world.names(region.name) if "ret-20260101" in name and "receipts" not in name]
    held = local_folder.open_storage(f"folder:{sink}")
    published = [blob.name async for blob in held.list("checkpoints")]
    await held.close()
    assert published == ["sluicegate/faraway/20260131", "sluicegate/local/20260131"]


async def test_an_accounts_own_days_are_heeded_in_its_region(world):
    gate = world.open()
    there = await Tenant.create(gate, "fabrikam", "faraway")
    await there.say(WORDS)
    await gate.accounts.set_retention_days("fabrikam", 2)
    world.clock.advance(3 * DAY)

    summaries = await gate.purge()

    assert (summaries["faraway"].accounts.blobs, summaries["local"].accounts.blobs) == (2, 0)


@pytest.mark.parametrize(("lost", "kept"), [("faraway", "local"), ("local", "faraway")])
async def test_an_outage_of_one_region_stops_no_other_regions_purge_and_is_told(world, lost, kept):
    gate = world.open()
    here, there = await Tenant.create(gate, "contoso", "local"), await Tenant.create(gate, "fabrikam", "faraway")
    await here.say(WORDS)
    await there.say(WORDS)
    world.clock.advance(30 * DAY)
    world.lose(lost)

    left = await left_by(gate)

    assert [line for line in left if line.startswith(f"region {lost}: ")]
    assert "ret-20260101" not in {name.split("/")[1] for name in world.names(kept) if name.startswith("storage/ret-")}
    assert await gate.health() == [f"region {lost}: storage or keys cannot be reached (StorageUnavailable)"]
    world.find(lost)
    assert set(await gate.purge()) == {"local", "faraway"}


async def test_a_region_that_is_away_at_the_start_keeps_only_its_own_accounts_waiting(world):
    before = world.open()
    here, there = await Tenant.create(before, "contoso", "local"), await Tenant.create(before, "fabrikam", "faraway")
    world.lose("faraway", "storage", "keys")
    gate = world.open()

    served, refused = await here.by(gate).say(WORDS), await there.by(gate).say(WORDS)

    assert (served.status_code, refused.status_code) == (200, 503)
    world.find("faraway")
    assert (await there.by(gate).say(WORDS)).status_code == 200


async def test_accounts_of_a_region_that_is_no_longer_configured_are_refused_and_purging_says_so(world):
    before = world.open()
    there = await Tenant.create(before, "fabrikam", "faraway")
    await there.say(WORDS)
    gate = world.open("local")
    tenant = there.by(gate)

    said = await tenant.say(WORDS)
    read = await tenant.officer.get("/governance/retained", params=REASON)
    changed = await tenant.operator.delete(tenant.path, params=ARM)

    for response in (said, read, changed):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "RegionNotConfigured"
        assert "faraway" in response.json()["error"]["message"]
    assert await left_by(gate) == ("region faraway is not configured, so nothing is purged of the 1 accounts in it",)


async def test_the_control_plane_offers_the_configured_regions_and_no_other(world):
    gate = world.open()
    there = await Tenant.create(gate, "fabrikam", "faraway")
    body = {"location": "elsewhere", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {}}

    refused = await there.operator.put(there.path + "2", params=ARM, json=body)

    assert gate.locations == ("local", "faraway")
    assert refused.status_code == 400
    assert "'local,faraway'" in refused.json()["error"]["message"]


async def test_a_purged_account_leaves_nothing_in_its_region_and_goes_on_being_looked_for_there(world):
    gate = world.open()
    there = await Tenant.create(gate, "fabrikam", "faraway")
    await there.say(WORDS)
    await there.operator.delete(there.path, params=ARM)

    found = await gate.tenants.get("fabrikam")
    await gate.erasure.account(found, actor="deployment/operator")

    assert not [name for name in world.names("faraway") if name.startswith("storage/keyring-") and "fabrikam" in name]
    assert (await gate.accounts.census())["fabrikam"].location == "faraway"


@pytest.mark.parametrize(
    ("regions", "complaint"),
    [
        ('[regions.local]\nstorage = "folder:a"\nkeys = "folder:b"', "is not the home region's"),
        ('[regions."Far Away"]\nstorage = "folder:a"\nkeys = "folder:b"', "lower-case letters"),
        ('[regions.b]\nstorage = "folder:/s/"\nkeys = "folder:b"', "regions.b.storage: it is that of local"),
        ('[regions.b]\nstorage = "folder:a"\nkeys = "folder:/k"', "regions.b.keys: it is that of local"),
        (
            '[regions.b]\nstorage = "folder:a"\nkeys = "folder:b"\n[regions.c]\nstorage = "folder:c"\nkeys = "folder:B"',
            "regions.c.keys: it is that of b",
        ),
    ],
)
def test_regions_that_would_share_anything_stop_the_start(tmp_path, regions, complaint):
    with pytest.raises(StartupError, match=complaint):
        open_app(tmp_path, {"local": ("folder:/s", "folder:/k")}, more=regions)


async def test_a_weakness_of_any_region_stops_the_start(world, monkeypatch):
    gate = world.open()

    async def weaknesses():
        return ("copies: they are kept elsewhere",)

    monkeypatch.setattr(gate.regions.of("faraway").blobs, "weaknesses", weaknesses)

    with pytest.raises(StartupError, match="copies: they are kept elsewhere"):
        await gate.start()
    assert await gate.health() == ["region faraway: deletion is not final here: copies: they are kept elsewhere"]


async def test_policies_and_blocklists_are_in_the_accounts_region_and_go_with_it(world):
    gate = world.open()
    there = await Tenant.create(gate, "fabrikam", "faraway")
    await there.write_list("codenames", "Nightjar")
    await there.write_policy("strict", "codenames")
    assert (await there.use_policy("strict")).status_code in (200, 201)

    assert (await there.say("Nightjar")).status_code == 400
    assert not [name for name, data in world.names("local").items() if b"Nightjar" in data or "/rai" in name]
    assert len([name for name in world.names("faraway") if name.startswith("storage/accounts/rai")]) >= 2

    await there.operator.delete(there.path, params=ARM)
    await gate.erasure.account(await gate.tenants.get("fabrikam"), actor="deployment/operator")
    assert not [
        name for name in world.names("faraway") if name.startswith("storage/accounts/rai") and ".lock" not in name
    ]
