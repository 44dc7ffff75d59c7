"""An account that is let off storage: nothing of its content is kept, whoever is in the middle of keeping it."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest

from plugins import local_folder, local_keys
from sluicegate.accounts import Accounts
from sluicegate.audit.log import Audit
from sluicegate.errors import PluginFailed, StorageUnavailable
from sluicegate.retention import purging
from sluicegate.retention.receipts import Receipts
from sluicegate.storage.batch_writer import HEED
from sluicegate.storage.vault import Vault
from sluicegate.tenancy.deployments import Deployment, Deployments
from sluicegate.testing import Assembly, FakeModel, FrozenClock, MemoryKeys, MemoryStorage
from sluicegate.types import OfAccount
from tests.storage.test_vault import Around, Gate
from tests.test_canary import spellings
from tests.wire.cues import play
from tests.wire.serving import Server, records

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECRET = b"my lucky number is 74093"


@pytest.fixture
def clock():
    return FrozenClock(NOON)


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
def keys():
    return MemoryKeys()


@pytest.fixture
async def accounts(blobs, keys):
    accounts = Accounts(blobs, keys)
    await accounts.create("contoso", location="local")
    return accounts


@pytest.fixture
def process(blobs, keys, clock):
    """A function that returns a vault as another process has it."""

    def process(seen=blobs):
        return Vault(seen, keys, clock=clock, may_keep=Accounts(blobs, keys).keeps_content)

    return process


async def read(vault):
    return {record.id: record.data async for record in vault.store("contoso", "keeper").records()}


async def let_off(accounts, vault):
    """What an approved application does."""
    await accounts.set_content_logging("contoso", False)
    await vault.store("contoso", "keeper").purge(OfAccount())


async def stored(blobs):
    """Return the names of everything that is kept."""
    containers = [*await blobs.containers("keyring-"), *await blobs.containers("ret-")]
    names = [(each, blob.name) for each in containers async for blob in blobs.list(each)]
    return [(container, name) for container, name in names if "/deletions/" not in name]


async def test_nothing_is_written_for_an_account_that_is_let_off(accounts, blobs, process):
    await accounts.set_content_logging("contoso", False)

    await process().store("contoso", "keeper").keep("one", SECRET)

    assert await stored(blobs) == []


async def test_what_is_being_written_at_that_moment_is_seen_by_nobody_and_goes(accounts, blobs, clock, process):
    """In another process, which knows neither of the approval nor of the deletion."""
    gate = Gate("put", "ret-20260101")
    other = process(Around(blobs, gate))
    writing = asyncio.create_task(other.store("contoso", "keeper").keep("one", SECRET))
    await gate.reached()

    vault = process()
    await let_off(accounts, vault)
    gate.open()
    await writing

    assert await read(vault) == {}
    await vault.finish_deletions(clock.now)
    assert await stored(blobs) == []


async def test_who_knows_of_the_deletion_knows_of_the_approval_too(accounts, blobs, clock, process):
    """Otherwise a record that is newer than the deletion would stay."""
    vault, other = process(), process()
    for each in (vault, other):
        await each.store("contoso", "keeper").keep(secrets.token_hex(8), SECRET)
    await let_off(accounts, vault)

    for _ in range(4):
        await other.store("contoso", "keeper").keep(secrets.token_hex(8), SECRET)
        clock.advance(HEED / 2)

    assert await read(vault) == {}
    await vault.finish_deletions(clock.now)
    assert await stored(blobs) == []


async def test_in_the_process_that_approves_nothing_more_is_written(accounts, blobs, process):
    vault = process()
    await vault.store("contoso", "keeper").keep("one", SECRET)

    await let_off(accounts, vault)
    await vault.store("contoso", "keeper").keep("two", SECRET)

    assert await stored(blobs) == []


async def test_the_purge_takes_what_was_kept_before(accounts, blobs, keys, clock, process):
    vault = process()
    receipts = Receipts(blobs, keys, Audit(blobs, keys, origin="log", clock=clock), clock=clock)
    await vault.store("contoso", "keeper").keep("one", SECRET)
    await accounts.set_content_logging("contoso", False)

    class Plugins:
        def configured(self, hook):
            return ("keeper",)

        async def call(self, name, hook, expected, **arguments):
            return await arguments["store"].purge(arguments["scope"])

    await purging.purge(vault, Plugins(), accounts, receipts, now=clock.now)

    assert await stored(blobs) == []


async def test_an_account_that_may_be_kept_again_is(accounts, blobs, clock, process):
    vault = process()
    await let_off(accounts, vault)
    await accounts.set_content_logging("contoso", True)
    clock.advance(HEED)

    await vault.store("contoso", "keeper").keep("one", SECRET)

    assert await read(vault) == {"one": SECRET}


async def test_where_nobody_can_tell_nothing_is_acknowledged(accounts, blobs, keys, clock):
    async def unknown(account):
        raise StorageUnavailable("no route")

    vault = Vault(blobs, keys, clock=clock, may_keep=unknown)

    with pytest.raises(StorageUnavailable):
        await vault.store("contoso", "keeper").keep("one", SECRET)
    assert await stored(blobs) == []


# --- the pipeline ----------------------------------------------------------------------------------------------------


async def consumed(assembly, call):
    return [chunk async for chunk in assembly.pipeline.chunks(call)]


async def test_no_plugin_gets_the_content_of_an_account_that_is_let_off():
    async with Assembly(FakeModel("An answer.")) as assembly:
        call = assembly.call("hello")
        call.account = replace(call.account, content_logging=False)

        assert "".join(chunk.text for chunk in await consumed(assembly, call)) == "An answer."

    assert assembly.exchanges == []


async def test_an_account_that_is_let_off_during_an_answer_is_let_off_for_it():
    let_off = asyncio.Event()

    async def may_keep(account):
        assert account == "contoso"
        return not let_off.is_set()

    async with Assembly(FakeModel("An", " answer."), may_keep=may_keep) as assembly:
        async for _ in assembly.pipeline.chunks(assembly.call("hello")):
            let_off.set()

    assert assembly.exchanges == []


async def test_where_the_account_cannot_be_read_the_answer_fails():
    async def may_keep(account):
        raise StorageUnavailable("no route")

    async with Assembly(FakeModel("An answer."), may_keep=may_keep) as assembly:
        with pytest.raises(PluginFailed):
            await consumed(assembly, assembly.call("hello"))

    assert assembly.exchanges == []


# --- every sink ------------------------------------------------------------------------------------------------------


async def test_what_such_an_account_says_is_found_nowhere(tmp_path):
    """In no file, in no log, and in nothing that opens with the deployment's own keys."""
    data = tmp_path / "data"
    with Server(data) as server:
        kept = ask(server, f"canary{secrets.token_hex(8)}")
    assert len(await records(data)) == 1
    await set_content_logging(data, False)

    canary = f"canary{secrets.token_hex(8)}"
    with Server(data) as server:
        for stream in (False, True):
            assert ask(server, canary, stream=stream).status_code == 200
        assert ask(server, f"Project Nightjar {canary}").status_code == 400
        purge = httpx.post(f"{server.endpoint}/admin/functions/purge", headers={"prefer": "wait"}, json={}, timeout=60)
        assert purge.status_code < 300, purge.text

    assert kept.status_code == 200
    assert await records(data) == {}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert not any(spelling in content for spelling in spellings(canary)), path.relative_to(tmp_path)
    assert [path for path in (data / "storage").glob("ret-*/default/*") if path.name != "keep_encrypted"] == []
    assert list((data / "storage").glob("keyring-*/**/_*")) == []


FILTERED = """
storage = "%SLUICEGATE_STORAGE%"
keys = "%SLUICEGATE_KEYS%"
region = "local"
installed = ["scripted_model"]

[pipeline]
authenticate = ["api_keys"]
models = ["scripted_model"]
post_filter = ["redact_pii"]
retain = ["keep_encrypted"]

[policies.personal]
contentFilters = [{ name = "PII", source = "Completion", blocking = false }]
"""


@pytest.mark.parametrize("may_be_kept", [True, False])
async def test_a_verdict_that_quotes_an_answer_is_kept_with_the_answer_or_not_at_all(tmp_path, may_be_kept):
    data, deployment, canary = tmp_path / "data", tmp_path / "deployment.toml", f"canary{secrets.token_hex(8)}"
    deployment.write_text(FILTERED)
    with Server(data, deployment):
        blobs = local_folder.open_storage(f"folder:{data / 'storage'}")
        await Deployments(blobs).create("default", Deployment("personal", "rehearsal-chat", "personal"))
        await blobs.close()
    await set_content_logging(data, may_be_kept)

    with Server(data, deployment) as server:
        answer = ask(server, play(f"{canary} writes to bob@example.com"), model="personal").json()["choices"][0]

    kept = json.dumps(await records(data))
    assert canary in answer["content_filter_results"]["personally_identifiable_information"]["redacted_text"]
    assert kept.count(f'"redacted_text": "{canary}') == may_be_kept
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or not any(spelling in path.read_bytes() for spelling in spellings(canary))


def ask(server, text, **options):
    body = {"model": "chat", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **options}
    headers = {"api-key": server.credentials["api_key"]}
    return httpx.post(f"{server.endpoint}/openai/v1/chat/completions", json=body, headers=headers, timeout=120)


async def set_content_logging(data, may_be_kept):
    blobs = local_folder.open_storage(f"folder:{data / 'storage'}")
    await Accounts(blobs, local_keys.open_keys(f"folder:{data / 'keys'}")).set_content_logging("default", may_be_kept)
    await blobs.close()
