"""What a terminal shows of a validation of training data."""

from __future__ import annotations

from sluicegate.cli.tables import table
from sluicegate.training_data import CODES, FileReport, Finding, Report

_PLACES = 3
"""Of each code, in the table; the report in JSON has more."""
_TOKENS = {"counted": "counted by the model's tokenizer", "estimated": "estimated from characters"}


def readable(report: Report, training: str, validation: str) -> str:
    """Return findings by code with their first places, statistics, and what to do.

    Args:
        report: What was found.
        training: The file's name, and so is ``validation``.
    """
    parts = [_file(report.training, training, report)]
    if report.validation is not None:
        parts.append(_file(report.validation, validation, report))
    found = sorted({*report.training.counts, *(report.validation.counts if report.validation else ())}, key=_rank)
    if found:
        parts.append("\n".join(["What to do", *(f"  {code}: {CODES[code].what} {CODES[code].fix}" for code in found)]))
    parts.append("No errors." if report.is_valid else "There are errors: a fine-tuning job would be refused.")
    return "\n\n".join(parts)


def _file(file: FileReport, name: str, report: Report) -> str:
    warnings = sum(file.counts.values()) - file.errors
    head = (
        f"{name}: {file.lines:,} lines, {file.examples:,} good examples ({file.format or 'no format'}), "
        f"{file.errors:,} errors, {warnings:,} warnings"
    )
    rows = [
        (CODES[code].severity, code, file.counts[code], _where([each for each in file.findings if each.code == code]))
        for code in sorted(file.counts, key=_rank)
    ]
    parts = [head]
    if rows:
        parts.append(table(("severity", "code", "count", "first at line"), rows))
    if file.examples:
        parts.append(_statistics(file, report))
    return "\n\n".join(parts)


def _rank(code: str) -> tuple[str, str]:
    return CODES[code].severity, code


def _where(findings: list[Finding]) -> str:
    places = [_place(each) for each in findings if each.line is not None]
    return ", ".join(places[:_PLACES]) + (", …" if len(places) > _PLACES else "")


def _place(finding: Finding) -> str:
    place = str(finding.line)
    if finding.field:
        place += f" {finding.field}"
    if finding.column is not None:
        place += f" column {finding.column}"
    if finding.other_line is not None:
        place += f" as {finding.other_line}"
    return place


def _statistics(file: FileReport, report: Report) -> str:
    measures = ("min", "mean", "median", "p95", "max")
    of = file.statistics
    rows = [(name, *(f"{of[name][each]:,}" for each in measures)) for name in ("tokens", "characters", "messages")]
    lines = [table(("of an example", *measures), rows), ""]
    against = "no context was given" if report.context is None else f"the context is {report.context:,}"
    lines.append(f"{of['tokens']['total']:,} tokens in all, {_TOKENS[file.tokens_are]}; {against}.")
    languages = of["answer_languages"]
    if languages:
        shares = ", ".join(f"{name} {count / sum(languages.values()):.0%}" for name, count in languages.items())
        lines.append(f"Answers, by a guess from {sum(languages.values()):,} of them: {shares}.")
    return "\n".join(lines)
