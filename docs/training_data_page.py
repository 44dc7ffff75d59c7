"""Write the table of codes in ``docs/fine-tuning-data.md`` from ``sluicegate.training_data.CODES``; cog runs it."""

from __future__ import annotations

from sluicegate.training_data import CODES


def codes() -> str:
    """Return a table of every code, Markdown."""
    lines = ["| code | severity | what | what to do |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {code.severity} | {code.what} | {code.fix} |" for name, code in CODES.items()]
    return "\n".join(lines) + "\n"
