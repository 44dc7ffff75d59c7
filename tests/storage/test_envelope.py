import base64
import hashlib
import hmac
import json
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.errors import SealBroken
from sluicegate.services import WrappedKey
from sluicegate.storage.envelope import (
    DataKey,
    Place,
    RingEntry,
    header_size,
    joined,
    read_header,
    read_ring_entry,
    ring_entry,
    split,
    user_mark,
    without,
)

VECTOR = json.loads((Path(__file__).parents[1] / "vectors/envelope-v1.json").read_text())
PLACE = Place("contoso", "keep_encrypted", "20260101", "0123456789abcdef01234567")
SECRET = bytes(range(32))
USER = "0f" * 16
RECORDS = [("first", b"one", ""), ("empty", b"", USER), ("third", b"three" * 100, "")]
KEY = DataKey(SECRET, PLACE)
BATCH = KEY.seal(7, RECORDS, 5)


def sealed_by_hand(secret, place, seq, records, deletions, nonces):
    """The layout of the module's docstring, step by step."""

    def canonical(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    info = canonical(["sluicegate/data-key", 1, place.account, place.plugin, place.day])
    extracted = hmac.digest(place.kid.encode(), secret, "sha256")
    first = hmac.digest(extracted, info + b"\x01", "sha256")
    second = hmac.digest(extracted, first + info + b"\x02", "sha256")
    context = canonical(["sluicegate/record", 1, place.account, place.plugin, place.day, place.kid])
    frames = []
    for position, ((record, data, user), nonce) in enumerate(zip(records, nonces, strict=True)):
        mark = bytes.fromhex(user) or bytes(16)
        associated_data = context + struct.pack(">QII", seq, position, deletions) + mark + record.encode()
        frames.append(nonce + AESGCM(first).encrypt(nonce, data, associated_data))
    header = canonical(
        {
            "account": place.account,
            "commitment": second.hex(),
            "day": place.day,
            "deletions": deletions,
            "index": [
                [record, at, len(frame), user]
                for at, ((record, _, user), frame) in enumerate(zip(records, frames, strict=True))
            ],
            "kid": place.kid,
            "plugin": place.plugin,
            "seq": seq,
        }
    )
    return b"RTN1" + struct.pack(">BBHI", 1, 1, 0, len(header)) + header + b"".join(frames)


def rewritten(batch, change):
    """Return the batch with its header changed and everything else adjusted to it."""
    length = struct.unpack_from(">I", batch, 8)[0]
    header = json.loads(batch[12 : 12 + length])
    change(header)
    raw = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return batch[:8] + struct.pack(">I", len(raw)) + raw + batch[12 + length :]


def frames(batch):
    header = read_header(batch)
    starts = [header.size]
    for entry in header.index:
        starts.append(starts[-1] + entry.length)
    return [batch[start:end] for start, end in pairwise(starts)]


def opened(key, seq, batch):
    header, every = key.open(seq, batch)
    return [(entry.record, data, entry.user) for entry, data in zip(header.index, every, strict=True)]


def test_a_batch_opens_to_the_records_it_was_sealed_from():
    assert opened(KEY, 7, BATCH) == RECORDS
    assert KEY.open(7, BATCH)[0] == read_header(BATCH)
    assert read_header(BATCH).deletions == 5


def test_the_vector_of_version_1_opens_and_is_what_the_published_layout_gives():
    place = Place(**VECTOR["place"])
    secret = bytes.fromhex(VECTOR["secret"])
    records = [(record, base64.b64decode(data), user) for record, data, user in VECTOR["records"]]
    nonces = [bytes.fromhex(nonce) for nonce in VECTOR["nonces"]]
    batch = base64.b64decode(VECTOR["batch"])

    assert sealed_by_hand(secret, place, VECTOR["seq"], records, VECTOR["deletions"], nonces) == batch
    assert opened(DataKey(secret, place), VECTOR["seq"], batch) == records


def test_what_is_sealed_today_has_the_layout_of_version_1():
    nonces = [frame[:12] for frame in frames(BATCH)]

    assert sealed_by_hand(SECRET, PLACE, 7, RECORDS, 5, nonces) == BATCH


def test_the_wrapped_key_of_version_1_is_read():
    wrapped = WrappedKey("ret-20260101/1", "A256KW", bytes(range(40)))

    assert read_ring_entry(VECTOR["ring_entry"].encode()) == RingEntry(wrapped)
    assert ring_entry(wrapped) == VECTOR["ring_entry"].encode()


def test_the_wrapped_key_of_version_2_is_read():
    content = (Path(__file__).parents[1] / "vectors/ring-entry-v2.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "71bd17eae034343d58e9cf5120d0816a90c0da11734fc1d23839b8f7e5267bd7"
    vector = json.loads(content)
    stored = vector["ring_entry"].encode()

    entry = read_ring_entry(stored)

    assert (entry.wrapped.key_id, entry.customer.vault) == ("ret-20260101/1", "folder:/contoso/keys")
    first = aes_key_unwrap(bytes.fromhex(vector["day_key"]), entry.wrapped.ciphertext)
    second = aes_key_unwrap(bytes.fromhex(vector["customer_key"]), entry.customer.wrapped.ciphertext)
    assert joined(first, second).hex() == vector["secret"]
    assert ring_entry(entry.wrapped, entry.customer) == stored


def test_a_share_says_nothing_of_the_data_key():
    shares = [split(SECRET) for _ in range(2)]

    assert [joined(*each) for each in shares] == [SECRET, SECRET]
    assert len({SECRET, *shares[0], *shares[1]}) == 5


@pytest.mark.parametrize("share", [b"", bytes(31), bytes(33)])
def test_a_share_of_another_length_is_refused(share):
    with pytest.raises(SealBroken, match="wrong length"):
        joined(bytes(32), share)


@settings(max_examples=1000)
@given(st.integers(0, len(BATCH) * 8 - 1))
def test_no_bit_can_be_flipped(bit):
    changed = bytearray(BATCH)
    changed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(SealBroken):
        KEY.open(7, bytes(changed))


def test_no_end_can_be_cut_off():
    for end in range(len(BATCH)):
        with pytest.raises(SealBroken):
            KEY.open(7, BATCH[:end])


@settings(max_examples=500)
@given(st.integers(0, len(BATCH)), st.binary(min_size=1, max_size=40))
def test_nothing_can_be_inserted(at, extra):
    with pytest.raises(SealBroken):
        KEY.open(7, BATCH[:at] + extra + BATCH[at:])


@settings(max_examples=1000)
@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data):
    for start in (b"", BATCH[:12], BATCH[:8], BATCH[:200]):
        with pytest.raises(SealBroken):
            KEY.open(7, start + data)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 2), (1, 2)])
def test_records_cannot_change_places(one, other):
    parts = frames(BATCH)
    parts[one], parts[other] = parts[other], parts[one]

    def move(header):
        index = header["index"]
        index[one][2], index[other][2] = index[other][2], index[one][2]

    header_only = rewritten(BATCH, move)[: -sum(map(len, parts))]
    with pytest.raises(SealBroken):
        KEY.open(7, header_only + b"".join(parts))


@pytest.mark.parametrize("order", [[2, 1, 0], [0, 0, 1, 2], [0, 2, 2]], ids=["reversed", "doubled", "replaced"])
def test_records_cannot_change_order_or_come_twice(order):
    parts = frames(BATCH)

    def reorder(header):
        header["index"] = [header["index"][number] for number in order]

    header_only = rewritten(BATCH, reorder)[: -sum(map(len, parts))]
    with pytest.raises(SealBroken):
        KEY.open(7, header_only + b"".join(parts[number] for number in order))


CHANGES = {
    "another record's id": lambda header: header["index"][0].__setitem__(0, "third"),
    "another record's position": lambda header: header["index"][0].__setitem__(1, 1),
    "a later position": lambda header: header["index"][2].__setitem__(1, 3),
    "a position beyond 32 bits": lambda header: header["index"][2].__setitem__(1, 2**32),
    "a negative length": lambda header: header["index"][2].__setitem__(2, -1),
    "the index reversed": lambda header: header["index"].reverse(),
    "no index": lambda header: header["index"].clear(),
    "one more record": lambda header: header["index"].append(["more", 3, 28, ""]),
    "a user for a record that has none": lambda header: header["index"][0].__setitem__(3, USER),
    "no user for a record that has one": lambda header: header["index"][1].__setitem__(3, ""),
    "a user of zeros": lambda header: header["index"][0].__setitem__(3, "00" * 16),
    "a user in capitals": lambda header: header["index"][1].__setitem__(3, USER.upper()),
    "another user": lambda header: header["index"][1].__setitem__(3, "f0" * 16),
    "half a user": lambda header: header["index"][1].__setitem__(3, USER[:16]),
    "more deletions": lambda header: header.update(deletions=6),
    "fewer deletions": lambda header: header.update(deletions=4),
    "deletions beyond 32 bits": lambda header: header.update(deletions=2**32),
    "another number": lambda header: header.update(seq=8),
    "a number beyond 64 bits": lambda header: header.update(seq=2**64),
    "a number that is a fraction": lambda header: header.update(seq=7.0),
    "another account": lambda header: header.update(account="fabrikam"),
    "another plugin": lambda header: header.update(plugin="other"),
    "another day": lambda header: header.update(day="20260102"),
    "another kid": lambda header: header.update(kid="0" * 24),
    "another commitment": lambda header: header.update(commitment="0" * 64),
    "an account that is no text": lambda header: header.update(account="\ud800"),
    "one more field": lambda header: header.update(more=1),
    "one field less": lambda header: header.pop("day"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_header_can_only_be_what_it_was(change):
    with pytest.raises(SealBroken):
        KEY.open(7, rewritten(BATCH, CHANGES[change]))


@pytest.mark.parametrize(
    "place",
    [
        replace(PLACE, account="fabrikam"),
        replace(PLACE, plugin="other"),
        replace(PLACE, day="20260102"),
        replace(PLACE, kid="0" * 24),
    ],
    ids=lambda place: f"{place.account}-{place.plugin}-{place.day}-{place.kid}",
)
def test_a_batch_opens_nowhere_else_even_with_its_secret_and_a_forged_header(place):
    other = DataKey(SECRET, place)
    forged = rewritten(
        BATCH, lambda header: header.update(account=place.account, plugin=place.plugin, day=place.day, kid=place.kid)
    )
    commitment = read_header(other.seal(7, RECORDS, 5)).commitment
    forged_more = rewritten(forged, lambda header: header.update(commitment=commitment))

    for batch in (BATCH, forged, forged_more):
        with pytest.raises(SealBroken):
            other.open(7, batch)


def test_a_batch_opens_under_no_other_number():
    with pytest.raises(SealBroken):
        KEY.open(8, BATCH)
    with pytest.raises(SealBroken):
        KEY.open(8, rewritten(BATCH, lambda header: header.update(seq=8)))


def test_another_secret_is_told_by_its_commitment():
    with pytest.raises(SealBroken, match="another key"):
        DataKey(bytes(32), PLACE).open(7, BATCH)


def test_sealing_the_same_twice_gives_other_bytes():
    assert len({KEY.seal(7, RECORDS) for _ in range(100)}) == 100


@pytest.mark.parametrize("gone", [{0}, {1}, {2}, {0, 2}, set()])
def test_a_batch_without_some_records_opens_to_the_others(gone):
    smaller = without(BATCH, gone)

    assert opened(KEY, 7, smaller) == [record for position, record in enumerate(RECORDS) if position not in gone]
    assert len(smaller) < len(BATCH) or not gone


def test_nothing_is_left_of_a_batch_without_its_records():
    assert without(BATCH, {0, 1, 2}) is None


def test_the_beginning_of_a_batch_is_enough_for_its_header():
    size = header_size(BATCH[:12])

    assert read_header(BATCH[:size], len(BATCH)) == read_header(BATCH)
    for beginning, total in ((BATCH[: size - 1], len(BATCH)), (BATCH[:size], len(BATCH) - 1)):
        with pytest.raises(SealBroken):
            read_header(beginning, total)


def test_a_users_mark_is_the_published_one_and_differs_by_account_plugin_and_day():
    user = "ab" * 32
    places = [("contoso", "keeper", "20260101"), ("fabrikam", "keeper", "20260101")]
    places += [("contoso", "other", "20260101"), ("contoso", "keeper", "20260102")]
    message = b'["sluicegate/user",1,"contoso","keeper","20260101"]'

    assert user_mark(user, *places[0]) == hmac.digest(bytes.fromhex(user), message, "sha256")[:16].hex()
    assert len({user_mark(user, *place) for place in places}) == len(places)


def test_no_record_is_there_in_plain_text():
    assert b"three" not in BATCH


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b'{"v":2,"key_id":"k/1","algorithm":"A256KW","ciphertext":"AAAA"}',
        b'{"v":1,"key_id":1,"algorithm":"A256KW","ciphertext":"AAAA"}',
        b'{"v":1,"key_id":"k/1","algorithm":"A256KW","ciphertext":"A*AA"}',
        b'{"v":1,"key_id":"k/1","algorithm":"A256KW"}',
        b'{"v":3,"key_id":"k/1","algorithm":"A256KW","ciphertext":"AAAA"}',
        b'{"v":true,"key_id":"k/1","algorithm":"A256KW","ciphertext":"AAAA"}',
        b'{"v":2,"key_id":"k/1","algorithm":"A256KW","ciphertext":"AAAA","customer":null}',
        b'{"v":2,"key_id":"k/1","algorithm":"A256KW","ciphertext":"AAAA","customer":{"vault":"v"}}',
        b'{"v":2,"key_id":"k/1","algorithm":"A256KW","ciphertext":"AAAA",'
        b'"customer":{"key_id":"k/1","algorithm":"A256KW","ciphertext":"AAAA"}}',
    ],
)
def test_a_broken_wrapped_key_is_refused(entry):
    with pytest.raises(SealBroken):
        read_ring_entry(entry)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_data_key_has_32_bytes(length):
    with pytest.raises(ValueError, match="32 bytes"):
        DataKey(bytes(length), PLACE)


def test_the_vectors_are_what_was_released():
    content = (Path(__file__).parents[1] / "vectors/envelope-v1.json").read_bytes()

    assert hashlib.sha256(content).hexdigest() == "1e6100712f17ce1614ca8c058bda07595598cf3e6d8128f082afebeeb5dcf9dc"
