import base64
import hashlib
import hmac
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.errors import SealBroken
from sluicegate.services import WrappedKey
from sluicegate.storage.envelope import ring_entry
from sluicegate.storage.segments import (
    FileKey,
    FilePlace,
    Head,
    Shape,
    new_prefix,
    read_head,
    written_head,
)

VECTOR_FILE = Path(__file__).parents[1] / "vectors/segments-v1.json"
VECTOR = json.loads(VECTOR_FILE.read_text())
PLACE = FilePlace("contoso", "fine-tune", "file-1", "0123456789abcdef01234567")
OTHERS = [
    replace(PLACE, account="fabrikam"),
    replace(PLACE, kind="weights"),
    replace(PLACE, file="file-2"),
    replace(PLACE, kid="0" * 24),
]
SECRET = bytes(range(32))
KEY = FileKey(SECRET, PLACE)
PREFIX = bytes.fromhex("00112233445566")
WRAPPED = ring_entry(WrappedKey("files/1", "A256KW", bytes(40)))
DATA = bytes(range(100))
SHAPE = Shape(PREFIX, 32, len(DATA))


def pieces(shape, data):
    return [data[at : at + shape.segment_bytes] for at in range(0, max(1, len(data)), shape.segment_bytes)]


def sealed(key, shape, data):
    cut = pieces(shape, data)
    return [key.seal(shape.prefix, number, piece, is_last=number == len(cut) - 1) for number, piece in enumerate(cut)]


def opened(key, shape, segments):
    if len(segments) != shape.segments:
        raise SealBroken("a segment is missing or too many")
    return b"".join(key.open(shape, number, segment) for number, segment in enumerate(segments))


def sealed_by_hand(secret, place, prefix, segment_bytes, data, wrapped):
    """The layout of the module's docstring, step by step: the head and the segments."""

    def canonical(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    info = canonical(["sluicegate/file-key", 1, place["account"], place["kind"], place["file"]])
    extracted = hmac.digest(place["kid"].encode(), secret, "sha256")
    first = hmac.digest(extracted, info + b"\x01", "sha256")
    second = hmac.digest(extracted, first + info + b"\x02", "sha256")
    cut = [data[at : at + segment_bytes] for at in range(0, max(1, len(data)), segment_bytes)]
    segments = []
    for number, piece in enumerate(cut):
        nonce = prefix + struct.pack(">I", number) + (b"\x01" if number == len(cut) - 1 else b"\x00")
        segments.append(AESGCM(first).encrypt(nonce, piece, None))
    shaped = [prefix.hex(), segment_bytes, len(data)]
    named = [place["account"], place["kind"], place["file"], place["kid"]]
    seal = hmac.digest(second, canonical(["sluicegate/file", 1, *named, *shaped]), "sha256").hex()
    head = {"prefix": prefix.hex(), "segment_bytes": segment_bytes, "size": len(data), "seal": seal}
    return canonical({"v": 1, "key": json.loads(wrapped), **place, **head}), segments


def rewritten(head, **changes):
    return json.dumps({**json.loads(head), **changes}, sort_keys=True, separators=(",", ":")).encode()


HEAD = written_head(Head(PLACE, SHAPE, KEY.seal_of(SHAPE), WRAPPED))
SEGMENTS = sealed(KEY, SHAPE, DATA)


def test_a_file_opens_to_what_it_was_sealed_from():
    head = read_head(HEAD)
    head.check(KEY)

    assert (head.place, head.shape, head.key) == (PLACE, SHAPE, WRAPPED)
    assert opened(KEY, head.shape, SEGMENTS) == DATA


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64, 96])
def test_a_file_of_any_size_opens_and_only_an_empty_one_has_an_empty_segment(size):
    shape = Shape(PREFIX, 32, size)
    segments = sealed(KEY, shape, DATA[:size])

    assert opened(KEY, shape, segments) == DATA[:size]
    assert [len(segment) for segment in segments] == [shape.sealed_bytes(at) for at in range(shape.segments)]
    assert (16 in map(len, segments)) == (size == 0)


@pytest.mark.parametrize("name", VECTOR["files"])
def test_the_vectors_of_version_1_open_and_are_what_the_published_layout_gives(name):
    file = VECTOR["files"][name]
    secret, prefix = bytes.fromhex(VECTOR["secret"]), bytes.fromhex(VECTOR["prefix"])
    data = base64.b64decode(file["data"])
    segments = [base64.b64decode(segment) for segment in file["segments"]]
    key = FileKey(secret, FilePlace(**VECTOR["place"]))
    head = read_head(file["head"].encode())
    head.check(key)

    by_hand = sealed_by_hand(secret, VECTOR["place"], prefix, VECTOR["segment_bytes"], data, head.key)
    assert by_hand == (file["head"].encode(), segments)
    assert opened(key, head.shape, segments) == data


def test_what_is_sealed_today_has_the_layout_of_version_1():
    place = {"account": PLACE.account, "kind": PLACE.kind, "file": PLACE.file, "kid": PLACE.kid}

    assert sealed_by_hand(SECRET, place, PREFIX, 32, DATA, WRAPPED) == (HEAD, SEGMENTS)


def test_the_vectors_are_what_was_released():
    assert (
        hashlib.sha256(VECTOR_FILE.read_bytes()).hexdigest()
        == "d83a77e8bfa2e21e1b003d810506fbdbc1e6bbf279c3b9b612a61ad54e31378d"
    )


@settings(max_examples=500)
@given(st.integers(0, len(SEGMENTS) - 1), st.data())
def test_no_bit_of_a_segment_can_be_flipped(number, data):
    changed = bytearray(SEGMENTS[number])
    bit = data.draw(st.integers(0, len(changed) * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(SealBroken):
        KEY.open(SHAPE, number, bytes(changed))


@settings(max_examples=1000)
@given(st.integers(0, len(HEAD) * 8 - 1))
def test_no_bit_of_a_head_can_be_flipped_but_those_of_the_wrapped_key(bit):
    changed = bytearray(HEAD)
    changed[bit // 8] ^= 1 << bit % 8
    start = HEAD.index(b'"key":{')
    if start <= bit // 8 < HEAD.index(b"},", start) + 1:
        return

    with pytest.raises(SealBroken):
        read_head(bytes(changed)).check(KEY)


def test_no_end_of_a_head_can_be_cut_off():
    for end in range(len(HEAD)):
        with pytest.raises(SealBroken):
            read_head(HEAD[:end]).check(KEY)


@settings(max_examples=300)
@given(st.permutations(range(len(SEGMENTS))).filter(lambda order: order != list(range(len(SEGMENTS)))))
def test_segments_cannot_change_order(order):
    with pytest.raises(SealBroken):
        opened(KEY, SHAPE, [SEGMENTS[number] for number in order])


@settings(max_examples=300)
@given(st.integers(0, len(SEGMENTS) - 1), st.integers(0, len(SEGMENTS) - 1))
def test_a_segment_opens_in_its_own_place_only(one, other):
    if one != other:
        with pytest.raises(SealBroken):
            KEY.open(SHAPE, other, SEGMENTS[one])


@settings(max_examples=200)
@given(st.integers(0, len(DATA) - 1))
def test_a_file_cannot_be_cut_short_even_with_a_head_to_match(size):
    shorter = replace(SHAPE, size=size)
    forged = rewritten(HEAD, size=size)

    with pytest.raises(SealBroken):
        read_head(forged).check(KEY)
    with pytest.raises(SealBroken):
        opened(
            KEY,
            shorter,
            [segment[: shorter.sealed_bytes(at)] for at, segment in enumerate(SEGMENTS)][: shorter.segments],
        )


def test_a_file_that_is_cut_at_a_segment_does_not_open_even_without_its_head():
    shorter = replace(SHAPE, size=64)

    with pytest.raises(SealBroken, match="changed or moved"):
        opened(KEY, shorter, SEGMENTS[:2])


def test_a_file_cannot_go_on_beyond_its_end():
    whole = Shape(PREFIX, 32, 64)
    longer = replace(whole, size=96)
    segments = sealed(KEY, whole, DATA[:64])

    with pytest.raises(SealBroken):
        opened(KEY, longer, [*segments, KEY.seal(PREFIX, 2, DATA[64:96], is_last=True)])
    for extra in (b"\x00", SEGMENTS[3]):
        with pytest.raises(SealBroken):
            KEY.open(whole, 1, segments[1] + extra)
    with pytest.raises(SealBroken):
        KEY.open(whole, 2, SEGMENTS[2])


@pytest.mark.parametrize("place", OTHERS)
def test_nothing_opens_in_another_files_place_even_with_its_secret_and_a_forged_head(place):
    other = FileKey(SECRET, place)
    named = {"account": place.account, "kind": place.kind, "file": place.file, "kid": place.kid}

    for forged in (HEAD, rewritten(HEAD, **named)):
        with pytest.raises(SealBroken):
            read_head(forged).check(other)
    read_head(rewritten(HEAD, **named, seal=other.seal_of(SHAPE))).check(other)
    for number, segment in enumerate(SEGMENTS):
        with pytest.raises(SealBroken):
            other.open(SHAPE, number, segment)


def test_a_files_segments_do_not_open_under_another_prefix():
    other = replace(SHAPE, prefix=bytes(7))

    for number, segment in enumerate(SEGMENTS):
        with pytest.raises(SealBroken):
            KEY.open(other, number, segment)


def test_another_secret_is_told_by_the_seal():
    with pytest.raises(SealBroken, match="head was changed"):
        read_head(HEAD).check(FileKey(bytes(32), PLACE))


CHANGES = {
    "another version": {"v": 2},
    "no number for a version": {"v": True},
    "a prefix that is too short": {"prefix": "00" * 6},
    "a prefix in capitals": {"prefix": "AA" * 7},
    "another prefix": {"prefix": "00" * 7},
    "no segments": {"segment_bytes": 0},
    "segments that fill the memory": {"segment_bytes": 1 << 30},
    "segments of another size": {"segment_bytes": 33},
    "a negative size": {"size": -1},
    "a size that is a fraction": {"size": 100.0},
    "more segments than can be counted": {"segment_bytes": 1, "size": 2**33},
    "an account that is no text": {"account": "\ud800"},
    "a kid that is a path": {"kid": "../../../../../../../up"},
    "a seal in capitals": {"seal": KEY.seal_of(SHAPE).upper()},
    "a seal that is no ASCII": {"seal": "é" * 64},
    "one more field": {"more": 1},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_head_can_only_be_what_it_was(change):
    with pytest.raises(SealBroken):
        read_head(rewritten(HEAD, **CHANGES[change])).check(KEY)


@settings(max_examples=500)
@given(st.binary(min_size=1, max_size=200))
def test_other_bytes_are_no_head(data):
    for start in (b"", HEAD[:20], HEAD):
        with pytest.raises(SealBroken):
            read_head(start + data)


def test_a_data_key_can_be_wrapped_anew():
    anew = replace(read_head(HEAD), key=ring_entry(WrappedKey("files/2", "A256KW", bytes(40))))
    again = read_head(written_head(anew))
    again.check(KEY)

    assert again == anew


def test_prefixes_do_not_repeat():
    assert len({new_prefix() for _ in range(1000)}) == 1000
    assert {len(new_prefix()) for _ in range(10)} == {7}


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_data_key_has_32_bytes(length):
    with pytest.raises(ValueError, match="32 bytes"):
        FileKey(bytes(length), PLACE)
