"""What is wrong with a file, where, and what to do; never the text itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from sluicegate.training_data.codes import CODES, Severity

MOST_PER_CODE = 100
"""Findings kept of one code; further ones are counted."""
Path: TypeAlias = tuple[str | int, ...]
"""Where in an object. Only names that this package knows are in it: what else a file calls its fields is ``*``."""
Say: TypeAlias = Callable[[str, Path], None]
"""How a check reports: a code of ``CODES`` and the field."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to mend.

    Attributes:
        code: A key of ``CODES``.
        line: From 1, blank lines counted; None for the file as a whole.
        field: Such as ``messages[2].content``; empty for the line as a whole.
        column: Of malformed JSON, the byte in the line, from 1, where reading stopped.
        other_line: Of repetitions, the line repeated: in the training file for leaks, else in the same file.
    """

    code: str
    line: int | None = None
    field: str = ""
    column: int | None = None
    other_line: int | None = None

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return CODES[self.code].severity

    def document(self) -> dict[str, Any]:
        """Return what goes into a report in JSON."""
        code = CODES[self.code]
        return {"severity": code.severity, **asdict(self), "what": code.what, "fix": code.fix}


class Findings:
    """Those of one file: the first ``most`` of each code, and how many there were."""

    def __init__(self, most: int = MOST_PER_CODE) -> None:
        self.kept: list[Finding] = []
        self._counts: Counter[str] = Counter()
        self._errors = 0
        self._most = most

    @property
    def counts(self) -> Mapping[str, int]:
        """How many there were of each code."""
        return self._counts

    @property
    def errors(self) -> int:
        """How many of them were errors."""
        return self._errors

    def add(
        self,
        code: str,
        line: int | None = None,
        path: Path = (),
        *,
        column: int | None = None,
        other_line: int | None = None,
    ) -> None:
        """Count one, and keep it while there are few of its code."""
        self._counts[code] += 1
        self._errors += CODES[code].severity is Severity.ERROR
        if self._counts[code] <= self._most:
            self.kept.append(Finding(code, line, shown(path), column, other_line))

    def count_more(self, code: str, more: int) -> None:
        """Count what is not kept."""
        if more:
            self._counts[code] += more
            self._errors += more * (CODES[code].severity is Severity.ERROR)


def shown(path: Path) -> str:
    """Return ``messages[0].content`` for ``("messages", 0, "content")``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
