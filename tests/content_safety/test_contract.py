"""The stand-in and the service's own client agree; keys and identities."""

from __future__ import annotations

import pytest
from azure.ai.contentsafety.aio import BlocklistClient, ContentSafetyClient
from azure.ai.contentsafety.models import (
    AddOrUpdateTextBlocklistItemsOptions,
    AnalyzeTextOptions,
    RemoveTextBlocklistItemsOptions,
    TextBlocklist,
    TextBlocklistItem,
)
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from pydantic import ValidationError

from plugins.azure_content_safety import Config
from plugins.azure_content_safety.connection import _transport
from sluicegate.errors import FilterUnavailable, StartupError


@pytest.fixture
async def client(stand_in):
    async with ContentSafetyClient(
        stand_in.endpoint, AzureKeyCredential(stand_in.key), transport=_transport(60)
    ) as client:
        yield client


@pytest.fixture
async def lists(stand_in):
    async with BlocklistClient(stand_in.endpoint, AzureKeyCredential(stand_in.key), transport=_transport(60)) as lists:
        yield lists


async def test_blocklists_are_managed_by_their_own_client(client, lists):
    await lists.create_or_update_text_blocklist("codenames", TextBlocklist(blocklist_name="codenames"))
    added = await lists.add_or_update_blocklist_items(
        "codenames", AddOrUpdateTextBlocklistItemsOptions(blocklist_items=[TextBlocklistItem(text="Nightjar")])
    )
    found = await client.analyze_text(AnalyzeTextOptions(text="It is Nightjar.", blocklist_names=["codenames"]))

    [item] = added.blocklist_items
    [match] = found.blocklists_match
    assert (match.blocklist_name, match.blocklist_item_id) == ("codenames", item.blocklist_item_id)
    assert [each.blocklist_name async for each in lists.list_text_blocklists()] == ["codenames"]
    assert [each.text async for each in lists.list_text_blocklist_items("codenames")] == ["Nightjar"]

    await lists.remove_blocklist_items(
        "codenames", RemoveTextBlocklistItemsOptions(blocklist_item_ids=[item.blocklist_item_id])
    )
    found = await client.analyze_text(AnalyzeTextOptions(text="It is Nightjar.", blocklist_names=["codenames"]))
    assert not found.blocklists_match

    await lists.delete_text_blocklist("codenames")
    with pytest.raises(ResourceNotFoundError):
        await lists.get_text_blocklist("codenames")


async def test_eight_levels_are_finer_than_four(client):
    eight = await client.analyze_text(AnalyzeTextOptions(text="[Hate 5]", output_type="EightSeverityLevels"))
    four = await client.analyze_text(AnalyzeTextOptions(text="[Hate 5]"))

    assert {each.category: each.severity for each in eight.categories_analysis}["Hate"] == 5
    assert {each.category: each.severity for each in four.categories_analysis}["Hate"] == 4


async def test_a_text_that_is_too_long_and_a_wrong_key_are_refused(stand_in, client):
    with pytest.raises(HttpResponseError) as too_long:
        await client.analyze_text(AnalyzeTextOptions(text="x" * 10_001))
    async with ContentSafetyClient(
        stand_in.endpoint, AzureKeyCredential("wrong"), transport=_transport(60)
    ) as stranger:
        with pytest.raises(ClientAuthenticationError):
            await stranger.analyze_text(AnalyzeTextOptions(text="hello"))

    assert (too_long.value.status_code, too_long.value.error.code) == (400, "InvalidRequestBody")


# --- who asks --------------------------------------------------------------------------------------------------------


async def test_the_apps_identity_is_used_where_no_key_is_named(stand_in, config, monkeypatch):
    for name, value in stand_in.environment.items():
        monkeypatch.setenv(name, value)

    found = await config(key_setting="").service.analyse("[Hate 4]", ["hate"])

    assert found.severity == {"hate": 4}


async def test_an_identity_that_is_refused_makes_the_filter_unavailable(stand_in, config, monkeypatch):
    for name, value in (stand_in.environment | {"IDENTITY_HEADER": "wrong"}).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(FilterUnavailable):
        await config(key_setting="").service.analyse("hello", ["hate"])

    assert stand_in.calls == []


async def test_a_wrong_key_makes_the_filter_unavailable(config, monkeypatch):
    monkeypatch.setenv("CONTENT_SAFETY_KEY", "wrong")

    with pytest.raises(FilterUnavailable):
        await config().service.analyse("hello", ["hate"])


async def test_a_key_that_is_not_set_stops_the_start(config, monkeypatch):
    monkeypatch.delenv("CONTENT_SAFETY_KEY")

    with pytest.raises(StartupError, match="the app setting CONTENT_SAFETY_KEY, which is not set"):
        config()


@pytest.mark.parametrize(
    "endpoint", ["http://contoso.cognitiveservices.azure.com", "https://", "contoso", "https://a.b/path", "https://a@b"]
)
def test_an_endpoint_is_https_and_a_host(endpoint):
    with pytest.raises(ValidationError):
        Config(endpoint=endpoint)
