"""Learning curves for a terminal: a panel is drawn with four by two dots in each character cell, or with stars where those are missing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sluicegate.cli.curves import Curves, Panel, Points, step_ticks, ticks

ROWS = 9
"""Of one panel, in lines."""
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_MARGIN = 7


def text(curves: Curves, width: int = 80, *, plain: bool = False) -> str:
    """Return both panels, one above the other.

    Args:
        width: Of the terminal, in characters.
        plain: Use ASCII only.
    """
    columns = max(width - _MARGIN - 2, 20)
    lines: list[str] = []
    for panel in (curves.loss, curves.accuracy):
        lines += [*_panel(panel, curves, columns, plain=plain), ""]
    lines.append(_steps(curves, columns))
    lines.append(_legend(curves, plain=plain))
    return "\n".join(lines)


def _panel(panel: Panel, curves: Curves, columns: int, *, plain: bool) -> Iterator[str]:
    low, high = panel.ends
    cells = [[" "] * columns for _ in range(ROWS)]

    def place(step: float, value: float, across: int, down: int) -> tuple[int, int]:
        share = (min(max(value, low), high) - low) / (high - low)
        return round((step - 1) / max(curves.steps - 1, 1) * (across - 1)), round((1 - share) * (down - 1))

    for step in curves.epoch_ends:
        column, _ = place(step, low, columns, ROWS)
        for row in cells:
            row[column] = ":" if plain else "┊"
    if plain:
        for step, value in panel.train:
            column, line = place(step, value, columns, ROWS)
            cells[line][column] = "*"
    else:
        dots = [[0] * columns for _ in range(ROWS)]
        for x, y in _filled([place(step, value, columns * 2, ROWS * 4) for step, value in panel.train]):
            dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
        for row, dotted in zip(cells, dots, strict=True):
            row[:] = [chr(_BRAILLE + bits) if bits else cell for cell, bits in zip(row, dotted, strict=True)]
    for points, mark in ((panel.valid, "o" if plain else "○"), (panel.full_valid, "#" if plain else "◆")):
        for step, value in points:
            column, line = place(step, value, columns, ROWS)
            cells[line][column] = mark
    labels = {place(1, value, 1, ROWS)[1]: f"{value:g}" for value in ticks(low, high, 4)}
    yield f"{'':{_MARGIN - 1}}{panel.title}"
    for line, row in enumerate(cells):
        edge = ("|" if plain else "┤") if line in labels else ("|" if plain else "│")
        yield f"{labels.get(line, ''):>{_MARGIN - 1}} {edge}{''.join(row)}".rstrip()
    yield f"{'':{_MARGIN}}{'+' if plain else '└'}{('-' if plain else '─') * columns}"


def _filled(places: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the dots of the line through these places, from left to right."""
    yield from places[:1]
    for (x1, y1), (x2, y2) in pairwise(places):
        length = max(x2 - x1, abs(y2 - y1), 1)
        yield from (
            (round(x1 + (x2 - x1) * part / length), round(y1 + (y2 - y1) * part / length))
            for part in range(1, length + 1)
        )


def _steps(curves: Curves, columns: int) -> str:
    line = [" "] * (columns + 8)
    for step in step_ticks(curves.steps, max(columns // 12, 2)):
        column = round((step - 1) / max(curves.steps - 1, 1) * (columns - 1))
        line[column : column + len(str(step))] = str(step)
    return f"{'step':>{_MARGIN - 1}}  {''.join(line).rstrip()}"


def _legend(curves: Curves, *, plain: bool) -> str:
    panels: tuple[tuple[Points, Points], ...] = tuple(
        (panel.valid, panel.full_valid) for panel in (curves.loss, curves.accuracy)
    )
    names = ["* train" if plain else "⠒ train"]
    if any(valid for valid, _ in panels):
        names.append(f"{'o' if plain else '○'} validation batch")
    if any(full for _, full in panels):
        names.append(f"{'#' if plain else '◆'} whole validation file")
    if curves.epoch_ends:
        names.append(f"{':' if plain else '┊'} epoch end")
    return f"{'':{_MARGIN + 1}}{'   '.join(names)}"
