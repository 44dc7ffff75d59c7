"""How far a long command is: on a terminal, and elsewhere."""

from __future__ import annotations

import io

from sluicegate.cli.progress import LINE_S, REDRAW_S, Progress


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def said(total: int | None, steps: list[tuple[float, int]], *, draws: bool) -> str:
    """Return what is said when rows end after so many seconds more, at so many bytes."""
    out, clock = io.StringIO(), Clock()
    progress = Progress(total, out, draws=draws, clock=clock)
    for seconds, read in steps:
        clock.seconds += seconds
        progress.advance(read)
    progress.clear()
    return out.getvalue()


def test_a_bar_on_a_terminal_is_drawn_over_and_taken_away():
    drawn = said(1000, [(2, 500), (2, 1000)], draws=True)

    assert drawn == (
        "\r[###############               ]  50%  1 rows, 0/s, 2 s left\x1b[K"
        "\r[##############################] 100%  2 rows, 0/s, 0 s left\x1b[K"
        "\r\x1b[K"
    )


def test_a_bar_is_not_drawn_for_every_row():
    assert said(1000, [(REDRAW_S / 10, 1)] * 9, draws=True) == "\r\x1b[K"


def test_plain_lines_elsewhere_now_and_then():
    assert said(1000, [(LINE_S / 2, read) for read in (100, 200, 300, 400)], draws=False) == (
        "20%, 2 rows, 0/s, 40 s left\n40%, 4 rows, 0/s, 30 s left\n"
    )


def test_an_input_of_unknown_length_is_counted():
    assert said(None, [(LINE_S, 5), (LINE_S, 10)], draws=False) == "1 rows, 0/s\n2 rows, 0/s\n"


def test_the_mean_time_of_a_row():
    clock = Clock()
    progress = Progress(None, io.StringIO(), draws=False, clock=clock)
    assert progress.summary() == "0 rows"

    for _ in range(4):
        clock.seconds += 0.005
        progress.advance(1)

    assert progress.summary() == "4 rows, 5.00 ms each"
