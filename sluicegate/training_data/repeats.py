"""Which examples are there twice, in one file or in both; 28 bytes an example, whatever its length.

Texts are compared by their 64-bit hashes under a key of this process, which are gone with it. Two different ones among
500,000 have the same by chance once in 10⁸ files.
"""

from __future__ import annotations

import string
from array import array
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sluicegate.training_data.findings import Findings

_DELETED = (string.whitespace + ",;:!?'\"").encode()
"""Not what tells numbers and formulas apart."""
_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())

MOST = 1_000_000
"""Examples of a file that are compared: the first ones."""
Hashes: TypeAlias = NDArray[np.int64]


class Compared(NamedTuple):
    """One file's examples: four columns of the same length."""

    lines: NDArray[np.uint32]
    exact: Hashes
    normalised: Hashes
    prompts: Hashes


class Repeats:
    """Collects what the examples of one file are compared by."""

    def __init__(self) -> None:
        self._lines = array("I")
        self._exact, self._normalised, self._prompts = array("q"), array("q"), array("q")

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: int, prompt: str, answer: str) -> None:
        """Take one example, unless there are ``MOST``."""
        if len(self._lines) >= MOST:
            return
        plain_prompt, plain_answer = normalised(prompt), normalised(answer)
        self._lines.append(line)
        self._exact.append(hash((prompt, answer)))
        self._normalised.append(hash((plain_prompt, plain_answer)))
        self._prompts.append(hash(plain_prompt))

    def compared(self) -> Compared:
        """Return what was taken; nothing may be added after."""
        return Compared(
            np.frombuffer(self._lines, np.uint32),
            np.frombuffer(self._exact, np.int64),
            np.frombuffer(self._normalised, np.int64),
            np.frombuffer(self._prompts, np.int64),
        )


def normalised(text: str) -> bytes:
    """Return a text without case, spaces, most of the ASCII punctuation and a full stop at its end."""
    folded = text if text.isascii() else text.casefold()
    return folded.encode().translate(_LOWER, _DELETED).rstrip(b".")


def report_repeats(own: Compared, findings: Findings, most: int) -> None:
    """Report each example of which an earlier line has the same, or the same prompt; the closest likeness alone."""
    told = _report("duplicate", own, _first_of(own.exact), None, findings, most)
    told = _report("duplicate_normalised", own, _first_of(own.normalised), told, findings, most)
    _report("answers_differ", own, _first_of(own.prompts), told, findings, most)


def report_leaks(validation: Compared, training: Compared, findings: Findings, most: int) -> None:
    """Report each example of ``validation`` that ``training`` has too, or of which it has the prompt."""
    same = _found_in(validation.normalised, training.normalised)
    told = _report("leak", validation, same, None, findings, most, training)
    same = _found_in(validation.prompts, training.prompts)
    _report("leak_prompt", validation, same, told, findings, most, training)


def _first_of(hashes: Hashes) -> NDArray[np.int64]:
    """Return for each place the first that has the same hash, or -1 if it is that itself."""
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    earliest = first[group] if len(hashes) else np.empty(0, np.int64)
    return np.where(earliest == np.arange(len(hashes)), -1, earliest)


def _found_in(hashes: Hashes, others: Hashes) -> NDArray[np.int64]:
    """Return for each place the first of ``others`` that has the same hash, or -1."""
    if not len(others):
        return np.full(len(hashes), -1, np.int64)
    order = np.argsort(others, kind="stable")
    at = np.minimum(np.searchsorted(others, hashes, sorter=order), len(others) - 1)
    places = order[at]
    return np.where(others[places] == hashes, places, -1)


def _report(
    code: str,
    own: Compared,
    same: NDArray[np.int64],
    told: NDArray[np.bool_] | None,
    findings: Findings,
    most: int,
    other: Compared | None = None,
) -> NDArray[np.bool_]:
    hits = same >= 0
    new = hits if told is None else hits & ~told
    places = np.flatnonzero(new)
    lines = (other or own).lines
    for place in places[:most].tolist():
        findings.add(code, int(own.lines[place]), other_line=int(lines[same[place]]))
    findings.count_more(code, max(len(places) - most, 0))
    return hits if told is None else hits | told
