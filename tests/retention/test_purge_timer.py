"""The purge timer as the app runs it: under a lease, with the audit log published each day, and never in silence."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from plugins import local_folder
from sluicegate import regions
from sluicegate.app import Sluicegate
from sluicegate.audit.checkpoints import check_signature, read_checkpoint
from sluicegate.audit.entries import Event
from sluicegate.audit.log import CONTAINER as LOG
from sluicegate.audit.tree import CONTAINER as TREE
from sluicegate.errors import PurgeIncomplete, StartupError
from sluicegate.regions import PATIENCE, RUN_TIME
from sluicegate.retention.removals import Found, Kind
from sluicegate.storage.file_layout import CHANGES, HEADS, SEGMENTS
from sluicegate.storage.lease import CONTAINER as LEASES
from sluicegate.storage.uploaded_files import CONTAINER as ABOUT
from sluicegate.tenancy.deployments import Deployment
from sluicegate.tenancy.first_run import use_embedded_settings
from sluicegate.tenancy.tenants import RECOVERABLE, Scope
from sluicegate.testing import FrozenClock
from sluicegate.types import OfRecord, Role
from tests.conftest import ROOT
from tests.storage.test_uploaded_files import Upload

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
CONTOSO = {
    "name": "contoso", "subscription": "s", "group": "g", "kind": "OpenAI", "sku": {}, "tags": {}, "properties": {},
}  # fmt: skip
DEPLOYMENT = """
storage = "%SLUICEGATE_STORAGE%"
keys = "%SLUICEGATE_KEYS%"
region = "local"
checkpoints = [{checkpoints}]

[pipeline]
authenticate = ["api_keys"]
models = ["embedded_model"]
retain = ["keep_encrypted"]
"""


@pytest.fixture
def clock():
    return FrozenClock(datetime(2026, 1, 1, 12, tzinfo=UTC))


@pytest.fixture
async def open_app(tmp_path, clock):
    """Return a function that opens the app as a process does, with some sinks."""
    apps = []

    def open(*checkpoints):
        path = tmp_path / "deployment.toml"
        path.write_text(DEPLOYMENT.format(checkpoints=", ".join(json.dumps(url) for url in checkpoints)))
        settings = {"SLUICEGATE_CONFIG": str(path)}
        use_embedded_settings(settings, tmp_path / "data")
        apps.append(Sluicegate(ROOT, settings, now=clock))
        return apps[-1]

    yield open
    for app in apps:
        await app.shutdown()


@pytest.fixture
async def blobs(tmp_path):
    store = local_folder.open_storage(f"folder:{tmp_path}/data/storage")
    yield store
    await store.close()


@pytest.fixture
async def elsewhere(tmp_path):
    """A store that the app can write to as a sink."""
    store = local_folder.open_storage(f"folder:{tmp_path}/elsewhere")
    yield store
    await store.close()


@pytest.fixture
def sink(tmp_path):
    return f"folder:{tmp_path}/elsewhere"


@pytest.fixture
def webhook():
    """A server that takes what is posted, and answers with its status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            server.taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.taken, server.status = [], 204
    server.url = f"webhook:http://127.0.0.1:{server.server_port}/hook?token=secret74093"
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def names(blobs, container):
    return [blob.name async for blob in blobs.list(container)]


async def keep_one(app, blobs):
    await app.accounts.create("contoso", location="local")
    await app.regions.home.vault.store("contoso", "keep_encrypted").keep("one", b"")
    assert await blobs.containers("ret-") == ("ret-20260101",)


async def test_the_timer_takes_expired_files_and_what_is_left_of_interrupted_uploads(open_app, blobs, clock):
    app = open_app()
    await app.accounts.create("contoso", location="local")
    files = app.regions.home.files
    expires = await files.create("contoso", Upload(lives_for=HOUR))
    stays = await files.create("contoso", Upload())
    await blobs.put(SEGMENTS, "contoso/uploads/file-0/000000000000000000000000/00000000", b"half a file")
    await blobs.put(CHANGES, "20260101/contoso/uploads/file-0/000000000000000000000000", b"")
    clock.advance(3 * DAY)

    await app.purge()

    left = [name for container in (HEADS, SEGMENTS, CHANGES, ABOUT) for name in await names(blobs, container)]
    assert left
    assert [name for name in left if stays.id not in name] == []
    [receipt] = await app.regions.home.receipts.list("contoso")
    assert (receipt.document["kind"], receipt.document["subject"]) == ("delete.file", expires.id)


async def test_purging_a_deleted_account_takes_its_files(open_app, blobs):
    app = open_app()
    tenant = await app.tenants.create(Scope("s", "g"), "local", CONTOSO, 30, instead=None)
    await app.regions.home.files.create("contoso", Upload())

    await app.erasure.account(await app.tenants.delete(tenant), actor="operator")

    assert [await names(blobs, container) for container in (HEADS, SEGMENTS, CHANGES, ABOUT)] == [[], [], [], []]


async def left_by(app):
    with pytest.raises(PurgeIncomplete) as caught:
        await app.purge()
    return caught.value.left


async def actions(app):
    return [entry.event.action async for entry in app.regions.home.audit.entries()]


async def test_the_log_is_published_once_a_day_in_its_own_storage_and_in_the_sinks(
    open_app, blobs, elsewhere, sink, clock, caplog
):
    caplog.set_level(logging.INFO, "sluicegate.audit.log")
    for _ in range(30):
        await open_app(sink).purge()
        clock.advance(HOUR)

    app = open_app(sink)
    assert await names(blobs, "audit-checkpoints") == ["20260101", "20260102"]
    assert await names(elsewhere, "checkpoints") == ["sluicegate/local/20260101", "sluicegate/local/20260102"]
    published = json.loads((await elsewhere.get("checkpoints", "sluicegate/local/20260102")).data)
    check_signature(read_checkpoint(published["checkpoint"]), published["public_key"])
    assert published["public_key"] == await app.regions.home.audit.key.public()
    assert (await actions(app)).count("checkpoint.publish") == 4
    assert caplog.text.count("audit checkpoint {") == 2


async def test_a_webhook_gets_what_it_needs_to_hold_the_log_to_it(open_app, webhook, clock):
    app = open_app(webhook.url)
    for _ in range(3):
        await app.purge()

    [taken] = webhook.taken
    assert taken["day"] == "20260101"
    check_signature(read_checkpoint(taken["checkpoint"]), taken["public_key"])


@pytest.mark.parametrize("status", [302, 400, 500])
async def test_a_sink_that_fails_stops_no_purge_and_no_other_sink_and_fails_the_invocation(
    open_app, webhook, sink, elsewhere, blobs, clock, status
):
    app = open_app(webhook.url, sink)
    await keep_one(app, blobs)
    webhook.status = status
    clock.advance(30 * DAY)

    left = await left_by(app)

    assert left == (f"the audit log's checkpoint, checkpoints[0]: it answered {status}",)
    assert await blobs.containers("ret-20260101") == ()
    assert len(await names(elsewhere, "checkpoints")) == 1
    webhook.status = 200
    await app.purge()
    assert len(webhook.taken) == 2


async def test_a_sink_that_cannot_be_reached_is_named_without_its_secrets(open_app, caplog):
    app = open_app("webhook:http://127.0.0.1:1/hook?token=secret74093")

    [left] = await left_by(app)

    assert left.startswith("the audit log's checkpoint, checkpoints[0]: it cannot be reached (")
    assert "secret74093" not in left + caplog.text


@pytest.mark.parametrize("url", ["webhook:http://example.com/", "webhook:ftp://example.com/", "gopher:x"])
def test_a_sink_that_is_none_stops_the_start(open_app, url):
    with pytest.raises(StartupError):
        open_app(url)


async def cut_off(blobs):
    """Cut off the log's end, with all that would show it in the same storage."""
    newest = (await names(blobs, LOG))[-1]
    await blobs.delete(LOG, newest)
    await blobs.drop(TREE)
    await blobs.drop("audit-checkpoints")
    await blobs.drop("checkpoints-sent")


async def test_an_end_of_the_log_that_was_cut_off_is_noticed_by_what_a_sink_has(open_app, blobs, sink, clock):
    app = open_app(sink)
    await app.regions.home.audit.append(Event("contoso/officer", "retained.read", "contoso"))
    await app.purge()
    for _ in range(2):
        await cut_off(blobs)
    clock.advance(HOUR)

    left = await left_by(open_app(sink))

    assert left == (
        "the audit log's checkpoint, checkpoints[0]: audit log, entry 1: missing, though 2 entries were published",
    )
    # It is published nowhere as it is now.
    assert "checkpoint.publish" not in (await actions(open_app()))[1:]
    assert await names(blobs, "audit-checkpoints") == []


async def test_a_history_that_was_rewritten_is_noticed_by_what_a_sink_has(open_app, blobs, sink, clock):
    app = open_app(sink)
    await app.regions.home.audit.append(Event("contoso/officer", "retained.read", "contoso"))
    await app.purge()
    for container in (LOG, TREE, "audit-checkpoints", "checkpoints-sent"):
        await blobs.drop(container)
    forged = open_app(sink)
    for _ in range(9):
        await forged.regions.home.audit.append(Event("contoso/officer", "retained.list", "contoso"))
    clock.advance(DAY)

    left = await left_by(open_app(sink))

    assert [line for line in left if "are not those that were published" in line]


async def test_an_end_that_is_missing_is_noticed_the_next_hour(open_app, blobs, clock):
    await open_app().purge()
    await open_app().regions.home.audit.append(Event("contoso/officer", "retained.read", "contoso"))
    await open_app().purge()
    await blobs.delete(LOG, (await names(blobs, LOG))[-1])
    clock.advance(HOUR)

    assert await left_by(open_app()) == ("looking at the audit log: audit log, entry 1: missing",)


async def test_two_processes_do_not_purge_at_once(open_app, blobs, caplog):
    caplog.set_level(logging.INFO, "sluicegate.regions")
    runs = await asyncio.gather(*(open_app().purge() for _ in range(4)))

    assert sum("local" in summaries for summaries in runs) == 1
    assert caplog.text.count("another process is purging") == 3
    assert await names(blobs, LEASES) == []


async def test_a_process_that_hangs_while_data_is_overdue_does_not_pass_for_success(open_app, blobs, clock):
    app = open_app()
    await keep_one(app, blobs)
    clock.advance(31 * DAY)
    until = (clock.now + timedelta(minutes=1)).isoformat()
    await blobs.put(LEASES, "purge", json.dumps({"holder": "other", "until": until}).encode())

    assert await left_by(app) == ("20260101: overdue, though another process is purging",)
    assert await app.health() == ["retained data of 20260101 is overdue for deletion"]

    clock.advance(HOUR)
    await app.purge()


async def test_receipts_are_issued_by_the_app(open_app, blobs, clock):
    app = open_app()
    await keep_one(app, blobs)
    clock.advance(30 * DAY)

    await app.purge()

    receipts = [receipt.document async for receipt in app.regions.home.receipts.every()]
    assert "20260101" in [receipt["subject"] for receipt in receipts]


async def test_a_deleted_account_is_purged_when_it_can_no_longer_be_restored(open_app, clock):
    app = open_app()
    created = await app.tenants.create(Scope("s", "g"), "local", CONTOSO, 30, instead=None)
    await app.deployments.create("contoso", Deployment("chat", "embedded"))
    await app.accounts.assign_role("contoso", "oid", Role.CALLER)
    await app.tenants.delete(created)

    clock.advance(RECOVERABLE - HOUR)
    await app.purge()
    assert not (await app.tenants.get("contoso")).is_purged
    clock.advance(HOUR)
    await app.purge()

    assert (await app.tenants.get("contoso")).is_purged
    assert await app.deployments.documents("contoso").names() == []
    assert await app.accounts.roles_in("contoso") == {}
    assert len(await app.regions.home.receipts.list("contoso")) == 1


async def test_a_removal_that_gets_no_receipt_for_hours_degrades_health(open_app, blobs, clock):
    app = open_app()
    await app.regions.home.receipts.begin(
        Kind.DELETE_USER, "contoso", "0" * 64, Found(1, 1, "0" * 64, 1), actor="contoso/officer"
    )
    clock.advance(PATIENCE / 2)
    assert await open_app().health() == []

    clock.advance(PATIENCE / 2)
    assert await open_app().health() == ["removals that have had no receipt for two hours: 1"]

    await app.accounts.create("contoso", location="local")
    await app.purge()
    assert await open_app().health() == []


async def test_a_deletion_that_cannot_be_finished_degrades_health_and_fails_the_timer(open_app, blobs, clock):
    app = open_app()
    await keep_one(app, blobs)
    [batch] = [name for name in await names(blobs, "ret-20260101") if "/deletions/" not in name]
    await blobs.put("ret-20260101", batch, b"damaged")
    with pytest.raises(PurgeIncomplete):
        await app.regions.home.vault.store("contoso", "keep_encrypted").purge(OfRecord("one"))
    clock.advance(DAY)

    assert await left_by(app)

    assert await open_app().health() == ["deletions that left data in storage, which nobody is shown: 1"]


async def test_a_run_that_hangs_is_stopped_fails_and_leaves_the_lease_to_the_next(open_app, blobs, monkeypatch):
    app = open_app()
    monkeypatch.setattr(regions, "RUN_TIME", timedelta(seconds=0.1))
    hanging = asyncio.Event()
    monkeypatch.setattr(app.regions.home.vault, "make_keys", lambda now: hanging.wait())

    assert await left_by(app) == ("what was not done within 0:00:00.100000, when the run was stopped",)

    monkeypatch.undo()
    assert await names(blobs, LEASES) == []
    assert "local" in await app.purge()


def test_a_run_ends_before_the_host_would_end_it():
    hours, minutes, seconds = map(int, json.loads((ROOT / "host.json").read_text())["functionTimeout"].split(":"))

    assert timedelta(hours=hours, minutes=minutes, seconds=seconds) > RUN_TIME
