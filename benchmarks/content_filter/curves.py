"""Calibration curves as one SVG: of the texts that got a score of about p, which share is positive?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE, MARGIN, COLUMNS = 150, 34, 4
EDGES = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0001])
FEWEST = 8


def points(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> list[tuple[float, float, int]]:
    """Return mean score, share of positives and count of each bin that holds enough texts."""
    places = np.digitize(scores, EDGES) - 1
    chosen = [places == place for place in range(len(EDGES) - 1)]
    return [(float(scores[at].mean()), float(labels[at].mean()), int(at.sum())) for at in chosen if at.sum() >= FEWEST]


def panel(title: str, found: list[tuple[float, float, int]], left: int, top: int) -> str:
    """Return one head's curve."""
    spots = [(left + mean * SIDE, top + SIDE - share * SIDE, count) for mean, share, count in found]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in spots)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{1.5 + np.log10(n) / 1.5:.1f}"/>' for x, y, n in spots)
    return (
        f'<rect x="{left}" y="{top}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#bbb"/>'
        f'<path d="M{left} {top + SIDE}L{left + SIDE} {top}" stroke="#bbb" stroke-dasharray="3"/>'
        f'<polyline points="{line}" fill="none" stroke="#1668a8"/><g fill="#1668a8">{dots}</g>'
        f'<text x="{left}" y="{top - 6}">{title}</text>'
    )


def draw(path: Path, heads: dict[str, tuple[NDArray[np.bool_], NDArray[np.float64]]]) -> None:
    """Write the curves of all heads, score to the right and share of positives upwards, both from 0 to 1."""
    panels = []
    for number, (head, (labels, scores)) in enumerate(heads.items()):
        row, column = divmod(number, COLUMNS)
        left, top = MARGIN + column * (SIDE + MARGIN), MARGIN + row * (SIDE + MARGIN)
        panels.append(panel(head, points(labels, scores), left, top))
    width = MARGIN + COLUMNS * (SIDE + MARGIN)
    height = MARGIN + -(-len(heads) // COLUMNS) * (SIDE + MARGIN)
    body = "\n".join(panels)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
        f'\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )
