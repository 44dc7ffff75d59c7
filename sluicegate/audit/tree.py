"""The audit log's Merkle tree, as it is stored: tiles that never change, and a signed head to start from.

In the container ``audit-tree``::

    tile/{level}/{number:08d}    a full tile: 256 hashes of 32 bytes, see :mod:`sluicegate.audit.merkle`
    head                         the newest checkpoint that was signed, and the tree's right edge at its size

The head is JSON: ``{"version": 1, "checkpoint", "levels": [hashes, …], "leaves": hashes}``, where ``checkpoint`` is that of
:mod:`sluicegate.audit.checkpoints` and *hashes* are base64 (see ``Tree.edge``). It moves forward, by compare and swap, after the
tiles below its size are stored. All of it follows from the entries: without a head the tree grows anew from the first one.
Nothing of it is believed unless the checkpoint's signature fits and the edge has the signed root.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from sluicegate.audit.checkpoints import Checkpoint, LogKey, read_checkpoint
from sluicegate.audit.entries import LogBroken
from sluicegate.audit.merkle import (
    TILE,
    TILE_BYTES,
    Span,
    Tree,
    complete_subtrees,
    consistency_spans,
    hashes_of,
    inclusion_spans,
    is_consistent,
    joined,
    place_of,
    root_of,
)
from sluicegate.errors import BlobChanged, BlobExists, BlobNotFound, SealBroken
from sluicegate.services import BlobStore

CONTAINER = "audit-tree"
HEAD = "head"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tree at one size: what a checkpoint signs and what the head keeps."""

    tree: Tree
    size: int
    root: bytes
    levels: list[list[bytes]]
    leaves: list[bytes]


class StoredTree:
    """The tree over the log's entries; its owner appends their leaves in order."""

    def __init__(self, blobs: BlobStore, key: LogKey) -> None:
        self._blobs = blobs
        self._key = key
        self._tree = Tree()
        self._head: Checkpoint | None = None
        self._etag: str | None = None
        self._read: tuple[str, list[bytes]] = ("", [])

    @property
    def size(self) -> int:
        return self._tree.size

    @property
    def last(self) -> bytes | None:
        """The hash of the last leaf."""
        return self._tree.last

    def append(self, leaf: bytes) -> None:
        self._tree.append(leaf)

    def snapshot(self) -> Snapshot:
        """Return the tree as it is now, to be signed later."""
        return Snapshot(self._tree, self._tree.size, self._tree.root(), *self._tree.edge())

    async def adopt(self) -> None:
        """Go on from the stored head when it is ahead of this tree.

        A head whose key is gone is left aside.

        Raises:
            SealBroken: The head is not what was signed.
            LogBroken: It does not continue what this tree holds.
        """
        found = await self._read_head()
        if found is None or found.size <= self.size:
            return
        if self.size:
            path = await self._path(consistency_spans(self.size, found.size), found.tree)
            if not is_consistent(self.size, self._tree.root(), found.size, found.root, path):
                raise LogBroken(self.size, "the stored head does not continue the entries that were read here")
        self._tree = found.tree

    async def save(self, snapshot: Snapshot) -> Checkpoint:
        """Sign a snapshot, store the tiles below it and move the head there, unless it is there or beyond.

        Raises:
            LogBroken: Another root was signed for that size.
        """
        checkpoint = self._head
        if checkpoint is None or checkpoint.size != snapshot.size:
            checkpoint = await self._key.sign(snapshot.size, snapshot.root)
            await self._store_tiles(snapshot.tree)
            await self._move_head(checkpoint, snapshot)
        if self._head is not None and self._head.size == snapshot.size and self._head.root != snapshot.root:
            raise LogBroken(0, f"another root than that of the entries read here was signed at size {snapshot.size}")
        return checkpoint

    async def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the inclusion path of a leaf in the tree of ``size``; ``ValueError`` when it is not in it."""
        self._check_size(size)
        return tuple(await self._path(inclusion_spans(index, size), self._tree))

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the path that proves that the tree of ``new`` continues that of ``old``; ``ValueError`` for other sizes."""
        self._check_size(new)
        return tuple(await self._path(consistency_spans(old, new), self._tree))

    async def leaf(self, seq: int) -> bytes:
        """Return a leaf's hash."""
        return (await self._tile(self._tree, 0, seq // TILE))[seq % TILE]

    def _check_size(self, size: int) -> None:
        if size > self.size:
            raise ValueError(f"the log has {self.size} entries, not {size}")

    async def _path(self, spans: Iterable[Span], tree: Tree) -> list[bytes]:
        path = []
        for span in spans:
            roots = []
            for height, index in complete_subtrees(span):
                level, number, first, count = place_of(height, index)
                roots.append(root_of((await self._tile(tree, level, number))[first : first + count]))
            path.append(joined(roots))
        return path

    async def _tile(self, tree: Tree, level: int, number: int) -> list[bytes]:
        held = tree.tile(level, number)
        if held is not None:
            return list(held)
        name = _tile_name(level, number)
        if self._read[0] != name:
            try:
                data = (await self._blobs.get(CONTAINER, name)).data
            except BlobNotFound:
                data = b""
            if len(data) != TILE_BYTES:
                raise LogBroken(number * TILE ** (level + 1), f"{CONTAINER}/{name} is missing or damaged")
            self._read = (name, hashes_of(data))
        return self._read[1]

    async def _store_tiles(self, tree: Tree) -> None:
        for (level, number), data in list(tree.full.items()):
            name = _tile_name(level, number)
            try:
                await self._blobs.put(CONTAINER, name, data, create=True)
            except BlobExists:
                if (await self._blobs.get(CONTAINER, name)).data != data:
                    first = number * TILE ** (level + 1)
                    raise LogBroken(first, f"{CONTAINER}/{name} is not the tile of the entries read here") from None
            tree.full.pop((level, number), None)

    async def _move_head(self, checkpoint: Checkpoint, snapshot: Snapshot) -> None:
        document = _head(checkpoint, snapshot)
        while self._head is None or self._head.size < snapshot.size:
            try:
                created = self._etag is None
                self._etag = await self._blobs.put(CONTAINER, HEAD, document, create=created, if_match=self._etag)
                self._head = checkpoint
            except (BlobExists, BlobChanged):
                await self._read_head()

    async def _read_head(self) -> Snapshot | None:
        """Read the head, and return the tree there, or None when there is none that can be checked."""
        self._head = self._etag = None
        try:
            blob = await self._blobs.get(CONTAINER, HEAD)
        except BlobNotFound:
            return None
        try:
            document = json.loads(blob.data)
            if document["version"] != 1:
                raise SealBroken("a head of a version that this release does not know")
            checkpoint = read_checkpoint(document["checkpoint"])
            tree = Tree([_hashes(level) for level in document["levels"]], _hashes(document["leaves"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise SealBroken(f"{CONTAINER}/{HEAD} cannot be read; without it, the log is read from its start") from None
        self._etag = blob.etag
        if not await self._key.check(checkpoint):
            log.warning("the key that signed the audit log's head is gone: the log is read from its start")
            return None
        self._head = checkpoint
        if (tree.size, tree.root()) != (checkpoint.size, checkpoint.root):
            raise SealBroken(f"{CONTAINER}/{HEAD} is not the tree that was signed")
        # Its tiles were stored before it was.
        tree.full.clear()
        return Snapshot(tree, tree.size, checkpoint.root, *tree.edge())


def _tile_name(level: int, number: int) -> str:
    return f"tile/{level}/{number:08d}"


def _head(checkpoint: Checkpoint, snapshot: Snapshot) -> bytes:
    levels = [_text(level) for level in snapshot.levels]
    document = {"version": 1, "checkpoint": checkpoint.document, "levels": levels, "leaves": _text(snapshot.leaves)}
    return json.dumps(document).encode()


def _text(hashes: Iterable[bytes]) -> str:
    return base64.b64encode(b"".join(hashes)).decode()


def _hashes(text: str) -> list[bytes]:
    return hashes_of(base64.b64decode(text, validate=True))
