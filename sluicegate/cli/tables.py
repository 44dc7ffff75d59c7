"""Tables for terminals: columns as wide as they need to be, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table, or a line that says that there is nothing."""
    if not rows:
        return "none"
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    to_the_right = [all(isinstance(row[place], int) for row in rows) for place in range(len(headings))]
    lines = []
    for line in (headings, ["-" * width for width in widths], *cells):
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_the_right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
