import argparse
import asyncio
import base64
import hashlib
import io
import json
import socket
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.audit.entries import Event
from sluicegate.audit.log import Audit
from sluicegate.cli.receipts import add_commands, save_receipts, verify_receipt_command
from sluicegate.errors import BlobChanged, BlobNotFound, PurgeIncomplete, SealBroken, StorageUnavailable
from sluicegate.retention.receipt_check import MAX_BYTES, NotVerified, verify_receipt
from sluicegate.retention.receipts import CONTAINER, OWED, Receipts
from sluicegate.retention.removals import NOT_PROVEN, WITH_KEYS, WITHOUT_KEYS, Evidence, Found, Kind
from sluicegate.storage.day_layout import Gone, Tally
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage
from tests.audit.test_log import Crash, Mortal, Watched

VECTORS = Path(__file__).parents[1] / "vectors/receipts"
DAY = timedelta(days=1)
FOUND = Found(12, 3456, "ab" * 32, 40)
GONE = Evidence({"ret-20260101": True}, {"container ret-20260101": 0, "keyring 20260101/": 0})
DELETED = Evidence({}, {"records": 0})
PUBLIC = json.loads((VECTORS / "public.jwk").read_text())
VECTOR_NAMES = ("receipt-v1-day.json", "receipt-v1-user.json")
RAW = {name: (VECTORS / name).read_bytes() for name in VECTOR_NAMES}
DOCUMENTS = {name: json.loads(data) for name, data in RAW.items()}


@pytest.fixture
def clock():
    return FrozenClock()


@pytest.fixture
def blobs():
    return MemoryStorage()


@pytest.fixture
def keys():
    return MemoryKeys()


@pytest.fixture
def open_receipts(blobs, keys, clock):
    """Return a function that opens the receipts as another process would."""

    def open(store=None, signer=None, **options):
        audit = Audit(store or blobs, signer or keys, origin="log", clock=clock)
        return Receipts(store or blobs, signer or keys, audit, clock=clock, **options)

    return open


@pytest.fixture
def receipts(open_receipts):
    return open_receipts()


async def purge_day(receipts, day="20260101", evidence=GONE, found=FOUND):
    return await receipts.issue(await receipts.begin(Kind.PURGE_DAY, None, day, found, actor="timer/purge"), evidence)


async def delete_user(receipts, account="contoso", user="5e" * 32):
    owed = await receipts.begin(Kind.DELETE_USER, account, user, FOUND, actor=f"{account}/key1", reason="ticket 17")
    return await receipts.issue(owed, DELETED)


async def names(blobs, container):
    return [blob.name async for blob in blobs.list(container)]


def refused(receipt, jwk):
    data = receipt if isinstance(receipt, bytes) else json.dumps(receipt).encode()
    with pytest.raises(NotVerified) as caught:
        verify_receipt(data, jwk)
    return caught.value.reason


async def test_a_purge_gets_a_receipt_that_anyone_can_check(receipts, keys, clock):
    owed = await receipts.begin(Kind.PURGE_DAY, None, "20260101", FOUND, actor="timer/purge")
    clock.advance(timedelta(seconds=2))

    receipt = await receipts.issue(owed, GONE)

    verified = verify_receipt(receipt.data, await keys.public_key("audit"))
    assert verified.statement == {
        "version": 1,
        "id": owed.id,
        "kind": "purge.day",
        "account": None,
        "subject": "20260101",
        "began": "2026-01-01T12:00:00.000Z",
        "time": "2026-01-01T12:00:02.000Z",
        "removed": [
            {
                "time": "2026-01-01T12:00:00.000Z",
                "blobs": 12,
                "bytes": 3456,
                "records": 40,
                "names_sha256": "ab" * 32,
            }
        ],
        "keys": [{"name": "ret-20260101", "destroyed": True, "recoverable_until": None}],
        "checked": {"container ret-20260101": 0, "keyring 20260101/": 0},
        "recoverable_until": None,
        "weaknesses": [],
        "not_proven": [*NOT_PROVEN, WITH_KEYS],
    }
    assert verified.entry["actor"] == "timer/purge"
    assert verified.entry["id"] == owed.id.partition("-")[2]
    assert (verified.checkpoint.origin, verified.checkpoint.size) == ("log", 1)
    assert verified.not_proven == (*NOT_PROVEN, WITH_KEYS)


async def test_a_receipt_is_stored_and_nothing_stays_owed(receipts, open_receipts, blobs):
    receipt = await purge_day(receipts)

    assert await open_receipts().get(None, receipt.id) == receipt
    assert await names(blobs, CONTAINER) == [f"deployment/{receipt.id}"]
    assert await names(blobs, OWED) == []


async def test_the_log_holds_no_more_of_a_receipt_than_its_hash_and_counts(receipts, blobs):
    await delete_user(receipts)

    [line] = (await blobs.get("audit", "000000000000")).data.splitlines()
    entry = json.loads(line)
    assert (entry["action"], entry["account"], entry["reason"]) == ("delete.user", "contoso", "ticket 17")
    assert entry["evidence"].keys() == {"statement", "blobs", "bytes"}


async def test_the_local_defaults_issue_receipts_too(tmp_path):
    from plugins.local_folder import open_storage
    from plugins.local_keys import open_keys

    blobs, keys = open_storage(f"folder:{tmp_path}/blobs"), open_keys(f"folder:{tmp_path}/keys")
    receipts = Receipts(blobs, keys, Audit(blobs, keys, origin="log"))

    issued = await asyncio.gather(*(purge_day(receipts, day) for day in ("20260101", "20260102", "20260103")))

    jwk = await keys.public_key("audit")
    assert [verify_receipt(receipt.data, jwk).statement["subject"][-1] for receipt in issued] == ["1", "2", "3"]
    assert len(await receipts.list(None)) == 3
    assert await Audit(blobs, keys, origin="log").verify() == 3
    await blobs.close()


async def test_a_receipt_proves_its_entry_in_a_long_log(receipts, keys, blobs, clock):
    audit = Audit(blobs, keys, origin="log", clock=clock)
    await asyncio.gather(*(audit.append(Event("contoso/key1", "retained.read")) for _ in range(700)))

    receipt = await purge_day(receipts)

    verified = verify_receipt(receipt.data, await keys.public_key("audit"))
    assert (verified.entry["seq"], len(receipt.document["audit"]["inclusion"]["path"])) == (700, 6)


async def test_without_a_destroyed_key_the_receipt_says_so(receipts):
    receipt = await delete_user(receipts)

    assert receipt.document["keys"] == []
    assert WITHOUT_KEYS in receipt.document["not_proven"]
    assert WITH_KEYS not in receipt.document["not_proven"]


async def test_what_makes_a_removal_less_than_final_is_in_every_receipt(open_receipts, keys):
    class Protected(MemoryKeys):
        async def recoverable_until(self, name):
            return datetime(2026, 4, 1, 12, tzinfo=UTC) if name == "ret-20260101" else None

        async def weaknesses(self):
            return ("The vault has purge protection.",)

    async def soft_delete():
        return ("The storage keeps deleted blobs for 7 days.",)

    receipts = open_receipts(signer=Protected(), weaknesses=soft_delete)
    evidence = Evidence({"ret-20260101": False}, {"container ret-20260101": 0}, ["One snapshot is left."])

    document = (await purge_day(receipts, evidence=evidence)).document

    until = "2026-04-01T12:00:00.000Z"
    assert document["keys"] == [{"name": "ret-20260101", "destroyed": False, "recoverable_until": until}]
    assert document["recoverable_until"] == until
    assert document["weaknesses"] == [
        "The vault has purge protection.",
        "The storage keeps deleted blobs for 7 days.",
        "One snapshot is left.",
    ]
    assert until in document["not_proven"][-1]


async def test_a_key_that_can_be_recovered_is_not_called_destroyed(open_receipts):
    class Recoverable(MemoryKeys):
        async def recoverable_until(self, name):
            return datetime(2026, 4, 1, tzinfo=UTC)

    [key] = (await purge_day(open_receipts(signer=Recoverable()))).document["keys"]

    assert not key["destroyed"]


@pytest.mark.parametrize(
    ("evidence", "left"),
    [
        (Evidence({"ret-20260101": True}, {"container": 0, "keyring": 2}), ("20260101: keyring",)),
        (Evidence({"ret-20260101": False}, {"container": 0}), ("20260101: key ret-20260101",)),
    ],
    ids=["something left", "key not proven absent"],
)
async def test_what_is_not_gone_gets_no_receipt(receipts, blobs, evidence, left):
    with pytest.raises(PurgeIncomplete) as caught:
        await purge_day(receipts, evidence=evidence)

    assert caught.value.left == left
    assert await names(blobs, CONTAINER) == await names(blobs, "audit") == []
    assert [owed.subject async for owed in receipts.owed()] == ["20260101"]


@pytest.mark.parametrize("evidence", [Evidence({"ret-20260101": True}, {}), Evidence({}, {"container": 0})])
async def test_a_purge_that_checked_nothing_gets_no_receipt(receipts, blobs, evidence):
    with pytest.raises(ValueError, match=r"removal|purged"):
        await purge_day(receipts, evidence=evidence)

    assert await names(blobs, CONTAINER) == []


@pytest.mark.parametrize(
    ("account", "subject", "options"),
    [
        ("Contoso", "20260101", {}),
        ("a/b", "20260101", {}),
        ("contoso", "ann@example.com", {}),
        ("contoso", "20260101", {"actor": "ann@example.com"}),
        ("contoso", "20260101", {"reason": "for ann@example.com"}),
    ],
)
async def test_what_cannot_be_recorded_is_refused_before_anything_is_removed(
    receipts, blobs, account, subject, options
):
    with pytest.raises(ValueError, match=r"account|subject|actor|reason"):
        await receipts.begin(Kind.DELETE_USER, account, subject, FOUND, **{"actor": "contoso/key1", **options})

    assert await names(blobs, OWED) == []


async def test_receipts_are_listed_by_account_newest_first(receipts, clock):
    issued = []
    for number in range(5):
        issued.append(await delete_user(receipts, user=f"u{number}"))
        await delete_user(receipts, account="fabrikam", user=f"u{number}")
        clock.advance(DAY)
    newest_first = tuple(reversed(issued))

    assert await receipts.list("contoso") == newest_first
    assert await receipts.list("contoso", limit=2) == newest_first[:2]
    assert await receipts.list("contoso", limit=2, after=newest_first[1].id) == newest_first[2:4]
    assert await receipts.list("contoso", after=newest_first[-1].id) == ()
    assert await receipts.list("nobody") == await receipts.list(None) == ()
    assert len([receipt async for receipt in receipts.every()]) == 10


async def test_an_account_sees_its_own_receipts_only(receipts):
    own, other = await delete_user(receipts, "deployment"), await purge_day(receipts)

    assert await receipts.list("deployment") == (own,)
    assert await receipts.list(None) == (other,)
    for account, id in ((None, own.id), ("deployment", other.id), ("deployment", "../" + other.id), ("../x", own.id)):
        with pytest.raises(BlobNotFound):
            await receipts.get(account, id)


async def test_foreign_blobs_among_the_receipts_are_passed_over(receipts, blobs):
    receipt = await delete_user(receipts)
    for name in ("account/contoso/notes.txt", "stray", "account/Contoso/x", "deployment/zzz"):
        await blobs.put(CONTAINER, name, b"hello")

    assert await receipts.list("contoso") == (receipt,)
    assert [each async for each in receipts.every()] == [receipt]


async def test_a_removal_that_is_begun_again_goes_on_with_the_first(receipts, open_receipts, clock):
    first = await receipts.begin(Kind.PURGE_DAY, None, "20260101", FOUND, actor="timer/purge")
    clock.advance(timedelta(hours=1))

    again = await open_receipts().begin(Kind.PURGE_DAY, None, "20260101", Found(3, 30, "cd" * 32), actor="timer/purge")

    assert again == first
    receipt = await receipts.issue(again, GONE)
    assert [(each["time"][11:13], each["blobs"]) for each in receipt.document["removed"]] == [("12", 12), ("13", 3)]


async def test_an_attempt_that_finds_the_same_is_not_counted_again(receipts, clock):
    for _ in range(5):
        owed = await receipts.begin(Kind.PURGE_DAY, None, "20260101", FOUND, actor="timer/purge")
        clock.advance(timedelta(hours=1))

    assert len((await receipts.issue(owed, GONE)).document["removed"]) == 1


async def test_a_receipt_that_is_issued_twice_is_one(receipts, open_receipts, blobs):
    owed = await receipts.begin(Kind.PURGE_DAY, None, "20260101", FOUND, actor="timer/purge")

    first = await receipts.issue(owed, GONE)
    second = await open_receipts().issue(owed, Evidence({"ret-20260101": True}, {"something else": 0}))

    assert first == second
    assert len((await blobs.get("audit", "000000000000")).data.splitlines()) == 1
    assert await names(blobs, "audit") == ["000000000000"]


async def test_what_goes_later_gets_a_receipt_of_its_own(receipts, clock):
    first = await purge_day(receipts)
    clock.advance(timedelta(hours=1))
    second = await purge_day(receipts, found=Found(1, 10, "cd" * 32))

    assert first.id != second.id
    assert await receipts.list(None) == (second, first)


async def test_racing_processes_issue_one_receipt(open_receipts, blobs):
    processes = [open_receipts(Watched(blobs)) for _ in range(4)]

    issued = await asyncio.gather(*(purge_day(process) for process in processes))

    assert len(set(issued)) == len(await names(blobs, CONTAINER))
    assert await names(blobs, OWED) == []
    for receipt in issued:
        assert len(receipt.document["removed"]) == 1


@pytest.mark.parametrize("head_start", range(12))
async def test_of_two_processes_that_state_one_removal_differently_one_is_recorded(open_receipts, blobs, head_start):
    owed = await open_receipts().begin(Kind.PURGE_DAY, None, "20260101", FOUND, actor="timer/purge")

    async def state(what, after):
        for _ in range(after):
            await asyncio.sleep(0)
        return await open_receipts(Watched(blobs)).issue(owed, Evidence({"ret-20260101": True}, {what: 0}))

    one, other = await asyncio.gather(state("one", 0), state("other", head_start))

    assert one == other
    assert await open_receipts().list(None) == (one,)


async def test_a_proof_that_does_not_hold_is_given_to_nobody(blobs, keys, clock, open_receipts):
    class Wrong(Audit):
        async def inclusion(self, seq, size):
            return (bytes(32), *await super().inclusion(seq, size))

    with pytest.raises(NotVerified):
        await purge_day(Receipts(blobs, keys, Wrong(blobs, keys, origin="log", clock=clock), clock=clock))
    assert await names(blobs, CONTAINER) == []

    receipts = open_receipts()
    assert [owed async for owed in receipts.owed()] == []
    assert len(await receipts.list(None)) == 1


async def test_a_late_finisher_does_not_forget_the_next_removal(open_receipts, blobs, clock):
    """One process states; another finishes for it and begins the next removal of the same before the first is done."""
    other = open_receipts()
    later = []

    async def meanwhile(name, args):
        if name == "delete" and args[0] == OWED and not later:
            later.append(None)
            [pending] = [each async for each in other.owed()] or [None]
            assert pending is None
            clock.advance(timedelta(hours=1))
            later[0] = await other.begin(Kind.PURGE_DAY, None, "20260101", FOUND, actor="timer/purge")

    class Interrupted(Watched):
        def __getattr__(self, name):
            method = super().__getattr__(name)
            if name != "delete":
                return method

            async def call(*args, **kwargs):
                await meanwhile(name, args)
                return await method(*args, **kwargs)

            return call

    await purge_day(open_receipts(Interrupted(blobs)))

    assert [owed async for owed in other.owed()] == later
    receipt = await other.issue(later[0], GONE)
    assert len(await other.list(None)) == 2
    assert receipt.id == later[0].id


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_purge_that_dies_at_any_call_gets_one_receipt_with_the_counts_from_before(clock, after):
    """Every call to storage and keys is a point of death, from the announcement to the receipt."""

    async def run(blobs, keys):
        """One tick of a purge timer: finish what is owed, then purge what is there."""
        receipts = Receipts(blobs, keys, Audit(blobs, keys, origin="log", clock=clock), clock=clock)
        async for owed in receipts.owed():
            await remove(blobs, keys)
            await receipts.issue(owed, GONE)
        tally = Tally()
        async for blob in blobs.list("ret-20260101"):
            tally.note(Gone("ret-20260101", blob.name, blob.size))
        if "ret-20260101" in await keys.names("ret-") or "ret-20260101" in await blobs.containers("ret-"):
            owed = await receipts.begin(Kind.PURGE_DAY, None, "20260101", tally.found(), actor="timer/purge")
            await remove(blobs, keys)
            await receipts.issue(owed, GONE)

    async def remove(blobs, keys):
        await keys.destroy("ret-20260101")
        await blobs.drop("ret-20260101")

    points = 0
    while True:
        points += 1
        blobs, keys = MemoryStorage(), MemoryKeys()
        await keys.create("ret-20260101")
        for number in range(3):
            await blobs.put("ret-20260101", f"contoso/keep/{number}", b"12345")
        mortal = Mortal(points, after=after)
        died = False
        try:
            await run(mortal.around(blobs), mortal.around(keys))
        except Crash:
            died = True
        clock.advance(timedelta(hours=1))

        await run(blobs, keys)
        await run(blobs, keys)

        audit = Audit(blobs, keys, origin="log", clock=clock)
        receipts = Receipts(blobs, keys, audit, clock=clock)
        [receipt] = [each async for each in receipts.every()]
        statement = verify_receipt(receipt.data, await keys.public_key("audit")).statement
        assert (statement["removed"][0]["blobs"], statement["removed"][0]["bytes"]) == (3, 15)
        assert await audit.verify() == 1
        assert await names(blobs, OWED) == []
        if not died:
            break
    assert points > 15


@pytest.mark.parametrize("error", [BlobChanged, StorageUnavailable])
async def test_a_lost_acknowledgement_makes_no_second_receipt(open_receipts, blobs, clock, error):
    for at in range(1, 8):
        blobs, keys, puts = MemoryStorage(), MemoryKeys(), 0

        def lose(name, args, at=at):
            nonlocal puts
            puts += name == "put"
            if name == "put" and puts == at and args[0] in (OWED, CONTAINER, "audit"):
                raise error("lost")

        receipts = open_receipts(Watched(blobs, after=lose), keys)
        there = [FOUND]

        async def attempt(receipts=receipts, there=there):
            found = there[0] if there else Found(0, 0, "00" * 32)
            owed = await receipts.begin(Kind.PURGE_DAY, None, "20260101", found, actor="timer/purge")
            there.clear()
            await receipts.issue(owed, GONE)

        try:
            await attempt()
        except (BlobChanged, StorageUnavailable):
            await attempt()

        [receipt] = [each async for each in open_receipts(blobs, keys).every()]
        assert [each["blobs"] for each in receipt.document["removed"]] == [12]
        assert await Audit(blobs, keys, origin="log").verify() == 1


async def test_a_damaged_note_of_what_is_owed_is_named(receipts, blobs):
    await receipts.begin(Kind.PURGE_DAY, None, "20260101", FOUND, actor="timer/purge")
    [name] = await names(blobs, OWED)
    for data in (b"", b"{}", b"[]", b'{"version": 2}'):
        await blobs.put(OWED, name, data)
        with pytest.raises(SealBroken, match=f"{OWED}/{name}"):
            await purge_day(receipts)


def test_a_tally_counts_and_hashes_names_in_order():
    tally = Tally()
    tally.note(Gone("ret-20260101", "contoso/a", 3))
    tally.note(Gone("ret-20260101", "contoso/b", 4))
    records = Tally(counts_records=True)
    records.note(Gone("ret-20260101", "contoso/a", 3, 1, "one"))

    expected = hashlib.sha256(b"ret-20260101/contoso/a\nret-20260101/contoso/b\n").hexdigest()
    assert tally.found() == Found(2, 7, expected)
    assert records.found() == Found(0, 3, hashlib.sha256(b"ret-20260101/contoso/a one\n").hexdigest(), 1)
    assert Tally().found() == Found(0, 0, hashlib.sha256().hexdigest())


def verified_by_hand(data, jwk):
    """The three steps of the published format, with nothing of ours."""

    def decoded(text):
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    document = json.loads(data)
    audit = document.pop("audit")
    checkpoint, inclusion = audit["checkpoint"], audit["inclusion"]
    x, y = (int.from_bytes(decoded(jwk[name])) for name in "xy")
    signature = base64.b64decode(checkpoint["signature"])
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    try:
        ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key().verify(
            encode_dss_signature(r, s), checkpoint["text"].encode(), ec.ECDSA(SHA256())
        )
    except InvalidSignature:
        return False
    _, size, root = checkpoint["text"].splitlines()
    # RFC 9162 §2.1.3.2.
    fn, sn = inclusion["leaf_index"], int(size) - 1
    node = hashlib.sha256(b"\0" + audit["entry"].encode()).digest()
    for sibling in map(base64.b64decode, inclusion["path"]):
        if fn % 2 or fn == sn:
            node = hashlib.sha256(b"\1" + sibling + node).digest()
            while fn and not fn % 2:
                fn, sn = fn // 2, sn // 2
        else:
            node = hashlib.sha256(b"\1" + node + sibling).digest()
        fn, sn = fn // 2, sn // 2
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    entry = json.loads(audit["entry"])
    return (
        sn == 0
        and base64.b64encode(node).decode() == root
        and entry["seq"] == inclusion["leaf_index"]
        and entry["evidence"]["statement"] == hashlib.sha256(canonical).hexdigest()
    )


@pytest.mark.parametrize("name", VECTOR_NAMES)
def test_the_vectors_of_version_1_verify_for_ever(name):
    verified = verify_receipt(RAW[name], PUBLIC)

    assert verified.statement["version"] == 1
    assert len(DOCUMENTS[name]["audit"]["inclusion"]["path"]) > 2
    assert verified_by_hand(RAW[name], PUBLIC)


async def test_what_is_issued_today_has_the_published_format(receipts, keys):
    receipt = await purge_day(receipts)

    assert verified_by_hand(receipt.data, await keys.public_key("audit"))


def test_a_receipt_is_checked_without_network_or_files(monkeypatch):
    def none(*args, **kwargs):
        raise AssertionError("offline")

    monkeypatch.setattr(socket, "socket", none)
    monkeypatch.setattr("builtins.open", none)

    verify_receipt(RAW["receipt-v1-day.json"], PUBLIC)


def places(value, path=()):
    """Every place in a JSON document, the document included."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


def at(document, path):
    for step in path:
        document = document[step]
    return document


def others(value):
    """Values that a forger might put in a value's place."""
    if isinstance(value, bool):
        return [not value, int(value), None]
    if isinstance(value, int):
        return [value + 1, value - 1, -value - 1, str(value), float(value), value + 2**64, bool(value), None]
    if isinstance(value, str):
        changed = [value + "0", value[:-1], value.swapcase(), "", value + "\n", " " + value, value + "=", None, 0]
        # The last character before the padding: base64 leaves some of its bits unused.
        stem = value.rstrip("=")
        bumped = [stem[:-1] + chr(ord(stem[-1]) + 1) + value[len(stem) :]] if stem else []
        return [*changed, *bumped]
    if isinstance(value, list):
        return [[*value, *value[:1]], value[:-1], value[::-1], [*value, "x"], {}, None]
    if isinstance(value, dict):
        return [{**value, "extra": 1}, {}, [], None]
    return [0, "", False, "2027-01-01T00:00:00.000Z"]


@pytest.mark.parametrize("name", VECTOR_NAMES)
def test_no_field_of_a_receipt_can_be_changed(name):
    original = DOCUMENTS[name]
    changes = 0
    for path in places(original):
        for other in others(at(original, path)):
            if other == at(original, path) and type(other) is type(at(original, path)):
                continue
            document = deepcopy(original)
            if path:
                at(document, path[:-1])[path[-1]] = other
            else:
                document = other
            assert refused(document, PUBLIC), (path, other)
            changes += 1
    assert changes > 300


@pytest.mark.parametrize("name", VECTOR_NAMES)
def test_no_field_of_a_receipt_can_be_left_out_doubled_or_added(name):
    original = DOCUMENTS[name]
    for path in places(original):
        if not path:
            continue
        document = deepcopy(original)
        del at(document, path[:-1])[path[-1]]
        refused(document, PUBLIC)
        if isinstance(at(original, path), dict):
            document = deepcopy(original)
            at(document, path)["note"] = "all is well"
            refused(document, PUBLIC)
    text = json.dumps(original)
    for key in ("kind", "removed", "blobs", "audit", "entry", "leaf_index"):
        doubled = text.replace(f'"{key}": ', f'"{key}": null, "{key}": ', 1)
        assert doubled != text
        assert refused(doubled.encode(), PUBLIC) == "form"


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_no_bit_of_a_receipt_changes_what_it_says(data):
    raw = RAW[data.draw(st.sampled_from(VECTOR_NAMES))]
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8

    try:
        verify_receipt(bytes(changed), PUBLIC)
    except NotVerified:
        return

    # Space became other space.
    assert json.loads(changed) == json.loads(raw)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_other_bytes_are_refused(data):
    assert refused(data, PUBLIC) == "form"


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=10,
    ),
    st.sampled_from([path for path in places(DOCUMENTS["receipt-v1-day.json"]) if path]),
)
def test_no_value_at_all_can_take_anothers_place(value, path):
    document = deepcopy(DOCUMENTS["receipt-v1-day.json"])
    if json.dumps(value) == json.dumps(at(document, path)):
        return
    at(document, path[:-1])[path[-1]] = value

    refused(document, PUBLIC)


def changed(change):
    document = deepcopy(DOCUMENTS["receipt-v1-day.json"])
    change(document)
    return document


REASONS = {
    "statement: a count": ("statement", lambda document: document["removed"][0].update(blobs=0)),
    "statement: a sentence left out": ("statement", lambda document: document["not_proven"].pop()),
    "statement: the account": ("statement", lambda document: document.update(account="contoso")),
    "version: a later one": ("version", lambda document: document.update(version=2)),
    "version: a truth": ("version", lambda document: document.update(version=True)),
    "version: a text": ("version", lambda document: document.update(version="1")),
    "form: no version": ("form", lambda document: document.pop("version")),
    "form: no proof": ("form", lambda document: document.pop("audit")),
    "proof: the entry": (
        "proof",
        lambda document: document["audit"].update(entry=document["audit"]["entry"].replace("purge.day", "purge.day2")),
    ),
    "proof: the index": ("proof", lambda document: document["audit"]["inclusion"].update(leaf_index=0)),
    "proof: the tree": ("proof", lambda document: document["audit"]["inclusion"].update(tree_size=6)),
    "proof: the path": ("proof", lambda document: document["audit"]["inclusion"]["path"].reverse()),
    "proof: a shorter path": ("proof", lambda document: document["audit"]["inclusion"]["path"].pop()),
    "form: a path that is no hashes": ("form", lambda document: document["audit"]["inclusion"].update(path=["AA=="])),
    "signature: the root": (
        "signature",
        lambda document: document["audit"]["checkpoint"].update(
            text="\n".join([*document["audit"]["checkpoint"]["text"].splitlines()[:2], "A" * 43 + "=", ""])
        ),
    ),
    "signature: the signature": (
        "signature",
        lambda document: document["audit"]["checkpoint"].update(signature=base64.b64encode(bytes(64)).decode()),
    ),
    "key: another id": ("key", lambda document: document["audit"]["checkpoint"].update(key_id="audit/other")),
    "form: another algorithm": ("form", lambda document: document["audit"]["checkpoint"].update(algorithm="none")),
}


@pytest.mark.parametrize("case", REASONS)
def test_a_refusal_says_what_is_wrong(case):
    reason, change = REASONS[case]

    assert refused(changed(change), PUBLIC) == reason


def test_a_moved_entry_is_refused():
    """The entry's own number, not only the proof's index, places it."""

    def move(document):
        entry = document["audit"]["entry"]
        document["audit"]["entry"] = entry.replace('"seq":3', '"seq":2')
        document["audit"]["inclusion"]["leaf_index"] = 2

    assert refused(changed(move), PUBLIC) == "proof"


async def test_a_true_entry_about_something_else_is_no_receipt(keys, blobs):
    """Whoever gets a hash of their choice into the log, by another action, has no receipt for it."""
    document = deepcopy(DOCUMENTS["receipt-v1-day.json"])
    del document["audit"]
    statement = hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    audit = Audit(blobs, keys, origin="log")

    for action, account, subject in (
        ("retained.read", None, document["subject"]),
        ("purge.day", "contoso", document["subject"]),
        ("purge.day", None, "20260102"),
    ):
        entry = await audit.append(Event("x", action, account, subject, evidence={"statement": statement}))
        checkpoint = await audit.checkpoint()
        path = await audit.inclusion(entry.seq, checkpoint.size)
        document["audit"] = {
            "entry": entry.line.decode(),
            "inclusion": {
                "leaf_index": entry.seq,
                "tree_size": checkpoint.size,
                "path": [base64.b64encode(each).decode() for each in path],
            },
            "checkpoint": checkpoint.document,
        }
        assert refused(document, await keys.public_key("audit")) == "statement"


async def test_a_truth_value_is_no_number(receipts, keys):
    """The first entry of a log: 0 and 1, which Python also calls False and True."""
    receipt = await purge_day(receipts)
    jwk = await keys.public_key("audit")

    for name, value in (("leaf_index", False), ("tree_size", True)):
        document = receipt.document
        assert document["audit"]["inclusion"][name] == value
        document["audit"]["inclusion"][name] = value
        assert refused(document, jwk) == "proof"


async def test_another_deployments_key_does_not_verify_it():
    keys = MemoryKeys()
    await keys.sign("audit", b"")
    other = await keys.public_key("audit")

    assert refused(RAW["receipt-v1-day.json"], other) == "key"
    assert refused(RAW["receipt-v1-day.json"], {**other, "kid": PUBLIC["kid"]}) == "signature"


@pytest.mark.parametrize(
    "change",
    [
        {"kid": ""},
        {"kid": None},
        {"kty": "RSA"},
        {"crv": "P-384"},
        {"x": "AAAA"},
        {"x": PUBLIC["y"]},
        {"y": 3},
        {"x": "!!"},
    ],
    ids=str,
)
def test_what_is_no_public_key_is_refused(change):
    assert refused(RAW["receipt-v1-day.json"], {**PUBLIC, **change}) == "key"


@pytest.mark.parametrize(
    "jwk", [{}, [], None, "key", {name: PUBLIC[name] for name in ("kty", "crv", "x", "y")}], ids=str
)
def test_a_key_without_its_parts_is_refused(jwk):
    assert refused(RAW["receipt-v1-day.json"], jwk) == "key"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"version": 1, "kind": ' + b"[" * 900 + b"]" * 900 + b"}",
        RAW["receipt-v1-day.json"] + b" " * MAX_BYTES,
        b'{"version": NaN}',
        b'{"version": 1.0}',
    ],
    ids=["deep", "less deep", "long", "NaN", "fraction"],
)
def test_hostile_files_are_refused(data):
    assert refused(data, PUBLIC) == "form"


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(dest="command"))
    return parser.parse_args(arguments)


def command(*arguments):
    out = io.StringIO()
    status = verify_receipt_command(parsed("verify-receipt", *map(str, arguments)), out)
    return status, out.getvalue()


def test_the_command_says_what_a_receipt_proves_and_what_not():
    status, said = command(VECTORS / "receipt-v1-user.json", "--key", VECTORS / "public.jwk")

    assert status == 0
    assert said.startswith("VERIFIED")
    statement = DOCUMENTS["receipt-v1-user.json"]
    proves, _, rest = said.partition("It does not prove:")
    for sentence in (*statement["weaknesses"], *statement["not_proven"]):
        assert sentence in rest
    for word in ("delete.user", "account contoso", "7 blobs, 70000 bytes", "records of the user: 0 found"):
        assert word in proves


def test_the_command_fails_when_a_receipt_does_not_hold(tmp_path):
    (tmp_path / "changed.json").write_bytes(RAW["receipt-v1-day.json"].replace(b'"blobs": 12', b'"blobs": 11'))
    (tmp_path / "not.jwk").write_text("[]")

    for file, key, words in (
        (tmp_path / "changed.json", VECTORS / "public.jwk", "not what the log recorded"),
        (VECTORS / "receipt-v1-day.json", tmp_path / "not.jwk", "not a JSON Web Key"),
        (VECTORS / "receipt-v1-day.json", VECTORS / "receipt-v1-day.json", "must be a JSON Web Key"),
    ):
        status, said = command(file, "--key", key)
        assert status == 1
        assert said.startswith("NOT VERIFIED")
        assert words in said


@pytest.mark.parametrize(("file", "key"), [("missing.json", "public.jwk"), ("receipt-v1-day.json", "missing.jwk")])
def test_a_file_that_cannot_be_read_says_nothing_of_the_receipt(file, key):
    status, said = command(VECTORS / file, "--key", VECTORS / key)

    missing = next(VECTORS / name for name in (file, key) if name.startswith("missing"))
    assert (status, said) == (2, f"NOT CHECKED: {missing}: No such file or directory\n")


async def test_saved_receipts_verify_with_the_key_beside_them(receipts, tmp_path):
    await purge_day(receipts)
    await delete_user(receipts)
    folder = parsed("receipts", "--save", str(tmp_path / "new" / "folder")).save
    out = io.StringIO()

    assert await save_receipts(receipts, folder, out) == 0

    assert out.getvalue() == f"receipts in {folder}: 2\n"
    saved = sorted(path.name for path in folder.iterdir())
    assert [name.partition("-")[0] for name in saved] == ["contoso", "deployment", "public.jwk"]
    for name in saved[:2]:
        assert command(folder / name, "--key", folder / "public.jwk")[0] == 0
    # Again, onto itself.
    assert await save_receipts(receipts, folder, out) == 0
    assert sorted(path.name for path in folder.iterdir()) == saved


async def test_with_no_receipts_nothing_is_saved(receipts, tmp_path):
    out = io.StringIO()

    assert await save_receipts(receipts, tmp_path, out) == 0

    assert out.getvalue() == f"receipts in {tmp_path}: 0\n"
    assert list(tmp_path.iterdir()) == []


async def test_a_receipt_of_a_former_key_version_is_saved_with_that_key(open_receipts, tmp_path):
    class Rotating(MemoryKeys):
        """Keeps the public halves of former versions, as a vault does."""

        def __init__(self):
            super().__init__()
            self.former = {}

        async def rotate(self):
            public = await super().public_key("audit")
            self.former[public["kid"]] = public
            await self.destroy("audit")

        async def public_key(self, name):
            return self.former.get(name) or await super().public_key(name)

    keys = Rotating()
    await purge_day(open_receipts(signer=keys))
    await keys.rotate()
    receipts = open_receipts(signer=keys)
    await delete_user(receipts)

    assert await save_receipts(receipts, tmp_path, io.StringIO()) == 0

    [former] = tmp_path.glob("public-*.jwk")
    [old], [new] = tmp_path.glob("deployment-*.json"), tmp_path.glob("contoso-*.json")
    assert command(old, "--key", former)[0] == 0
    assert command(old, "--key", tmp_path / "public.jwk")[0] == 1
    assert command(new, "--key", tmp_path / "public.jwk")[0] == 0


async def test_a_stored_receipt_that_was_changed_is_saved_and_named(receipts, blobs, tmp_path):
    receipt = await purge_day(receipts)
    for data in (receipt.data.replace(b'"blobs": 12', b'"blobs": 11'), b"hello"):
        await blobs.put(CONTAINER, f"deployment/{receipt.id}", data)
        out = io.StringIO()

        assert await save_receipts(receipts, tmp_path, out) == 1

        assert f"NOT VERIFIED: deployment-{receipt.id}.json" in out.getvalue()
        assert (tmp_path / f"deployment-{receipt.id}.json").read_bytes() == data
