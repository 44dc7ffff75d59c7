"""Whatever is moved, swapped, cut, reordered, flipped or renamed across accounts, kinds and files is refused."""

import asyncio
import json
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.errors import BlobNotFound, KeyNotFound, SealBroken
from sluicegate.storage import files as module
from sluicegate.storage.file_layout import HEADS, SEGMENTS
from sluicegate.storage.files import Files
from sluicegate.testing import MemoryKeys, MemoryStorage

PLACES = [
    ("contoso", "fine-tune", "one"),
    ("contoso", "fine-tune", "two"),
    ("contoso", "weights", "one"),
    ("fabrikam", "fine-tune", "one"),
]
SEGMENT = 64
KEYS = MemoryKeys()


def content(place):
    return ("/".join(place) * 20).encode()[: 3 * SEGMENT - 10]


async def written():
    """Return what is stored of each file: {(container, name): bytes}."""
    blobs = MemoryStorage()

    async def data(place):
        yield content(place)

    for place in PLACES:
        account, kind, file = place
        await Files(blobs, KEYS).store(account, kind).write(file, data(place))
    return {
        (container, blob.name): (await blobs.get(container, blob.name)).data
        for container in await blobs.containers()
        async for blob in blobs.list(container)
    }


with patch.object(module, "SEGMENT_BYTES", SEGMENT):
    STORED = asyncio.run(written())
ALL_HEADS = sorted(key for key in STORED if key[0] == HEADS)
ALL_SEGMENTS = sorted(key for key in STORED if key[0] == SEGMENTS)
EVERYTHING = {place: content(place) for place in PLACES}


async def read(stored):
    """Return what every file shows after a change: its content, or None where reading was refused."""
    blobs = MemoryStorage()
    for (container, name), data in stored.items():
        await blobs.put(container, name, data)
    shown = {}
    for place in PLACES:
        account, kind, file = place
        pieces = []
        try:
            opened = await Files(blobs, KEYS).store(account, kind).open(file)
            async for piece in opened.read():
                pieces.append(piece)
            shown[place] = b"".join(pieces)
        except (SealBroken, BlobNotFound, KeyNotFound):
            shown[place] = None
        # What was shown before it was refused is sound.
        assert content(place).startswith(b"".join(pieces))
    return shown


def where(key):
    """Return the file that a blob belongs to by its name."""
    return tuple(key[1].split("/")[:3])


def check(stored, *changed):
    """Nothing is shown that was not written there, and every file that was changed says so."""
    shown = asyncio.run(read(stored))
    refused = {where(key) for key in changed}
    assert shown == {place: None if place in refused else data for place, data in EVERYTHING.items()}


def renamed(head, blob, **changes):
    """Return a head that claims to be that of another file."""
    account, kind, file = where(blob)
    fields = {**json.loads(head), "account": account, "kind": kind, "file": file, **changes}
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def pairs(of):
    return st.lists(st.sampled_from(of), min_size=2, max_size=2, unique=True)


def test_what_is_left_alone_is_shown():
    assert asyncio.run(read(STORED)) == EVERYTHING
    assert len(ALL_SEGMENTS) == 12


@given(pairs(ALL_HEADS), st.booleans())
def test_no_head_opens_in_another_ones_place(keys, forge):
    one, other = keys
    head = renamed(STORED[one], other) if forge else STORED[one]

    check({**STORED, other: head}, other)


@given(pairs(ALL_HEADS), st.booleans())
def test_no_file_can_be_moved_with_all_that_belongs_to_it(keys, forge):
    one, other = keys
    moved = {other: renamed(STORED[one], other) if forge else STORED[one]}
    for container, name in ALL_SEGMENTS:
        if where((container, name)) == where(one):
            moved[container, "/".join((*where(other), *name.split("/")[3:]))] = STORED[container, name]

    check({**STORED, **moved}, other)


@given(pairs(ALL_HEADS))
def test_no_wrapped_key_opens_in_another_ones_head(keys):
    one, other = keys

    check({**STORED, other: renamed(STORED[other], other, key=json.loads(STORED[one])["key"])}, other)


@settings(max_examples=200)
@given(pairs(ALL_SEGMENTS))
def test_no_segment_opens_in_another_ones_place(keys):
    one, other = keys

    check({**STORED, other: STORED[one]}, other)


@settings(max_examples=200)
@given(pairs(ALL_SEGMENTS))
def test_no_two_segments_can_be_swapped(keys):
    one, other = keys

    check({**STORED, one: STORED[other], other: STORED[one]}, one, other)


@given(st.sampled_from(ALL_SEGMENTS))
def test_no_segment_can_be_taken_away(key):
    check({each: data for each, data in STORED.items() if each != key}, key)


@given(st.sampled_from(ALL_HEADS), st.sampled_from([0, 1, SEGMENT, 2 * SEGMENT, 3 * SEGMENT]))
def test_no_size_can_be_claimed_that_was_not_written(key, size):
    check({**STORED, key: renamed(STORED[key], key, size=size)}, key)


@settings(max_examples=300)
@given(st.sampled_from(sorted(STORED)), st.data())
def test_no_bit_can_be_flipped(key, data):
    changed = bytearray(STORED[key])
    bit = data.draw(st.integers(0, len(changed) * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8

    shown = asyncio.run(read({**STORED, key: bytes(changed)}))

    # What a key service ignores of a wrapped key may change: what it opens to is proven by the head.
    harmless = key in ALL_HEADS and b'"key":{' in STORED[key][: bit // 8]
    assert shown[where(key)] is None or (harmless and shown[where(key)] == content(where(key)))
    assert {place for place, data in shown.items() if data != EVERYTHING[place]} <= {where(key)}


@settings(max_examples=200)
@given(st.sampled_from(sorted(STORED)), st.data())
def test_no_end_can_be_cut_off(key, data):
    end = data.draw(st.integers(0, len(STORED[key]) - 1))

    check({**STORED, key: STORED[key][:end]}, key)


@given(st.sampled_from(sorted(STORED)), st.binary(min_size=1, max_size=100))
def test_nothing_can_be_appended(key, extra):
    check({**STORED, key: STORED[key] + extra}, key)
