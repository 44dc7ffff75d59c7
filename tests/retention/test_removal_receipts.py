"""Whatever goes gets a receipt, and only what is gone: whole days, days of accounts, deletions, whatever is interrupted."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from plugins import local_folder, local_keys
from sluicegate.accounts import NAME
from sluicegate.audit.log import Audit
from sluicegate.errors import PluginFailed, PurgeIncomplete, StorageUnavailable
from sluicegate.retention import purging
from sluicegate.retention import purging as retention
from sluicegate.retention.receipt_check import verify_receipt
from sluicegate.retention.receipts import CONTAINER, OWED, Receipts
from sluicegate.retention.removals import LATE, WITHOUT_KEYS, Found, Kind
from sluicegate.storage.vault import Vault
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage
from sluicegate.types import OfAccount, OfRecord, OfUser, Purged
from tests.audit.test_log import Crash, Mortal, Watched
from tests.retention.test_purging import Accounts, Plugins

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DUE = NOON + 29 * DAY + 11 * HOUR
"""When the day of ``NOON`` is due by the ceiling."""
CANARY = "canary5b2f74093"
ALICE = "a1" * 32
SCOPES = [OfRecord("alice"), OfUser(ALICE), OfAccount()]
KINDS = {OfRecord: Kind.DELETE_RECORD, OfUser: Kind.DELETE_USER, OfAccount: Kind.DELETE_ACCOUNT}
SUBJECTS = {OfRecord: "alice", OfUser: ALICE, OfAccount: "contoso"}
WHO = {"actor": "contoso/officer", "reason": "ticket 17"}


@pytest.fixture
def clock():
    return FrozenClock(NOON)


@pytest.fixture(params=["memory", "local defaults"])
async def services(request, tmp_path):
    if request.param == "memory":
        yield MemoryStorage(), MemoryKeys()
        return
    blobs = local_folder.open_storage(f"folder:{tmp_path}/storage")
    yield blobs, local_keys.open_keys(f"folder:{tmp_path}/keys")
    await blobs.close()


@pytest.fixture
def blobs(services):
    return services[0]


@pytest.fixture
def keys(services):
    return services[1]


@pytest.fixture
def protected(clock):
    """A key service that keeps what is deleted for 7 days."""

    class Protected(MemoryKeys):
        def __init__(self):
            super().__init__()
            self.deleted = {}

        async def destroy(self, name):
            if name in self._keys:
                self.deleted.setdefault(name, clock.now + 7 * DAY)
            return await self.recoverable_until(name) is None

        async def recoverable_until(self, name):
            if name in self.deleted and self.deleted[name] <= clock.now:
                del self._keys[name], self.deleted[name]
            return self.deleted.get(name)

        async def recover(self, name):
            del self.deleted[name]

    return Protected()


@pytest.fixture
def start(blobs, keys, clock):
    """Return a function that opens everything as another process would."""

    def open(store=None, signer=None):
        store, signer = store or blobs, signer or keys
        audit = Audit(store, signer, origin="log", clock=clock)
        receipts = Receipts(store, signer, audit, clock=clock)
        vault = Vault(store, signer, clock=clock, ledger=receipts)
        return SimpleNamespace(vault=vault, receipts=receipts, audit=audit)

    return open


async def tick(process, plugins=None, accounts=None, *, now, **options):
    """Run the timer once."""
    plugins, accounts = plugins or Plugins(keeper=30), accounts or Accounts("contoso", "fabrikam")
    return await purging.purge(process.vault, plugins, accounts, process.receipts, now=now, **options)


async def delete(process, scope, plugins=None):
    return await purging.delete(process.vault, plugins or Plugins(keeper=30), process.receipts, "contoso", scope, **WHO)


async def keep(process, *accounts, plugin="keeper"):
    for account in accounts:
        store = process.vault.store(account, plugin)
        for record, user in (("alice", ALICE), ("bob", "b0" * 32)):
            await store.keep(record, f"{record} says {CANARY}".encode() * 20, user=user)


async def issued(process, keys, *, day="20260101"):
    """Return the statements of all receipts but those of other whole days, sorted; each must hold."""
    statements = []
    async for receipt in process.receipts.every():
        statement = verify_receipt(receipt.data, await keys.public_key("audit")).statement
        if statement["account"] or statement["subject"] == day:
            statements.append(statement)
    return sorted(statements, key=lambda each: (each["kind"], each["account"] or "", each["time"]))


async def names(blobs, container):
    return [blob.name async for blob in blobs.list(container)]


async def sizes(blobs, *containers):
    return [blob.size for container in containers async for blob in blobs.list(container)]


def brief(statement):
    return statement["kind"], statement["account"], statement["subject"]


async def test_a_day_of_all_accounts_gets_one_receipt(start, blobs, keys):
    process = start()
    await keep(process, "contoso", "fabrikam")
    there = await sizes(blobs, "keyring-20260101", "ret-20260101")

    await tick(process, now=DUE)

    [statement] = await issued(process, keys)
    assert brief(statement) == ("purge.day", None, "20260101")
    [found] = statement["removed"]
    assert (found["blobs"], found["bytes"]) == (len(there), sum(there))
    assert statement["keys"] == [{"name": "ret-20260101", "destroyed": True, "recoverable_until": None}]
    assert statement["checked"] == {"container keyring-20260101": 0, "container ret-20260101": 0}
    assert (await names(blobs, OWED), await keys.names("ret-20260101")) == ([], ())


async def test_the_order_of_a_purge_is_key_wrapped_keys_container_receipt(start, blobs, keys):
    await keep(start(), "contoso")
    order = []

    def note(name, args):
        if name in ("destroy", "delete", "drop", "put", "sign"):
            order.append((name, args[0]))

    await start(Watched(blobs, note), Watched(keys, note)).vault.purge_overdue(DUE)

    steps = [step for step in order if step[0] != "put" or step[1] in (OWED, CONTAINER, "audit")]
    assert [step for step in steps if step[1] not in ("audit",)] == [
        ("put", OWED),
        ("destroy", "ret-20260101"),
        ("drop", "keyring-20260101"),
        ("drop", "ret-20260101"),
        ("put", OWED),
        ("put", CONTAINER),
        ("delete", OWED),
    ]


async def test_an_accounts_shorter_retention_gets_a_receipt_for_its_day_and_leaves_others_alone(start, blobs, keys):
    process = start()
    await keep(process, "contoso", "fabrikam")

    await tick(process, accounts=Accounts(contoso=2, fabrikam=30), now=NOON + 3 * DAY)

    [statement] = await issued(process, keys)
    assert brief(statement) == ("purge.account-day", "contoso", "20260101/keeper")
    assert statement["checked"] == {"keyring-20260101 contoso/keeper/": 0, "ret-20260101 contoso/keeper/": 0}
    assert (statement["keys"], WITHOUT_KEYS in statement["not_proven"]) == ([], True)
    assert {name.partition("/")[0] for name in await names(blobs, "ret-20260101")} == {"fabrikam"}
    assert await keys.names("ret-20260101") == ("ret-20260101",)


@pytest.mark.parametrize(
    "plugins", [Plugins(), Plugins(keeper=PluginFailed("keeper", "purge"))], ids=["gone", "broken"]
)
async def test_an_accounts_retention_asks_no_plugin(start, blobs, keys, plugins):
    process = start()
    await keep(process, "contoso")

    try:
        await tick(process, plugins, Accounts(contoso=2), now=NOON + 3 * DAY)
    except PurgeIncomplete as error:
        assert error.left == ("plugin 'keeper', account 'contoso' (PluginFailed)",)  # noqa: PT017 - one of two cases

    assert await names(blobs, "ret-20260101") == []
    assert [brief(statement)[:2] for statement in await issued(process, keys)] == [
        ("purge.account-day", "contoso"),
        ("purge.day", None),
    ]


async def test_what_a_plugins_own_setting_takes_gets_receipts_and_then_the_day_its_own(start, keys):
    process = start()
    await keep(process, "contoso", "fabrikam")

    await tick(process, Plugins(keeper=2), now=NOON + 3 * DAY)

    statements = await issued(process, keys)
    assert [brief(statement) for statement in statements] == [
        ("purge.account-day", "contoso", "20260101/keeper"),
        ("purge.account-day", "fabrikam", "20260101/keeper"),
        ("purge.day", None, "20260101"),
    ]
    assert statements[2]["keys"][0]["destroyed"]


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_deletion_gets_a_receipt_that_says_who_asked_and_why(start, blobs, keys, scope):
    process = start()
    await keep(process, "contoso", "fabrikam")
    await keep(process, "contoso", plugin="former")

    deleted = await delete(process, scope)

    verified = verify_receipt(deleted.receipt.data, await keys.public_key("audit"))
    assert brief(verified.statement) == (KINDS[type(scope)].value, "contoso", SUBJECTS[type(scope)])
    assert (verified.entry["actor"], verified.entry["reason"]) == ("contoso/officer", "ticket 17")
    [found] = verified.statement["removed"]
    expected = (None, 6) if scope == OfAccount() else (2, 0)
    assert (found["records"], found["blobs"]) == expected
    assert verified.statement["checked"] == {"kept by keeper, and deleted": 0, "kept by former, and deleted": 0}
    assert {WITHOUT_KEYS, LATE} <= set(verified.statement["not_proven"])
    assert await process.receipts.get("contoso", deleted.receipt.id) == deleted.receipt
    assert [record.id async for record in process.vault.store("fabrikam", "keeper").records()] == ["alice", "bob"]


async def test_a_deletion_of_what_is_not_there_gets_a_receipt_that_says_so(start, keys):
    deleted = await delete(start(), OfUser(ALICE))

    [found] = deleted.receipt.document["removed"]
    assert (found["records"], found["bytes"]) == (0, 0)


async def test_a_plugin_that_forgets_to_delete_keeps_nothing_and_the_receipt_is_true(start, keys):
    class Forgetful(Plugins):
        async def call(self, name, hook, expected, **arguments):
            return Purged()

    process = start()
    await keep(process, "contoso")

    deleted = await delete(process, OfUser(ALICE), Forgetful(keeper=30))

    assert [record.id async for record in process.vault.store("contoso", "keeper").records()] == ["bob"]
    assert deleted.receipt.document["removed"][0]["records"] == 1


async def test_what_cannot_be_in_a_receipt_is_not_deleted(start, blobs):
    process = start()
    await keep(process, "contoso")

    with pytest.raises(ValueError, match="subject"):
        await delete(process, OfRecord("ann@example.com"))

    assert await names(blobs, OWED) == []


@pytest.mark.parametrize("account", ["a", "with.dots_and-", "9_"])
async def test_every_account_there_can_be_gets_receipts(start, keys, account):
    assert NAME.fullmatch(account)
    process = start()
    await keep(process, account)

    await tick(process, accounts=Accounts(**{account: 2}), now=NOON + 3 * DAY)

    assert brief((await issued(process, keys))[0]) == ("purge.account-day", account, "20260101/keeper")


async def test_nothing_to_do_gets_no_receipt(start, keys, clock):
    process = start()
    await keep(process, "contoso")
    accounts = Accounts(contoso=2, fabrikam=0)
    clock.advance(3 * DAY)

    await tick(process, accounts=accounts, now=clock.now)
    before = [receipt async for receipt in process.receipts.every()]
    await tick(process, accounts=accounts, now=clock.advance(HOUR))

    assert len(before) == 2
    assert [receipt async for receipt in process.receipts.every()] == before


async def test_what_is_left_of_a_deleted_account_gets_one_receipt(start, keys, clock):
    process = start()
    await keep(process, "contoso", "fabrikam")
    accounts = Accounts(contoso=0, fabrikam=30)

    for _ in range(3):
        await tick(process, accounts=accounts, now=clock.now)
        clock.advance(timedelta(minutes=10))

    [statement] = await issued(process, keys)
    assert brief(statement) == ("delete.account", "contoso", "contoso")
    assert statement["removed"][0]["blobs"] == 3


async def test_an_interrupted_purge_gets_its_receipt_on_the_next_tick_with_the_counts_from_before(start, blobs, keys):
    def fail(name, args):
        if (name, *args) == ("drop", "ret-20260101"):
            raise StorageUnavailable("stuck")

    await keep(start(), "contoso")
    there = await sizes(blobs, "keyring-20260101", "ret-20260101")
    with pytest.raises(PurgeIncomplete) as caught:
        await tick(start(Watched(blobs, fail)), Plugins(), now=DUE)
    assert caught.value.left == ("20260101: StorageUnavailable",)
    assert await issued(start(), keys) == []

    await tick(start(), now=DUE + HOUR)

    [statement] = await issued(start(), keys)
    first, second = statement["removed"]
    assert (first["blobs"], first["bytes"]) == (len(there), sum(there))
    assert second["blobs"] == len(there) - 1


async def test_an_interrupted_deletion_is_finished_by_the_timer(start, keys, clock):
    process = start()
    await keep(process, "contoso")
    broken = Plugins(keeper=PluginFailed("keeper", "purge"))
    with pytest.raises(PurgeIncomplete):
        await delete(process, OfUser(ALICE), broken)
    assert [record.id async for record in start().vault.store("contoso", "keeper").records()] == ["bob"]
    with pytest.raises(PurgeIncomplete):
        await tick(start(), broken, now=clock.now)
    assert await issued(start(), keys) == []

    summary = await tick(start(), now=clock.now)

    [statement] = await issued(start(), keys)
    assert (summary.finished, brief(statement)) == (1, ("delete.user", "contoso", ALICE))
    assert [found["records"] for found in statement["removed"]] == [1]


async def test_a_damaged_note_of_an_interrupted_removal_stops_no_other(start, blobs, keys, clock):
    process = start()
    await keep(process, "contoso")
    await blobs.put(OWED, "0" * 32, b"rubbish")
    found = Found(0, 0, "00" * 32, 0)
    await process.receipts.begin(Kind.DELETE_USER, "contoso", ALICE, found, **WHO)

    with pytest.raises(PurgeIncomplete) as caught:
        await tick(process, now=clock.now)

    assert caught.value.left == ("interrupted removals (SealBroken)",)
    assert [brief(statement) for statement in await issued(process, keys)] == [("delete.user", "contoso", ALICE)]


async def test_a_purge_that_somebody_planted_destroys_no_key_before_its_time(start, blobs, keys, clock):
    process = start()
    await keep(process, "contoso")
    found = Found(0, 0, "00" * 32)
    await process.receipts.begin(Kind.PURGE_DAY, None, "20260101", found, actor="timer/purge")

    with pytest.raises(PurgeIncomplete, match="20260101: its purge was begun, but it is not due"):
        await tick(process, now=clock.now + 3 * DAY)

    assert await keys.names("ret-20260101") == ("ret-20260101",)
    assert await names(blobs, "ret-20260101") != []


async def test_a_key_that_can_be_recovered_is_said_to_be_and_until_when(start, blobs, protected, clock):
    process = start(signer=protected)
    await keep(process, "contoso")
    clock.now = DUE

    for _ in range(3):
        await tick(process, now=clock.now)
        clock.advance(HOUR)

    [statement] = await issued(process, protected)
    until = "2026-02-06T23:00:00.000Z"
    assert statement["keys"] == [{"name": "ret-20260101", "destroyed": False, "recoverable_until": until}]
    assert statement["recoverable_until"] == until
    assert until in statement["not_proven"][-1]
    assert await process.vault.overdue(NOON + 31 * DAY) == ()
    assert await names(blobs, "ret-20260101") == await names(blobs, "keyring-20260101") == []


async def test_a_key_that_somebody_recovers_is_overdue_and_goes_again(start, protected, clock):
    process = start(signer=protected)
    await keep(process, "contoso")
    clock.now = DUE
    await tick(process, now=clock.now)

    await protected.recover("ret-20260101")
    clock.advance(HOUR)

    assert await process.vault.overdue(clock.now) == ("20260101",)
    await tick(process, now=clock.now)
    assert await protected.recoverable_until("ret-20260101") is not None
    assert len(await issued(process, protected)) == 2


async def test_a_plugin_that_hangs_is_given_up_and_the_others_purge(start, keys):
    process = start()
    await keep(process, "contoso", "fabrikam", plugin="sound")

    with pytest.raises(PurgeIncomplete) as caught:
        await tick(process, Hanging(stuck=1, sound=2), now=NOON + 3 * DAY, plugin_time=timedelta(seconds=3))

    assert caught.value.left == ("plugin 'stuck', account 'contoso' and those after it (not done within 3 s)",)
    assert len(await issued(process, keys)) == 3


class Hanging(Plugins):
    """Plugins of which ``stuck`` never ends."""

    async def call(self, name, hook, expected, **arguments):
        if name == "stuck":
            await asyncio.Event().wait()
        return await super().call(name, hook, expected, **arguments)


async def test_a_plugin_that_hangs_keeps_nothing_from_being_deleted(start, keys, clock, monkeypatch):
    monkeypatch.setattr(retention, "DELETION_TIME", timedelta(seconds=3))
    process = start()
    await keep(process, "contoso")

    with pytest.raises(PurgeIncomplete) as caught:
        await delete(process, OfUser(ALICE), Hanging(stuck=30, keeper=30))

    assert caught.value.left == ("plugin 'stuck', account 'contoso' (not done within 3 s)",)
    assert [record.id async for record in process.vault.store("contoso", "keeper").records()] == ["bob"]
    await tick(process, now=clock.now)
    assert [brief(statement) for statement in await issued(process, keys)] == [("delete.user", "contoso", ALICE)]


async def test_what_storage_claims_to_have_deleted_is_looked_for_before_there_is_a_receipt(start, blobs, keys):
    class Liar(Watched):
        def __getattr__(self, name):
            return self.lie if name == "delete" else super().__getattr__(name)

        async def lie(self, container, name, **options):
            if container != "ret-20260101":
                await self.inner.delete(container, name, **options)

    await keep(start(), "contoso")

    with pytest.raises(PurgeIncomplete) as caught:
        await delete(start(Liar(blobs)), OfAccount())

    assert caught.value.left == ("contoso: kept by keeper, and deleted",)
    assert await issued(start(), keys) == []


async def test_what_fills_the_disk_goes_though_nothing_can_be_written(start, blobs, keys):
    is_full = True

    def fail(name, args):
        nonlocal is_full
        if name == "put" and is_full:
            raise StorageUnavailable("no space left on device")
        if name == "drop":
            is_full = False

    await keep(start(), "contoso")
    there = await sizes(blobs, "keyring-20260101", "ret-20260101")

    await start(Watched(blobs, fail)).vault.purge_overdue(DUE)

    [statement] = await issued(start(), keys)
    assert (statement["removed"][0]["blobs"], statement["removed"][0]["bytes"]) == (len(there), sum(there))


async def test_purging_a_day_takes_as_many_deletions_whatever_it_holds(start, blobs, keys, clock):
    deletions = []
    for records in (2, 60):
        process = start()
        for number in range(records):
            await process.vault.store(f"account{number % 7}", "keeper").keep(f"r{number}", b"")
        store, signer = Watched(blobs), Watched(keys)
        await start(store, signer).vault.purge_overdue(clock.now + 30 * DAY)
        deletions.append((store.count("delete", "drop"), signer.count("destroy")))
        clock.advance(DAY)

    assert deletions == [(3, 1), (3, 1)]


async def test_receipts_and_audit_log_hold_no_content_and_no_names_of_users(start, blobs, keys, clock):
    process = start()
    await keep(process, "contoso", "fabrikam")
    for scope in SCOPES:
        await delete(process, scope)
    await keep(process, "contoso")
    await tick(process, accounts=Accounts(contoso=2, fabrikam=30), now=NOON + 3 * DAY)
    await tick(process, now=DUE)
    await process.audit.publish()

    for container in await blobs.containers():
        for name in await names(blobs, container):
            data = (await blobs.get(container, name)).data
            assert CANARY.encode() not in data
            assert b'"bob"' not in data
    assert len(await issued(process, keys)) == 5


async def test_what_weakens_a_removal_is_in_its_receipt(start, keys, blobs):
    class Weak(MemoryKeys):
        async def weaknesses(self):
            return ("purge protection is on",)

    keys = Weak()
    process = start(signer=keys)
    await keep(process, "contoso")

    await tick(process, now=DUE)

    [statement] = await issued(process, keys)
    assert statement["weaknesses"] == ["purge protection is on"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("what", ["days", "account", *SCOPES], ids=str)
async def test_a_process_may_die_at_any_call_and_there_is_one_receipt_for_each_removal(clock, what, after):
    """Every call to storage and keys is a point of death."""
    accounts = Accounts(contoso=2 if what == "account" else 30, fabrikam=30)
    now = {"days": DUE, "account": NOON + 3 * DAY}.get(what, NOON)
    points = 0
    while True:
        points += 1
        clock.now = NOON
        blobs, keys = MemoryStorage(), MemoryKeys()

        def process(around=lambda inner: inner, blobs=blobs, keys=keys):
            audit = Audit(around(blobs), around(keys), origin="log", clock=clock)
            receipts = Receipts(around(blobs), around(keys), audit, clock=clock)
            vault = Vault(around(blobs), around(keys), clock=clock, ledger=receipts)
            return SimpleNamespace(vault=vault, receipts=receipts, audit=audit)

        await keep(process(), "contoso", "fabrikam")
        if not isinstance(what, str):
            await keep(process(), "contoso", plugin="former")
        clock.now = now
        mortal = Mortal(points, after=after)
        died = False
        try:
            if isinstance(what, str):
                await tick(process(mortal.around), accounts=accounts, now=now)
            else:
                await delete(process(mortal.around), what)
        except (Crash, PurgeIncomplete):
            died = True
        began = bool([each async for each in blobs.list(OWED)] or [each async for each in blobs.list(CONTAINER)])
        for _ in range(2):
            clock.advance(HOUR)
            await tick(process(), accounts=accounts, now=clock.now)

        statements = await issued(process(), keys)
        assert len(statements) == (1 if began or isinstance(what, str) else 0)
        if statements:
            assert statements[0]["removed"][0]["bytes"] > 0
            for plugin in ("keeper", "former"):
                left = {record.id async for record in process().vault.store("contoso", plugin).records()}
                assert left == (set() if isinstance(what, str) or what == OfAccount() else {"bob"})
        if statements and not isinstance(what, str):
            assert statements[0]["checked"] == {"kept by keeper, and deleted": 0, "kept by former, and deleted": 0}
        if what == OfAccount() and statements:
            there = await names(blobs, "ret-20260101")
            assert [name for name in there if name.startswith("contoso/") and "/deletions/" not in name] == []
        assert await names(blobs, OWED) == []
        assert await process().audit.verify() >= len(statements)
        if not died:
            break
    assert points > 20
