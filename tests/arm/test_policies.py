"""Policies and blocklists, driven by Azure's unmodified management client, and what they do to a prompt."""

from __future__ import annotations

import openai
import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.mgmt.cognitiveservices.models import (
    CustomBlocklistConfig,
    RaiBlocklist,
    RaiBlocklistItem,
    RaiBlocklistItemBulkRequest,
    RaiBlocklistItemProperties,
    RaiBlocklistProperties,
    RaiPolicy,
    RaiPolicyContentFilter,
    RaiPolicyProperties,
)

from tests.arm.test_accounts import GROUP, account, deployment


@pytest.fixture
def created(client, name):
    return client.accounts.begin_create(GROUP, name, account()).result()


def policy(**properties) -> RaiPolicy:
    return RaiPolicy(properties=RaiPolicyProperties(base_policy_name="Microsoft.DefaultV2", **properties))


def hate(threshold: str = "Low", blocking: bool = True) -> RaiPolicyContentFilter:
    return RaiPolicyContentFilter(
        name="Hate", enabled=True, blocking=blocking, severity_threshold=threshold, source="Prompt"
    )


def item(pattern: str, is_regex: bool = False) -> RaiBlocklistItem:
    return RaiBlocklistItem(properties=RaiBlocklistItemProperties(pattern=pattern, is_regex=is_regex))


def test_a_policy_is_created_read_replaced_listed_and_deleted(client, name, created):
    written = client.rai_policies.create_or_update(GROUP, name, "Strict", policy(content_filters=[hate()]))

    assert (written.name, written.properties.type) == ("Strict", "UserManaged")
    read = client.rai_policies.get(GROUP, name, "strict")
    assert [(each.name, each.severity_threshold) for each in read.properties.content_filters] == [("Hate", "Low")]
    again = client.rai_policies.create_or_update(GROUP, name, "Strict", read)
    assert again.properties.content_filters == read.properties.content_filters
    names = [each.name for each in client.rai_policies.list(GROUP, name)]
    assert names == ["Microsoft.Default", "Microsoft.DefaultV2", "Strict"]
    client.rai_policies.begin_delete(GROUP, name, "Strict").result()
    with pytest.raises(ResourceNotFoundError):
        client.rai_policies.get(GROUP, name, "Strict")
    assert client.rai_policies.begin_delete(GROUP, name, "Strict").result() is None


def test_what_is_built_in_can_be_read_and_not_written(client, name, created):
    built_in = client.rai_policies.get(GROUP, name, "Microsoft.DefaultV2")

    assert built_in.properties.type == "SystemManaged"
    assert ("Jailbreak", True, "Prompt") in {
        (each.name, each.blocking, each.source) for each in built_in.properties.content_filters
    }
    with pytest.raises(HttpResponseError, match="this name is the operator's"):
        client.rai_policies.create_or_update(GROUP, name, "Microsoft.DefaultV2", policy())
    with pytest.raises(HttpResponseError, match="cannot be deleted"):
        client.rai_policies.begin_delete(GROUP, name, "microsoft.defaultv2").result()


def test_tags_of_policies_and_blocklists_are_kept_and_items_have_none(client, name, created):
    tagged = policy()
    tagged.tags = {"owner": "legal"}
    client.rai_policies.create_or_update(GROUP, name, "Strict", tagged)
    listed = RaiBlocklist(tags={"owner": "legal"}, properties=RaiBlocklistProperties())
    client.rai_blocklists.create_or_update(GROUP, name, "Names", listed)

    assert client.rai_policies.get(GROUP, name, "Strict").tags == {"owner": "legal"}
    assert client.rai_blocklists.get(GROUP, name, "Names").tags == {"owner": "legal"}
    tagged.tags = {"owner": "x" * 257}
    with pytest.raises(HttpResponseError, match=r"tags\.owner"):
        client.rai_policies.create_or_update(GROUP, name, "Strict", tagged)
    odd = item("Nightjar")
    odd.tags = {"owner": "legal"}
    with pytest.raises(HttpResponseError, match="have no tags"):
        client.rai_blocklist_items.create_or_update(GROUP, name, "Names", "one", odd)


def test_a_policy_that_is_used_cannot_be_deleted(client, name, created):
    client.rai_policies.create_or_update(GROUP, name, "Strict", policy(content_filters=[hate()]))
    client.deployments.begin_create_or_update(GROUP, name, "chat", deployment(rai_policy_name="Strict")).result()

    with pytest.raises(ResourceExistsError, match="uses this policy"):
        client.rai_policies.begin_delete(GROUP, name, "Strict").result()


def test_a_harm_is_not_switched_off_without_approval(client, name, created):
    with pytest.raises(HttpResponseError, match="approved application"):
        client.rai_policies.create_or_update(GROUP, name, "Weak", policy(content_filters=[hate(blocking=False)]))


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"content_filters": [RaiPolicyContentFilter(name="Rudeness", source="Prompt")]}, "contentFilters"),
        ({"mode": "Sometimes"}, "mode"),
        ({"custom_blocklists": [CustomBlocklistConfig(blocklist_name="absent", source="Prompt")]}, "customBlocklists"),
    ],
)
def test_a_malformed_policy_is_refused_by_property(client, name, created, properties, message):
    with pytest.raises(HttpResponseError, match=message) as refused:
        client.rai_policies.create_or_update(GROUP, name, "Odd", policy(**properties))

    assert refused.value.status_code == 400


def test_a_blocklist_and_its_items_come_and_go(client, name, created):
    listed = RaiBlocklist(properties=RaiBlocklistProperties(description="Code names"))
    written = client.rai_blocklists.create_or_update(GROUP, name, "Names", listed)
    assert (written.name, written.properties.description) == ("Names", "Code names")
    assert [each.name for each in client.rai_blocklists.list(GROUP, name)] == ["Names"]

    client.rai_blocklist_items.create_or_update(GROUP, name, "Names", "one", item("Nightjar"))
    many = [
        RaiBlocklistItemBulkRequest(
            name=f"bulk-{number:03}", properties=RaiBlocklistItemProperties(pattern=f"term {number}")
        )
        for number in range(150)
    ]
    client.rai_blocklist_items.batch_add(GROUP, name, "Names", many)
    assert len(list(client.rai_blocklist_items.list(GROUP, name, "Names"))) == 151
    client.rai_blocklist_items.batch_delete(GROUP, name, "Names", [f"bulk-{number:03}" for number in range(150)])
    assert [each.name for each in client.rai_blocklist_items.list(GROUP, name, "Names")] == ["one"]
    assert client.rai_blocklist_items.get(GROUP, name, "Names", "one").properties.pattern == "Nightjar"
    client.rai_blocklist_items.begin_delete(GROUP, name, "Names", "one").result()
    with pytest.raises(ResourceNotFoundError):
        client.rai_blocklist_items.get(GROUP, name, "Names", "one")
    client.rai_blocklists.begin_delete(GROUP, name, "Names").result()
    with pytest.raises(ResourceNotFoundError):
        client.rai_blocklists.get(GROUP, name, "Names")


def test_of_many_items_all_or_none_are_added(client, name, created):
    client.rai_blocklists.create_or_update(GROUP, name, "Names", RaiBlocklist(properties=RaiBlocklistProperties()))
    bad = [
        RaiBlocklistItemBulkRequest(name="good", properties=RaiBlocklistItemProperties(pattern="term")),
        RaiBlocklistItemBulkRequest(name="bad", properties=RaiBlocklistItemProperties(pattern="(", is_regex=True)),
    ]

    with pytest.raises(HttpResponseError, match="pattern"):
        client.rai_blocklist_items.batch_add(GROUP, name, "Names", bad)

    assert list(client.rai_blocklist_items.list(GROUP, name, "Names")) == []


def test_items_of_another_version_are_not_changed(client, name, created):
    client.rai_blocklists.create_or_update(GROUP, name, "Names", RaiBlocklist(properties=RaiBlocklistProperties()))
    old = client.rai_blocklist_items.create_or_update(GROUP, name, "Names", "one", item("Nightjar")).etag
    many = [RaiBlocklistItemBulkRequest(name="two", properties=RaiBlocklistItemProperties(pattern="Pike"))]
    client.rai_blocklist_items.batch_add(GROUP, name, "Names", many, headers={"If-Match": old})

    for change, headers in (
        (lambda **of: client.rai_blocklist_items.create_or_update(GROUP, name, "Names", "one", item("x"), **of), None),
        (lambda **of: client.rai_blocklist_items.begin_delete(GROUP, name, "Names", "one", **of).result(), None),
        (lambda **of: client.rai_blocklist_items.batch_add(GROUP, name, "Names", many, **of), None),
        (lambda **of: client.rai_blocklist_items.batch_delete(GROUP, name, "Names", ["one"], **of), None),
        (
            lambda **of: client.rai_blocklist_items.create_or_update(GROUP, name, "Names", "two", item("x"), **of),
            {"If-None-Match": "*"},
        ),
    ):
        with pytest.raises(HttpResponseError, match="PreconditionFailed"):
            change(headers=headers or {"If-Match": old})
    kept = {each.name: each.properties.pattern for each in client.rai_blocklist_items.list(GROUP, name, "Names")}
    assert kept == {"one": "Nightjar", "two": "Pike"}


def test_a_prompt_that_hits_the_accounts_list_is_refused_as_azure_does(client, server, name, created):
    client.rai_blocklists.create_or_update(GROUP, name, "Names", RaiBlocklist(properties=RaiBlocklistProperties()))
    client.rai_blocklist_items.create_or_update(GROUP, name, "Names", "one", item(r"night\w+r", is_regex=True))
    uses = [CustomBlocklistConfig(blocklist_name="Names", blocking=True, source="Prompt")]
    client.rai_policies.create_or_update(GROUP, name, "Listed", policy(custom_blocklists=uses))
    client.deployments.begin_create_or_update(GROUP, name, "chat", deployment(rai_policy_name="Listed")).result()
    keys = client.accounts.list_keys(GROUP, name)
    sdk = openai.AzureOpenAI(azure_endpoint=server.endpoint, api_key=keys.key1, api_version="2024-10-21")

    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Who is nightwalker?"}])

    verdict = refused.value.body["innererror"]["content_filter_result"]["custom_blocklists"]
    assert verdict == {"filtered": True, "details": [{"filtered": True, "id": "Names"}]}
