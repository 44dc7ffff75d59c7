"""Deployments: what is stored of them, and how soon a change is seen."""

from __future__ import annotations

import pytest

from sluicegate.errors import BlobChanged, BlobExists
from sluicegate.storage import documents
from sluicegate.tenancy.deployments import Deployment, Deployments
from sluicegate.testing import MemoryStorage

CHAT = Deployment("Chat", "parrot", "Strict", 10)


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
def deployments(blobs):
    return Deployments(blobs)


async def test_a_deployment_is_found_whatever_the_case_of_its_name(deployments):
    await deployments.create("contoso", CHAT)

    assert await deployments.get("contoso", "chat") == CHAT
    assert await deployments.get("contoso", "CHAT") == CHAT
    assert await deployments.get("fabrikam", "chat") is None


@pytest.mark.parametrize("name", ["", "a/b", "../contoso/chat", "chat.", "-chat", "x" * 65, "a b"])
async def test_a_name_outside_the_pattern_is_refused_and_never_looked_up(deployments, name):
    with pytest.raises(ValueError, match="deployment name"):
        await deployments.create("contoso", Deployment(name, "parrot"))

    assert await deployments.get("contoso", name) is None


async def test_two_deployments_cannot_differ_by_case_only(deployments):
    await deployments.create("contoso", CHAT)

    with pytest.raises(BlobExists):
        await deployments.create("contoso", Deployment("chat", "other"))


async def test_a_change_needs_what_was_read(deployments):
    await deployments.create("contoso", CHAT)
    read = await deployments.documents("contoso").get("chat")
    await deployments.put("contoso", CHAT, {}, etag=read.etag)

    with pytest.raises(BlobChanged):
        await deployments.put("contoso", CHAT, {}, etag=read.etag)
    with pytest.raises(BlobChanged):
        await deployments.delete("contoso", "chat", etag=read.etag)


async def test_a_change_is_seen_at_once_here_and_in_other_processes_within_the_stated_time(
    blobs, deployments, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr(documents.time, "monotonic", lambda: now[0])
    other = Deployments(blobs)
    await deployments.create("contoso", CHAT)
    assert await other.get("contoso", "chat") == CHAT

    assert await deployments.delete("contoso", "CHAT")

    assert not await deployments.delete("contoso", "chat")
    assert await deployments.get("contoso", "chat") is None
    assert await other.get("contoso", "chat") == CHAT
    now[0] += documents.CACHE_S
    assert await other.get("contoso", "chat") is None
