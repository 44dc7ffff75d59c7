"""How the app and its training process talk: frames of a kind and bytes, over pipes.

Layout: kind (1 byte) | length (u32, big endian) | payload. The app sends ``PLAN``, then pieces of what it has of ``TRAINING``,
``VALIDATION``, ``WEIGHTS`` and ``STATE``, then ``GO``, and leaves its end open; the process ends when that closes. It answers
with a ``ROW`` for each step and ``CHECKPOINT`` for each epoch, then ``STATE`` in pieces and ``DONE``; or with ``FAILED``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PLAN, TRAINING, VALIDATION, WEIGHTS, STATE, GO = b"p", b"t", b"v", b"w", b"s", b"g"
ROW, CHECKPOINT, DONE, FAILED = b"r", b"c", b"d", b"f"
HEAD = struct.Struct(">cI")
PIECE = 1 << 20


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return HEAD.pack(kind, len(payload)) + payload


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield data in pieces that go into a frame each."""
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]
