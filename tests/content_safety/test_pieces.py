"""Cutting and packing: nothing is left out, and no call is larger than the service takes."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.azure_content_safety.pieces import MOST, OVERLAP, cut, grouped, packed, readable, together


@given(st.integers(0, 45_000))
def test_a_text_is_cut_into_overlapping_pieces(length):
    text = "".join(chr(0x100 + place % 7_919) for place in range(length))

    pieces = list(cut(text))

    assert all(len(piece) <= MOST for piece in pieces)
    assert pieces[0] + "".join(piece[OVERLAP:] for piece in pieces[1:]) == text


@given(st.lists(st.text(alphabet="ab ", max_size=30), max_size=12))
def test_short_texts_share_a_piece_and_none_is_left_out(texts):
    pieces = packed(texts, 1000)

    assert "\n\n".join(text for text in texts if text.strip()) == "\n\n".join(pieces)
    assert len(pieces) <= 1


@given(st.lists(st.integers(1, 25_000), max_size=9))
def test_documents_are_grouped(lengths):
    groups = grouped("d" * length for length in lengths)

    assert all(len(group) <= 5 and sum(map(len, group)) <= MOST for group in groups)
    assert sum(len(part) for group in groups for part in group) >= sum(lengths)


@given(st.text(alphabet=st.characters(codec=None), max_size=20))
def test_what_is_sent_is_valid_unicode(text):
    read = readable(text)

    read.encode()
    assert read == text or "\ufffd" in read


async def test_the_first_failure_ends_the_others():
    ended = asyncio.Event()

    async def waits():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fails():
        raise KeyError

    with pytest.raises(KeyError):
        await together([waits(), fails()])

    assert ended.is_set()
