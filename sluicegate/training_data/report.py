"""The report of a validation: what programs read, and whether a job may start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluicegate.training_data.findings import Finding
from sluicegate.training_data.rows import Format


@dataclass(frozen=True, slots=True)
class FileReport:
    """Of one file.

    Attributes:
        bytes: How long it is.
        lines: Blank ones counted, and a last one without a newline.
        examples: Rows without an error of their own.
        format: That of the first example; None if there is none.
        compared: Examples that repetitions were looked for in.
        tokens_are: ``counted`` by a tokenizer, or ``estimated`` from characters.
        counts: Code -> how many findings, more than are kept if there are very many.
        findings: In the order of lines, those of the whole file first.
        statistics: ``tokens``, ``characters`` and ``messages`` (min, mean, median, p95, max of the examples),
            ``answer_languages`` (of a sample).
    """

    bytes: int
    lines: int
    examples: int
    format: Format | None
    compared: int
    tokens_are: str
    errors: int
    counts: Mapping[str, int]
    findings: tuple[Finding, ...]
    statistics: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {
            "bytes": self.bytes,
            "lines": self.lines,
            "examples": self.examples,
            "format": self.format,
            "compared": self.compared,
            "tokens_are": self.tokens_are,
            "errors": self.errors,
            "warnings": sum(self.counts.values()) - self.errors,
            "counts": dict(sorted(self.counts.items())),
            "findings": [finding.document() for finding in self.findings],
            "statistics": dict(self.statistics),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Of the training file and, if there is one, the validation file; without a word of either.

    Attributes:
        context: Tokens an example may have; None if that was not looked at.
    """

    training: FileReport
    validation: FileReport | None
    context: int | None

    @property
    def is_valid(self) -> bool:
        """Whether there is no error, so that a job may start."""
        return not self.training.errors and not (self.validation and self.validation.errors)

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {
            "object": "training_data.report",
            "valid": self.is_valid,
            "context": self.context,
            "training": self.training.document(),
            "validation": self.validation and self.validation.document(),
        }
