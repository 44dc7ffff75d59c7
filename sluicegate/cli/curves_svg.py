"""Learning curves as a picture: an SVG of two panels, loss above accuracy, that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from sluicegate.cli.curves import SMOOTH_FROM, Curves, Panel, Points, running_mean, step_ticks, ticks

WIDTH, HEIGHT = 880, 676
LEFT, RIGHT = 64, 24
_TOPS, _PANEL = (108, 388), 220
_TRAIN, _VALID, _FULL = "#1f6feb", "#e08a00", "#b42318"
_INK, _FAINT, _LINE = "#1f2328", "#59636e", "#d8dee4"
_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def svg(curves: Curves, title: str, *subtitles: str) -> str:
    """Return the picture.

    Args:
        title: Such as the job's id.
        subtitles: Up to two lines, such as the model's name and what it was trained with.
    """
    return "\n".join(_elements(curves, title, subtitles)) + "\n"


@dataclass(frozen=True, slots=True)
class _Scale:
    """From steps and values to places in the picture."""

    last: int
    low: float
    high: float
    top: float

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - 1) / max(self.last - 1, 1)

    def y(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.top + _PANEL * (1 - (inside - self.low) / (self.high - self.low))


def _elements(curves: Curves, title: str, subtitles: tuple[str, ...]) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="{_FONT}" font-size="12" fill="{_INK}" role="img">'
    )
    yield f"<title>{escape(title)}: loss and token accuracy over {curves.steps} steps</title>"
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    yield f'<text x="{LEFT}" y="30" font-size="16" font-weight="600">{escape(title)}</text>'
    for line, subtitle in enumerate(subtitles):
        yield f'<text x="{LEFT}" y="{50 + 17 * line}" fill="{_FAINT}">{escape(subtitle)}</text>'
    smooth = curves.steps >= SMOOTH_FROM
    yield from _legend(curves, smooth=smooth)
    # Loss falls and accuracy rises, so the corners that stay free differ.
    for panel, top, label_y in ((curves.loss, _TOPS[0], 13), (curves.accuracy, _TOPS[1], _PANEL - 7)):
        scale = _Scale(curves.steps, *panel.ends, top)
        yield from _axes(panel, scale, curves, top + label_y)
        yield from _series(panel, scale, smooth=smooth)
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{_TOPS[1] + _PANEL + 42}" text-anchor="middle">step</text>'
    yield "</svg>"


def _legend(curves: Curves, *, smooth: bool) -> Iterator[str]:
    panels = (curves.loss, curves.accuracy)
    names = [("train, mean of 9 steps" if smooth else "train", _TRAIN, "line")]
    if smooth:
        names.append(("train, each step", _TRAIN, "faint"))
    if any(panel.valid for panel in panels):
        names.append(("validation, a batch", _VALID, "line"))
    if any(panel.full_valid for panel in panels):
        names.append(("validation, whole file", _FULL, "mark"))
    x = float(LEFT)
    for name, colour, kind in names:
        if kind == "mark":
            yield _diamond(x + 11, 87, colour)
        else:
            faint = ' stroke-opacity="0.35"' if kind == "faint" else ""
            yield f'<line x1="{x}" y1="87" x2="{x + 22}" y2="87" stroke="{colour}" stroke-width="2"{faint}/>'
        yield f'<text x="{x + 28}" y="91" fill="{_FAINT}">{name}</text>'
        x += 28 + 6.6 * len(name) + 20


def _axes(panel: Panel, scale: _Scale, curves: Curves, label_y: float) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, scale.top + _PANEL
    for value in ticks(scale.low, scale.high):
        if scale.low <= value <= scale.high:
            y = _round(scale.y(value))
            yield f'<line x1="{LEFT}" y1="{y}" x2="{right}" y2="{y}" stroke="{_LINE}"/>'
            yield f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end" fill="{_FAINT}">{value:g}</text>'
    for place, step in enumerate(curves.epoch_ends, 1):
        x = _round(scale.x(step))
        yield f'<line x1="{x}" y1="{scale.top}" x2="{x}" y2="{bottom}" stroke="{_FAINT}" stroke-dasharray="3 4"/>'
        if len(curves.epoch_ends) <= 12:
            yield f'<text x="{x - 5}" y="{label_y}" text-anchor="end" fill="{_FAINT}">end of epoch {place}</text>'
    for step in step_ticks(curves.steps, 8):
        x = _round(scale.x(step))
        yield f'<line x1="{x}" y1="{bottom}" x2="{x}" y2="{bottom + 5}" stroke="{_INK}"/>'
        yield f'<text x="{x}" y="{bottom + 20}" text-anchor="middle" fill="{_FAINT}">{step}</text>'
    yield f'<line x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="{_INK}"/>'
    middle = scale.top + _PANEL / 2
    yield f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle" font-weight="600">{panel.title}</text>'


def _series(panel: Panel, scale: _Scale, *, smooth: bool) -> Iterator[str]:
    if smooth:
        yield from _curve(panel.train, scale, _TRAIN, width=1, opacity=0.35)
        yield from _curve(running_mean(panel.train), scale, _TRAIN, width=2)
    else:
        yield from _curve(panel.train, scale, _TRAIN, width=2)
    yield from _curve(panel.valid, scale, _VALID, width=1.5)
    yield from _curve(panel.full_valid, scale, _FULL, width=1.5, dashes="6 4")
    for step, value in panel.full_valid:
        x, y = scale.x(step), scale.y(value)
        yield _diamond(x, y, _FULL)
        below = y + 20 if y < scale.top + _PANEL / 2 else y - 12
        yield (
            f'<text x="{_round(x - 8)}" y="{_round(below)}" text-anchor="end" fill="{_FULL}" stroke="#ffffff" stroke-width="3" '
            f'paint-order="stroke">{value:.3g}</text>'
        )


def _curve(
    points: Points, scale: _Scale, colour: str, *, width: float, opacity: float = 1, dashes: str = ""
) -> Iterator[str]:
    if len(points) == 1:
        [(step, value)] = points
        yield f'<circle cx="{_round(scale.x(step))}" cy="{_round(scale.y(value))}" r="3" fill="{colour}"/>'
    elif points:
        path = " ".join(f"{_round(scale.x(step))},{_round(scale.y(value))}" for step, value in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        yield (
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}" '
            f'stroke-linejoin="round"{dashed}/>'
        )


def _diamond(x: float, y: float, colour: str) -> str:
    return f'<path d="M {_round(x)} {_round(y - 6)} l 6 6 l -6 6 l -6 -6 z" fill="{colour}" stroke="#ffffff" stroke-width="1"/>'


def _round(value: float) -> float:
    return round(value, 1)
