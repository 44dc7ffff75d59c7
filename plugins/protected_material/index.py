"""An index of works: their fingerprints, whose they are, and which links of tokens occur in them.

It holds hashes only, no text. Layout of a file, integers little-endian: magic (8 bytes) | SHA-256 of what follows (32 bytes) | length of
the header (4 bytes) | header (JSON: the citations and, for each kind, thresholds and sizes) | for each kind: fingerprints (8 bytes
each, ascending) | their sources (4 bytes each, an index into the citations) | the filter of links.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from plugins._reading import Reading
from sluicegate.errors import StartupError

from .corpus import Work
from .fingerprints import Hashes, Thresholds, run_hashes, winnow
from .tokens import Kind, tokens

MAGIC = b"SLGPROT1"
_BITS_PER_LINK = 12


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a work is, and under which licence."""

    url: str
    license: str


class Works:
    """The index of one kind of work.

    Args:
        fingerprints: 64 bits each, ascending.
        sources: 32 bits each, in their order: indices into ``citations``.
        links: A bit set; its size in bits is a power of two.
        citations: Of all kinds.
    """

    def __init__(
        self, thresholds: Thresholds, fingerprints: bytes, sources: bytes, links: bytes, citations: Sequence[Citation]
    ) -> None:
        self.thresholds = thresholds
        self._parts = (fingerprints, sources, links)
        self._fingerprints = memoryview(fingerprints).cast("Q")
        self._sources = memoryview(sources).cast("I")
        self._links = links
        self.citations = citations
        self._mask = 8 * len(links) - 1

    def __len__(self) -> int:
        return len(self._fingerprints)

    @property
    def parts(self) -> tuple[bytes, bytes, bytes]:
        """Fingerprints, sources and links, as they were given."""
        return self._parts

    def has_link(self, value: int) -> bool:
        """Return whether a run of ``link`` tokens may occur in a work; of those that do not, one in forty seems to."""
        first, second = value & self._mask, (value >> 32) & self._mask
        return bool(self._links[first >> 3] >> (first & 7) & 1 and self._links[second >> 3] >> (second & 7) & 1)

    def cited(self, fingerprint: int) -> Citation | None:
        """Return whose work a fingerprint belongs to, the first that was indexed of several, or None."""
        place = bisect_left(self._fingerprints, fingerprint)
        if place == len(self._fingerprints) or self._fingerprints[place] != fingerprint:
            return None
        return self.citations[self._sources[place]]


Index = Mapping[Kind, Works]
"""By kind; a kind of which there are no works is missing."""


def build(works: Iterable[Work], thresholds: Mapping[Kind, Thresholds]) -> Index:
    """Return the index of works."""
    citations: dict[Citation, int] = {}
    building = {kind: _Building(thresholds[kind]) for kind in Kind}
    for work in works:
        reading = Reading(is_json=False)
        reading.read(work.read(), True)
        hashes = [token.hash for token in tokens(reading.text, work.source.kind) if token.hash is not None]
        if work.source.common:
            building[work.source.kind].leave_out(hashes)
        else:
            number = citations.setdefault(Citation(work.source.url, work.source.license), len(citations))
            building[work.source.kind].add(hashes, number)
    return {kind: part.works(list(citations)) for kind, part in building.items() if part.has_any}


class _Building:
    """What has been seen of one kind of work."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._fingerprints: list[Hashes] = []
        self._sources: list[int] = []
        self._links: list[Hashes] = []
        self._common: list[Hashes] = []

    @property
    def has_any(self) -> bool:
        return any(map(len, self._fingerprints))

    def add(self, hashes: Sequence[int], source: int) -> None:
        self._fingerprints.append(winnow(hashes, self._thresholds))
        self._sources.append(source)
        self._links.append(np.unique(run_hashes(hashes, self._thresholds.link)))

    def leave_out(self, hashes: Sequence[int]) -> None:
        self._common.append(run_hashes(hashes, self._thresholds.noise))

    def works(self, citations: Sequence[Citation]) -> Works:
        sources = np.repeat(np.array(self._sources, dtype="<u4"), [len(each) for each in self._fingerprints])
        # Of works that share a fingerprint the first is cited.
        fingerprints, first = np.unique(np.concatenate(self._fingerprints), return_index=True)
        kept = ~np.isin(fingerprints, np.concatenate([*self._common, fingerprints[:0]]))
        links = np.unique(np.concatenate(self._links))
        size = 1 << max(6, (len(links) * _BITS_PER_LINK - 1).bit_length())
        bits = np.zeros(size // 8, dtype=np.uint8)
        for place in (links & np.uint64(size - 1), (links >> np.uint64(32)) & np.uint64(size - 1)):
            np.bitwise_or.at(bits, place >> np.uint64(3), np.uint8(1) << (place & np.uint64(7)).astype(np.uint8))
        return Works(
            self._thresholds,
            fingerprints[kept].astype("<u8").tobytes(),
            sources[first][kept].tobytes(),
            bits.tobytes(),
            citations,
        )


def save(index: Index, path: Path) -> None:
    """Write an index to a file."""
    citations = next((works.citations for works in index.values()), [])
    kinds = {
        kind: {**asdict(works.thresholds), "sizes": [len(part) for part in works.parts]}
        for kind, works in index.items()
    }
    header = json.dumps({"citations": [asdict(each) for each in citations], "kinds": kinds}).encode()
    rest = b"".join(
        (len(header).to_bytes(4, "little"), header, *(part for works in index.values() for part in works.parts))
    )
    path.write_bytes(MAGIC + sha256(rest).digest() + rest)


def load(path: Path) -> Index:
    """Return the index that a file holds.

    Raises:
        StartupError: It cannot be read, or is not an index, whole and unchanged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from None
    rest = content[40:]
    if content[:8] != MAGIC or sha256(rest).digest() != content[8:40]:
        raise StartupError(f"{path}: is not an index of protected material, or is damaged; build it again")
    end = 4 + int.from_bytes(rest[:4], "little")
    header: dict[str, Any] = json.loads(rest[4:end])
    citations = [Citation(**each) for each in header["citations"]]
    index: dict[Kind, Works] = {}
    for kind, about in header["kinds"].items():
        parts = []
        for size in about.pop("sizes"):
            parts.append(rest[end : end + size])
            end += size
        index[Kind(kind)] = Works(Thresholds(**about), parts[0], parts[1], parts[2], citations)
    return index
