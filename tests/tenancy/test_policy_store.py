"""Policies of accounts: what may be written, how soon it counts, and what happens when what they refer to is gone."""

from __future__ import annotations

import re
import tomllib

import pytest

from sluicegate.accounts import Accounts
from sluicegate.audit.log import Audit
from sluicegate.config import Deployment as DeploymentFile
from sluicegate.errors import (
    BlobChanged,
    BlobExists,
    Conflict,
    FilterUnavailable,
    InvalidRequest,
    NotFound,
    StartupError,
)
from sluicegate.policies import BUILT_IN, DEFAULT_V2, BlocklistItem, Source
from sluicegate.storage import documents
from sluicegate.tenancy.app_policies import AppPolicies, read_app_policies
from sluicegate.tenancy.deployments import Deployment, Deployments
from sluicegate.tenancy.policy_store import Policies
from sluicegate.testing import MemoryKeys, MemoryStorage
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "content-filtering.md"
ANNOTATING = {"contentFilters": [{"name": "Hate", "source": "Prompt", "blocking": False}]}
STRICT = {"contentFilters": [{"name": "Hate", "source": "Prompt", "severityThreshold": "Low"}]}
LISTED = {"customBlocklists": [{"blocklistName": "Codenames", "source": "Prompt", "blocking": True}]}


class World:
    """Accounts, their deployments and their policies in one storage."""

    def __init__(self, blobs=None, keys=None):
        self.blobs, self.keys = blobs or MemoryStorage(), keys or MemoryKeys()
        self.accounts = Accounts(self.blobs, self.keys)
        self.deployments = Deployments(self.blobs)
        self.policies = self.policies_with(AppPolicies(DEFAULT_V2))
        self.audit = Audit(self.blobs, self.keys, origin="test")

    def policies_with(self, app):
        return Policies(lambda _: self.blobs, self.accounts, self.deployments, app)

    def other_process(self):
        return World(self.blobs, self.keys)

    async def resolve(self, name, account="contoso"):
        return await self.policies.resolve(await self.accounts.get(account), name)

    async def put(self, name="strict", properties=STRICT, etag=None):
        return await self.policies.put_policy("contoso", name, properties, etag=etag)


@pytest.fixture
async def world():
    world = World()
    for name in ("contoso", "fabrikam"):
        await world.accounts.create(name, location="local")
    return world


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only element is the cache's time, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(documents.time, "monotonic", lambda: now[0])
    return now


def app(**fields):
    pipeline = {"authenticate": (), "models": ({"plugin": "m"},)}
    return read_app_policies(
        DeploymentFile.model_validate({"storage": "", "keys": "", "region": "", "pipeline": pipeline, **fields})
    )


# --- which policy counts ---------------------------------------------------------------------------------------------


async def test_built_in_policies_and_the_default_need_no_document(world):
    assert await world.resolve("Microsoft.Default") is BUILT_IN["Microsoft.Default"]
    assert await world.resolve("microsoft.defaultv2") is DEFAULT_V2
    assert await world.resolve(None) is DEFAULT_V2


async def test_an_accounts_own_policy_is_found_by_its_name_in_any_case_and_by_nobody_else(world):
    await world.put()

    policy = await world.resolve("STRICT")

    assert policy.name == "strict"
    assert policy.judge("hate", Source.PROMPT, severity=2).blocks
    with pytest.raises(NotFound) as caught:
        await world.resolve("strict", "fabrikam")
    assert caught.value.code == "RaiPolicyNotFound"


@pytest.mark.parametrize("name", ["", "../strict", "a/b", "nothing"])
async def test_a_policy_that_does_not_exist_lets_nothing_pass(world, name):
    with pytest.raises(NotFound):
        await world.resolve(name)


async def test_a_change_counts_here_at_once_and_in_other_processes_within_the_stated_time(world, clock):
    other = world.other_process()
    written = await world.put()
    assert (await other.resolve("strict")).judge("hate", Source.PROMPT, severity=2).blocks

    await world.put(properties={}, etag=written.etag)

    assert not (await world.resolve("strict")).judge("hate", Source.PROMPT, severity=2).blocks
    assert (await other.resolve("strict")).judge("hate", Source.PROMPT, severity=2).blocks
    clock[0] += documents.CACHE_S
    assert not (await other.resolve("strict")).judge("hate", Source.PROMPT, severity=2).blocks


# --- writing ---------------------------------------------------------------------------------------------------------


async def test_a_policy_is_guarded_by_its_etag(world):
    written = await world.put()
    with pytest.raises(BlobExists):
        await world.put("Strict")
    await world.put(properties={}, etag=written.etag)
    with pytest.raises(BlobChanged):
        await world.put(etag=written.etag)
    with pytest.raises(BlobChanged):
        await world.policies.delete_policy("contoso", "strict", etag=written.etag)

    assert await (await world.policies.policies("contoso")).names() == ["strict"]
    assert (await (await world.policies.policies("contoso")).get("strict")).content["name"] == "strict"


@pytest.mark.parametrize("name", ["", "a b", "-a", "a.", "x" * 65, "a/b", "Microsoft.Mine", "microsoft.defaultv2"])
async def test_a_name_that_is_not_the_accounts_to_give_is_refused(world, name):
    with pytest.raises(InvalidRequest) as caught:
        await world.put(name)

    assert caught.value.param == "name"


@pytest.mark.parametrize(
    ("properties", "param"),
    [
        ({"basePolicyName": "other"}, "properties.basePolicyName"),
        (LISTED, "properties.customBlocklists"),
        ({"mode": "x"}, "properties.mode"),
    ],
)
async def test_a_policy_that_refers_to_nothing_is_refused(world, properties, param):
    with pytest.raises(InvalidRequest) as caught:
        await world.put(properties=properties)

    assert caught.value.param == param


async def test_a_policy_that_a_deployment_uses_is_not_deleted(world):
    await world.put()
    await world.deployments.create("contoso", Deployment("chat", "parrot", "Strict"))
    await world.deployments.create("contoso", Deployment("other", "parrot"))

    with pytest.raises(Conflict, match="'chat'"):
        await world.policies.delete_policy("contoso", "strict")
    await world.deployments.delete("contoso", "chat")
    assert await world.policies.delete_policy("contoso", "strict")
    assert not await world.policies.delete_policy("contoso", "strict")
    with pytest.raises(NotFound):
        await world.resolve("strict")


# --- approval --------------------------------------------------------------------------------------------------------


async def test_a_policy_in_which_a_harm_does_not_block_needs_approval(world):
    with pytest.raises(InvalidRequest, match=r"Hate \(Prompt\) would not block") as caught:
        await world.put("weak", ANNOTATING)
    await world.accounts.set_modified_filters("contoso", True)
    await world.put("weak", ANNOTATING)

    assert (caught.value.code, caught.value.param) == ("ModifiedFiltersNotApproved", "properties.contentFilters")
    assert not (await world.resolve("weak")).judge("hate", Source.PROMPT, severity=6).blocks


async def test_when_approval_is_withdrawn_harms_block_again(world):
    await world.accounts.set_modified_filters("contoso", True)
    await world.put("weak", ANNOTATING)

    await world.accounts.set_modified_filters("contoso", False)

    assert (await world.resolve("weak")).judge("hate", Source.PROMPT, severity=4).blocks


# --- blocklists ------------------------------------------------------------------------------------------------------


async def listed(world, **items):
    await world.policies.put_list("contoso", "codenames", {"description": "secret"}, etag=None)
    put = {name: {"pattern": pattern} for name, pattern in items.items()}
    return await world.policies.change_items("contoso", "codenames", put=put)


async def test_a_policy_has_the_items_of_the_lists_that_it_uses(world):
    await listed(world, bird="Nightjar", fish="Pike")
    await world.put(properties=LISTED)

    [use] = (await world.resolve("strict")).blocklists

    assert (use.blocklist.name, use.source, use.blocking) == ("codenames", Source.PROMPT, True)
    assert use.blocklist.items == (BlocklistItem("Nightjar"), BlocklistItem("Pike"))


async def test_a_list_that_has_not_changed_stays_the_same_object(world, clock):
    await listed(world, bird="Nightjar")
    await world.put(properties=LISTED)
    before = await world.resolve("strict")
    clock[0] += documents.CACHE_S
    unchanged = await world.resolve("strict")
    await world.policies.change_items("contoso", "codenames", put={"fish": {"pattern": "Pike"}})
    clock[0] += documents.CACHE_S
    changed = await world.resolve("strict")

    assert unchanged is not before
    assert unchanged.blocklists[0].blocklist is before.blocklists[0].blocklist
    assert changed.blocklists[0].blocklist is not before.blocklists[0].blocklist


async def test_items_are_changed_all_at_once_or_not_at_all(world):
    await listed(world, bird="Nightjar", fish="Pike")
    bad = {"good": {"pattern": "Owl"}, "bad": {"pattern": "(", "isRegex": True}}

    with pytest.raises(InvalidRequest) as caught:
        await world.policies.change_items("contoso", "codenames", put=bad, delete=["fish"])
    changed = await world.policies.change_items(
        "contoso", "codenames", put={"bird": {"pattern": "Owl"}}, delete=["fish"]
    )

    assert caught.value.param == "bad.pattern"
    assert changed.content["items"] == {"bird": {"pattern": "Owl", "isRegex": False}}
    assert changed.content["properties"] == {"description": "secret"}


async def test_items_of_a_list_that_was_changed_meanwhile_stay_where_a_version_is_named(world):
    first = await listed(world, bird="Nightjar")
    changed = await world.policies.change_items("contoso", "codenames", put={"fish": {"pattern": "Pike"}})

    with pytest.raises(BlobChanged):
        await world.policies.change_items("contoso", "codenames", delete=["bird"], etag=first.etag)
    again = await world.policies.change_items("contoso", "codenames", delete=["fish"], etag=changed.etag)

    assert again.content["items"].keys() == {"bird"}


async def test_a_list_keeps_its_items_when_its_description_changes(world):
    document = await listed(world, bird="Nightjar")
    changed = await world.policies.put_list("contoso", "codenames", {"description": "new"}, etag=document.etag)

    assert changed.content["items"] == document.content["items"]
    with pytest.raises(BlobChanged):
        await world.policies.put_list("contoso", "codenames", {}, etag=document.etag)


@pytest.mark.parametrize("properties", [None, [], {"description": 1}, {"description": "x" * 1001}, {"items": []}])
async def test_a_list_that_is_malformed_is_refused(world, properties):
    with pytest.raises(InvalidRequest):
        await world.policies.put_list("contoso", "codenames", properties, etag=None)


@pytest.mark.parametrize("name", ["nothing", "../x", ""])
async def test_items_of_no_list_are_refused(world, name):
    with pytest.raises(NotFound):
        await world.policies.change_items("contoso", name, put={"a": {"pattern": "b"}})


async def test_a_list_that_a_policy_uses_is_not_deleted(world):
    await listed(world, bird="Nightjar")
    written = await world.put(properties=LISTED)

    with pytest.raises(Conflict, match="'strict'"):
        await world.policies.delete_list("contoso", "CODENAMES")
    await world.put(properties={}, etag=written.etag)

    assert await world.policies.delete_list("contoso", "CODENAMES")
    assert not await world.policies.delete_list("contoso", "codenames")


async def test_a_policy_whose_list_is_gone_lets_nothing_pass(world):
    await listed(world, bird="Nightjar")
    await world.put(properties=LISTED | {"failOpen": True})
    await world.blobs.delete("accounts", "raiblocklist/contoso/codenames")

    with pytest.raises(FilterUnavailable):
        await world.other_process().resolve("strict")


# --- of the deployment file ------------------------------------------------------------------------------------------

TERMS = {"items": [{"pattern": "Nightjar"}, {"pattern": r"NJ-\d+", "isRegex": True}]}


async def test_policies_and_lists_of_the_deployment_file_are_everybodys(world):
    offered = app(policies={"Birds": LISTED}, blocklists={"codenames": TERMS}, default_policy="birds")
    world.policies = world.policies_with(offered)

    policy = await world.resolve("BIRDS", "fabrikam")

    assert policy.name == "Birds"
    assert await world.resolve(None, "fabrikam") is policy
    assert len(policy.blocklists[0].blocklist.items) == 2
    with pytest.raises(InvalidRequest, match="operator's"):
        await world.put("birds")
    with pytest.raises(InvalidRequest, match="operator's"):
        await world.policies.put_list("contoso", "Codenames", {}, etag=None)
    await world.put("mine", LISTED | {"basePolicyName": "birds"})
    assert [use.blocklist.name for use in (await world.resolve("mine")).blocklists] == ["codenames"]


async def test_a_policy_whose_base_left_the_deployment_file_lets_nothing_pass(world):
    world.policies = world.policies_with(app(policies={"base": STRICT}))
    await world.put("mine", {"basePolicyName": "base"})

    with pytest.raises(FilterUnavailable):
        await world.other_process().resolve("mine")


async def test_a_weakened_policy_of_the_deployment_file_is_weak_for_approved_accounts_only(world):
    world.policies = world.policies_with(app(policies={"weak": ANNOTATING}))
    await world.accounts.set_modified_filters("contoso", True)

    assert not (await world.resolve("weak")).judge("hate", Source.PROMPT, severity=6).blocks
    assert (await world.resolve("weak", "fabrikam")).judge("hate", Source.PROMPT, severity=4).blocks


async def test_the_example_of_the_page_on_content_filtering_is_a_deployment_file(world):
    [example] = re.findall(r"<!-- example: policies -->\n```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    world.policies = world.policies_with(app(**tomllib.loads(example)))

    policy = await world.resolve(None)

    assert policy.name == "careful"
    assert policy.judge("hate", Source.PROMPT, severity=2).blocks
    assert policy.judge("indirect_attack", Source.PROMPT, detected=True).blocks
    assert not policy.judge("profanity", Source.COMPLETION, detected=True).blocks
    assert [item.is_regex for use in policy.blocklists for item in use.blocklist.items] == [False, True]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"policies": {"a": {"mode": "x"}}}, "policies.a.mode"),
        ({"policies": {"a": {"basePolicyName": "b"}, "b": {}}}, "basePolicyName"),
        ({"policies": {"a": LISTED}}, r"there is no \[blocklists.Codenames\]"),
        ({"policies": {"Microsoft.DefaultV2": {}}}, "built in"),
        ({"blocklists": {"a": {"items": [{"pattern": "(", "isRegex": True}]}}}, r"blocklists.a.items\[0\].pattern"),
        ({"blocklists": {"a": {"item": []}}}, "must hold items"),
        ({"blocklists": {"a": {"items": "x"}}}, "must hold items"),
        ({"default_policy": "nothing"}, "default_policy"),
        ({"default_policy": "weak", "policies": {"weak": ANNOTATING}}, r"Hate \(Prompt\) does not block"),
    ],
)
def test_a_malformed_policy_in_the_deployment_file_stops_the_start(fields, message):
    with pytest.raises(StartupError, match=message):
        app(**fields)
