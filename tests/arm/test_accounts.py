"""Accounts, driven by Azure's unmodified management client."""

from __future__ import annotations

import asyncio
import io

import openai
import pytest
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.mgmt.cognitiveservices.models import (
    Account,
    AccountProperties,
    ApiProperties,
    Deployment,
    DeploymentModel,
    DeploymentProperties,
    Encryption,
    KeyVaultProperties,
    Sku,
)

from plugins import local_keys
from sluicegate.tenancy.first_run import SUBSCRIPTION
from tests.arm.conftest import management

GROUP = "Tests"


def account(location: str = "local", **properties) -> Account:
    return Account(location=location, kind="OpenAI", sku=Sku(name="S0"), properties=AccountProperties(**properties))


def deployment(model: str = "rehearsal-chat", capacity: int = 10, **properties) -> Deployment:
    return Deployment(
        sku=Sku(name="Standard", capacity=capacity),
        properties=DeploymentProperties(model=DeploymentModel(format="OpenAI", name=model, version="1"), **properties),
    )


@pytest.fixture
def created(client, name):
    return client.accounts.begin_create(GROUP, name, account()).result()


def test_an_account_is_created_read_and_listed(client, server, name, created):
    expected_id = (
        f"/subscriptions/{client._config.subscription_id}/resourceGroups/{GROUP}"
        f"/providers/Microsoft.CognitiveServices/accounts/{name}"
    )

    assert (created.id, created.name, created.location, created.kind) == (expected_id, name, "local", "OpenAI")
    assert created.properties.provisioning_state == "Succeeded"
    assert created.properties.endpoint == f"{server.endpoint}/"
    assert client.accounts.get(GROUP, name.upper()).etag == created.etag
    assert name in {each.name for each in client.accounts.list_by_resource_group(GROUP)}
    assert name in {each.name for each in client.accounts.list()}
    assert name not in {each.name for each in client.accounts.list_by_resource_group("Other")}


def test_what_was_read_can_be_sent_back(client, name, created):
    read = client.accounts.get(GROUP, name)
    read.tags = {"team": "blue"}

    written = client.accounts.begin_create(GROUP, name, read).result()

    assert written.tags == {"team": "blue"}
    assert written.properties.date_created == created.properties.date_created


def test_settings_are_changed_one_by_one(client, name, created):
    first = Account(
        tags={"team": "blue"},
        properties=AccountProperties(api_properties=ApiProperties(additional_properties={"retentionDays": 7})),
    )
    client.accounts.begin_update(GROUP, name, first).result()

    changed = client.accounts.begin_update(GROUP, name, Account(tags={"cost": "1"})).result()

    assert changed.tags == {"team": "blue", "cost": "1"}
    assert changed.properties.api_properties.additional_properties["retentionDays"] == 7
    assert changed.etag != created.etag


def test_the_whole_way_from_an_account_to_an_answer(client, server, name, created):
    client.deployments.begin_create_or_update(GROUP, name, "chat", deployment()).result()
    keys = client.accounts.list_keys(GROUP, name)

    sdk = openai.AzureOpenAI(azure_endpoint=server.endpoint, api_key=keys.key2, api_version="2024-10-21")
    answer = sdk.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hello"}])

    assert answer.choices[0].message.content
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key=keys.key1 + "x").chat.completions.create(model="chat", messages=[])


def test_a_key_is_replaced_while_the_other_goes_on(client, server, name, created):
    client.deployments.begin_create_or_update(GROUP, name, "chat", deployment()).result()
    before = client.accounts.list_keys(GROUP, name)

    after = client.accounts.regenerate_key(GROUP, name, "Key1")

    assert after.key1 != before.key1
    assert after.key2 == before.key2
    sdk = openai.AzureOpenAI(azure_endpoint=server.endpoint, api_key=before.key1, api_version="2024-10-21")
    with pytest.raises(openai.AuthenticationError):
        sdk.models.list()
    assert sdk.with_options(api_key=after.key1).models.list().data
    assert sdk.with_options(api_key=before.key2).models.list().data


def test_keys_get_nobody_in_where_tokens_are_wanted(client, server, name, created):
    keys = client.accounts.list_keys(GROUP, name)
    client.accounts.begin_update(GROUP, name, Account(properties=AccountProperties(disable_local_auth=True))).result()

    sdk = openai.AzureOpenAI(azure_endpoint=server.endpoint, api_key=keys.key1, api_version="2024-10-21")
    with pytest.raises(openai.PermissionDeniedError, match="authentication is disabled"):
        sdk.models.list()
    with pytest.raises(HttpResponseError, match="disableLocalAuth"):
        client.accounts.list_keys(GROUP, name)


def test_a_deleted_account_is_gone_can_be_restored_and_in_the_end_purged(client, server, name, created):
    client.deployments.begin_create_or_update(GROUP, name, "chat", deployment()).result()
    keys = client.accounts.list_keys(GROUP, name)
    client.accounts.begin_delete(GROUP, name).result()

    with pytest.raises(ResourceNotFoundError):
        client.accounts.get(GROUP, name)
    deleted = client.deleted_accounts.get("local", GROUP, name)
    assert deleted.properties.scheduled_purge_date > deleted.properties.deletion_date
    assert name in {each.name for each in client.deleted_accounts.list()}
    assert name not in {each.name for each in client.accounts.list()}
    with pytest.raises(ResourceExistsError, match="FlagMustBeSetForRestore"):
        client.accounts.begin_create(GROUP, name, account())

    client.accounts.begin_create(GROUP, name, account(restore=True)).result()
    assert client.accounts.list_keys(GROUP, name).key1 == keys.key1
    assert client.deployments.get(GROUP, name, "chat").properties.model.name == "rehearsal-chat"

    client.accounts.begin_delete(GROUP, name).result()
    client.deleted_accounts.begin_purge("local", GROUP, name).result()
    with pytest.raises(ResourceNotFoundError):
        client.deleted_accounts.get("local", GROUP, name)
    assert name not in {each.name for each in client.deleted_accounts.list()}
    with pytest.raises(ResourceExistsError, match="AccountNameReserved"):
        client.accounts.begin_create(GROUP, name, account())
    documents = [path for path in (server.data / "storage" / "accounts").rglob("*") if path.is_file()]
    left = [path for path in documents if name.lower() in path.name or f'"{name.lower()}"' in path.read_text()]
    assert [path.parent.name for path in left] == ["account"]


def test_an_account_is_restored_with_its_settings_but_for_what_is_named(client, server, name, created):
    days, encryption = (
        ApiProperties(additional_properties={"retentionDays": 3}),
        own_key(server, "vault-of-the-deleted"),
    )
    kept = account(api_properties=days, encryption=encryption)
    kept.tags = {"cost": "1"}
    client.accounts.begin_create(GROUP, name, kept).result()
    client.accounts.begin_delete(GROUP, name).result()
    with pytest.raises(HttpResponseError, match="PreconditionFailed"):
        client.accounts.begin_create(GROUP, name, account(restore=True), headers={"If-Match": "*"})

    restored = client.accounts.begin_create(GROUP, name, account(restore=True, disable_local_auth=True)).result()

    assert restored.properties.api_properties.additional_properties == {"retentionDays": 3}
    assert restored.properties.encryption.key_vault_properties.key_name == "theirs"
    assert (restored.tags, restored.properties.disable_local_auth) == ({"cost": "1"}, True)


def test_deleting_what_is_not_there_does_nothing(client, name):
    assert client.accounts.begin_delete(GROUP, name).result() is None


def test_who_knows_another_version_changes_nothing(client, name, created):
    old = created.etag
    client.accounts.begin_update(GROUP, name, Account(tags={"a": "1"})).result()

    for change in (
        lambda **match: client.accounts.begin_update(GROUP, name, Account(tags={"a": "2"}), **match),
        lambda **match: client.accounts.begin_create(GROUP, name, account(), **match),
        lambda **match: client.accounts.begin_delete(GROUP, name, **match),
    ):
        with pytest.raises(HttpResponseError, match="PreconditionFailed") as refused:
            change(headers={"If-Match": old})
        assert refused.value.status_code == 412
    assert client.accounts.get(GROUP, name).tags == {"a": "1"}


def test_a_name_belongs_to_one_resource_group(client, name, created):
    with pytest.raises(ResourceExistsError, match="AccountNameInUse"):
        client.accounts.begin_create("Other", name, account())
    with pytest.raises(ResourceNotFoundError, match="was not found"):
        client.accounts.get("Other", name)


BAD = {
    "a location that is not here": (account("mars"), "LocationNotAvailableForResourceType"),
    "another network": (account(public_network_access="Disabled"), "properties.publicNetworkAccess"),
    "more than thirty days": (
        account(api_properties=ApiProperties(additional_properties={"retentionDays": 31})),
        "apiProperties.retentionDays",
    ),
    "no days at all": (
        account(api_properties=ApiProperties(additional_properties={"retentionDays": 0})),
        "apiProperties.retentionDays",
    ),
    "an unknown setting": (
        account(api_properties=ApiProperties(additional_properties={"colour": "blue"})),
        "apiProperties.colour: unknown property",
    ),
    "another kind": (Account(location="local", kind="Face", sku=Sku(name="S0")), "kind: "),
    "no SKU": (Account(location="local", kind="OpenAI"), "sku: field required"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_had_is_refused_by_name(client, name, bad):
    body, message = BAD[bad]

    with pytest.raises(HttpResponseError, match=message) as refused:
        client.accounts.begin_create(GROUP, name, body)

    assert refused.value.status_code == 400


def own_key(server, vault: str, key: str = "theirs") -> Encryption:
    keys = local_keys.open_keys(f"folder:{server.data / vault}")
    asyncio.run(keys.create(key))
    properties = KeyVaultProperties(key_vault_uri=f"folder:{server.data / vault}", key_name=key)
    return Encryption(key_source="Microsoft.KeyVault", key_vault_properties=properties)


def test_an_account_gets_an_encryption_key_of_its_own_and_gives_it_back(client, server, name, created):
    encryption = own_key(server, "vault")
    assert created.properties.encryption.key_source == "Microsoft.CognitiveServices"

    written = client.accounts.begin_create(GROUP, name, account(encryption=encryption)).result()

    assert written.properties.encryption.key_vault_properties.key_name == "theirs"
    patched = client.accounts.begin_update(GROUP, name, Account(tags={"a": "1"})).result()
    assert patched.properties.encryption.key_vault_properties.key_name == "theirs"
    none = Encryption(key_source="Microsoft.CognitiveServices")
    back = client.accounts.begin_create(GROUP, name, account(encryption=none)).result()
    assert back.properties.encryption.key_source == "Microsoft.CognitiveServices"


def test_an_encryption_key_that_cannot_be_used_is_refused(client, server, name, created):
    absent = own_key(server, "vault")
    absent.key_vault_properties.key_name = "absent"

    with pytest.raises(HttpResponseError, match=r"properties\.encryption") as refused:
        client.accounts.begin_create(GROUP, name, account(encryption=absent))

    assert refused.value.status_code == 400
    assert client.accounts.get(GROUP, name).properties.encryption.key_source == "Microsoft.CognitiveServices"


def test_the_account_of_the_first_start_is_there_too(server):
    with management(server, server.credentials["operator_key"], SUBSCRIPTION) as client:
        assert [each.name for each in client.accounts.list()] == ["default"]
        assert {each.name for each in client.deployments.list("default", "default")} == {"chat", "embedding"}


# --- deployments -----------------------------------------------------------------------------------------------------


def test_a_deployment_is_created_changed_listed_and_deleted(client, name, created):
    first = client.deployments.begin_create_or_update(GROUP, name, "Chat", deployment()).result()
    assert (first.name, first.sku.capacity, first.properties.provisioning_state) == ("Chat", 10, "Succeeded")
    assert first.properties.rai_policy_name == "Microsoft.DefaultV2"
    assert [(limit.key, limit.renewal_period, limit.count) for limit in first.properties.rate_limits] == [
        ("request", 10, 10),
        ("token", 60, 10_000),
    ]

    changed = client.deployments.begin_update(
        GROUP, name, "chat", Deployment(sku=Sku(name="Standard", capacity=20))
    ).result()
    assert (changed.name, changed.sku.capacity) == ("Chat", 20)
    assert [each.name for each in client.deployments.list(GROUP, name)] == ["Chat"]
    assert [each.sku.name for each in client.deployments.list_skus(GROUP, name, "chat")] == ["Standard"]
    client.deployments.begin_update(GROUP, name, "chat", Deployment(tags={"cost": "1"})).result()
    bare = client.deployments.begin_update(
        GROUP, name, "chat", io.BytesIO(b'{"sku": {"capacity": null}, "tags": null}')
    )
    assert (bare.result().sku.capacity, bare.result().tags) == (1, {})
    client.deployments.begin_update(GROUP, name, "chat", Deployment(sku=Sku(name="Standard", capacity=20))).result()
    [usage] = [each for each in client.accounts.list_usages(GROUP, name).value if each.name.value.endswith("-chat")]
    assert usage.current_value == 20

    client.deployments.begin_delete(GROUP, name, "CHAT").result()
    assert list(client.deployments.list(GROUP, name)) == []
    with pytest.raises(ResourceNotFoundError):
        client.deployments.get(GROUP, name, "chat")
    assert client.deployments.begin_delete(GROUP, name, "chat").result() is None


BAD_DEPLOYMENTS = {
    "a model that nobody serves": (deployment("gpt-99"), "DeploymentModelNotSupported"),
    "a policy that is not there": (deployment(rai_policy_name="Absent"), "raiPolicyName"),
    "no capacity": (deployment(capacity=0), "sku.capacity"),
}


@pytest.mark.parametrize("bad", BAD_DEPLOYMENTS)
def test_a_deployment_that_cannot_be_had_is_refused(client, name, created, bad):
    body, message = BAD_DEPLOYMENTS[bad]

    with pytest.raises(HttpResponseError, match=message) as refused:
        client.deployments.begin_create_or_update(GROUP, name, "chat", body)

    assert refused.value.status_code == 400


def test_a_deployment_of_another_version_is_not_changed(client, name, created):
    first = client.deployments.begin_create_or_update(GROUP, name, "chat", deployment()).result()
    client.deployments.begin_create_or_update(GROUP, name, "chat", deployment(capacity=11)).result()

    with pytest.raises(HttpResponseError, match="PreconditionFailed"):
        client.deployments.begin_create_or_update(
            GROUP, name, "chat", deployment(capacity=12), headers={"If-Match": first.etag}
        )
    with pytest.raises(HttpResponseError, match="PreconditionFailed"):
        client.deployments.begin_create_or_update(GROUP, name, "chat", deployment(), headers={"If-None-Match": "*"})


def test_what_there_is_to_choose_from_is_listed(client, name, created):
    assert "rehearsal-chat" in {each.model.name for each in client.models.list("local")}
    assert "rehearsal-chat" in {each.name for each in client.accounts.list_models(GROUP, name)}
    assert [each.sku.name for each in client.accounts.list_skus(GROUP, name).value] == ["S0"]
    filters = list(client.rai_content_filters.list("local"))
    assert ("Hate", True) in {(each.properties.name, each.properties.is_multi_level_filter) for each in filters}
    assert client.rai_content_filters.get("local", "Jailbreak").properties.is_multi_level_filter is False
