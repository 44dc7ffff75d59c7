"""Merkle trees of RFC 9162: hashes, proofs and their checks, and a tree that grows without keeping its leaves.

A leaf is ``SHA-256(00 | entry)``, a node ``SHA-256(01 | left | right)``, the root of nothing ``SHA-256("")``. A tree of n
leaves splits at the largest power of two below n.

:class:`Tree` keeps only its right edge. What lies to the left goes out in *tiles* of 256 hashes: tile ``number`` of level
``level`` holds the roots of the complete subtrees of ``256**level`` leaves, from ``256 * number`` on, 32 bytes each. A full
tile never changes, so whoever fills one may store it. Any proof needs a few tiles, however large the tree.

Source: RFC 9162 §2.1; the tiles are those of C2SP's tlog-tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
TILE = 256
TILE_BYTES = TILE * HASH_BYTES
_HEIGHT = 8
EMPTY_ROOT = sha256(b"").digest()

Span = tuple[int, int]
"""Leaves from the first number up to, not including, the second."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node."""
    return sha256(b"\1" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the root over subtrees of equal, complete size, of which the last may be smaller."""
    while len(hashes) > 1:
        pairs = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=False)]
        hashes = [*pairs, *hashes[2 * len(pairs) :]]
    return hashes[0] if hashes else EMPTY_ROOT


def inclusion_spans(index: int, size: int) -> list[Span]:
    """Return the subtrees whose roots are the inclusion path of a leaf, leaf's end first; RFC 9162 §2.1.3.1."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    start, stop = 0, size
    spans: list[Span] = []
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            spans.append((middle, stop))
            stop = middle
        else:
            spans.append((start, middle))
            start = middle
    return spans[::-1]


def consistency_spans(old: int, new: int) -> list[Span]:
    """Return the subtrees whose roots prove that one tree continues another; RFC 9162 §2.1.4.1."""
    if not 0 < old <= new:
        raise ValueError(f"a tree of {new} continues none of {old}")
    start, stop = 0, new
    spans: list[Span] = []
    while stop != old:
        middle = start + _split(stop - start)
        if old <= middle:
            spans.append((middle, stop))
            stop = middle
        else:
            spans.append((start, middle))
            start = middle
    if start:
        spans.append((start, stop))
    return spans[::-1]


def complete_subtrees(span: Span) -> list[tuple[int, int]]:
    """Return the complete subtrees, as height and index, of a span that a proof names; largest first."""
    start, stop = span
    found = []
    while start < stop:
        height = (stop - start).bit_length() - 1
        found.append((height, start >> height))
        start += 1 << height
    return found


def joined(roots: Sequence[bytes]) -> bytes:
    """Return the root over complete subtrees of falling size."""
    joint = roots[-1]
    for root in roots[-2::-1]:
        joint = node_hash(root, joint)
    return joint


def inclusion_root(leaf: bytes, index: int, size: int, path: Iterable[bytes]) -> bytes | None:
    """Return the root that an inclusion path leads to, or None when it has not the length it must have.

    Source: RFC 9162 §2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    fn, sn, root = index, size - 1, leaf
    for sibling in path:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            root = node_hash(sibling, root)
            fn, sn = _up_to_a_right_child(fn, sn)
        else:
            root = node_hash(root, sibling)
        fn, sn = fn >> 1, sn >> 1
    return root if sn == 0 else None


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether a consistency path proves that the new tree continues the old one.

    Every tree continues the empty one; that has no proof and is not accepted here.

    Source: RFC 9162 §2.1.4.2.
    """
    if old == new:
        return old > 0 and old_root == new_root and not path
    if not 0 < old < new or not path:
        return False
    hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = hashes[0]
    for sibling in hashes[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(sibling, fr), node_hash(sibling, sr)
            fn, sn = _up_to_a_right_child(fn, sn)
        else:
            sr = node_hash(sr, sibling)
        fn, sn = fn >> 1, sn >> 1
    return (fr, sr, sn) == (old_root, new_root, 0)


class Tree:
    """A tree that grows leaf by leaf and keeps its right edge only.

    Args:
        levels, leaves: What ``edge`` returned, to go on from there.

    Attributes:
        size: How many leaves it has.
        full: Tiles that are complete and not yet stored, by level and number: whoever stores one takes it out.
    """

    def __init__(self, levels: Sequence[Sequence[bytes]] = (), leaves: Iterable[bytes] = ()) -> None:
        self._levels = [list(level) for level in levels]
        self._leaves: list[bytes] = []
        self._before: list[list[bytes]] = []
        self.size = sum(len(level) << _HEIGHT * above for above, level in enumerate(self._levels, 1))
        self.full: dict[tuple[int, int], bytes] = {}
        for leaf in leaves:
            self.append(leaf)

    @property
    def last(self) -> bytes | None:
        """The last leaf's hash."""
        return self._leaves[-1] if self._leaves else None

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its hash."""
        if self.size % TILE == 0:
            self._leaves = []
            self._before = [list(level) for level in self._levels]
        self._leaves.append(leaf)
        self.size += 1
        full, level = self._leaves, 0
        while len(full) == TILE:
            self.full[level, (self.size >> _HEIGHT * (level + 1)) - 1] = b"".join(full)
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(root_of(full))
            if level:
                self._levels[level - 1] = []
            full, level = self._levels[level], level + 1

    def root(self) -> bytes:
        """Return the root over all leaves."""
        rest = [root_of(self._leaves)] if self.size % TILE else []
        for level in self._levels:
            if level or rest:
                rest = [root_of([*level, *rest])]
        return rest[0] if rest else EMPTY_ROOT

    def tile(self, level: int, number: int) -> Sequence[bytes] | None:
        """Return a tile's hashes, as far as there are any, or None when it is not kept here."""
        if level == 0 and self.size and number == (self.size - 1) // TILE:
            return self._leaves
        if level and number == self.size >> _HEIGHT * (level + 1):
            return self._levels[level - 1] if level <= len(self._levels) else []
        full = self.full.get((level, number))
        return None if full is None else hashes_of(full)

    def edge(self) -> tuple[list[list[bytes]], list[bytes]]:
        """Return what ``Tree`` needs to go on: the levels above as they stood before the last 1 to 256 leaves, and those.

        The levels are not as they stand now, so that the root covers each of the leaves and vouches for all of it.
        """
        return [list(level) for level in self._before], list(self._leaves)


def hashes_of(tile: bytes) -> list[bytes]:
    """Return a tile's hashes."""
    return [tile[start : start + HASH_BYTES] for start in range(0, len(tile), HASH_BYTES)]


def place_of(height: int, index: int) -> tuple[int, int, int, int]:
    """Return where a complete subtree's hashes are: level, tile number, first and how many in the tile."""
    level, above = divmod(height, _HEIGHT)
    first = index << above
    return level, first // TILE, first % TILE, 1 << above


def _split(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1


def _up_to_a_right_child(fn: int, sn: int) -> tuple[int, int]:
    while fn and not fn & 1:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn
