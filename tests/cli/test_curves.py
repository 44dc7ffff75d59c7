"""Learning curves as numbers, as text and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from sluicegate.cli.curves import curves, read_results, running_mean, step_ticks, ticks
from sluicegate.cli.curves_svg import svg
from sluicegate.cli.curves_text import text

RESULTS = b"""step,train_loss,train_mean_token_accuracy,valid_loss,validation_mean_token_accuracy,full_valid_loss,full_valid_mean_token_accuracy
1,3.5,0.25,3.75,0.2,,
2,2.5,0.5,,,2.8,0.44
3,1.5,0.75,,,,
4,0.5,1.0,0.75,0.9,0.8,0.88
"""


def drawn(content: bytes = RESULTS, epochs: int | None = 2):
    return curves(read_results(content), epochs)


def test_a_results_file_has_three_series_of_loss_and_of_accuracy():
    found = drawn()

    assert found.steps == 4
    assert found.epoch_ends == (2, 4)
    assert found.loss.train == [(1, 3.5), (2, 2.5), (3, 1.5), (4, 0.5)]
    assert found.loss.valid == [(1, 3.75), (4, 0.75)]
    assert found.accuracy.valid == [(1, 0.2), (4, 0.9)]
    assert found.accuracy.full_valid == [(2, 0.44), (4, 0.88)]
    assert found.loss.ends == (0, 4)


def test_metrics_of_events_make_the_same_curves_in_whatever_order_they_come():
    rows = [
        {"step": step, "train_loss": 1 / step, "valid_mean_token_accuracy": 0.5, "total_steps": 6} for step in (3, 1, 2)
    ]

    found = curves(rows, 3)

    assert [step for step, _ in found.loss.train] == [1, 2, 3]
    assert found.accuracy.valid == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert (found.total, found.epoch_ends) == (6, (2,))


@pytest.mark.parametrize("content", [b"", b"no,table\n1,2\n", b"step,train_loss\nx,1\n", b"\xff\xfe"])
def test_what_holds_no_steps_is_not_drawn(content):
    assert drawn(content) is None


def test_cells_that_are_no_numbers_are_left_out():
    found = drawn(b"step,train_loss,train_mean_token_accuracy\n1,nan,\n2,0.5,0.9\n", None)

    assert found.loss.train == [(2, 0.5)]
    assert found.epoch_ends == ()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 4, [0, 1, 2, 3, 4]),
        (0, 0.034, [0, 0.01, 0.02, 0.03, 0.04]),
        (0.8, 1, [0.8, 0.85, 0.9, 0.95, 1]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_axes_have_round_numbers(low, high, expected):
    assert ticks(low, high) == expected


def test_steps_on_the_axis_begin_with_the_first():
    assert step_ticks(75, 8) == [1, 10, 20, 30, 40, 50, 60, 70]
    assert step_ticks(3, 8) == [1, 2, 3]
    assert step_ticks(1, 8) == [1]


def test_a_trend_is_a_mean_around_each_step():
    assert running_mean([(1, 1.0), (2, 4.0), (3, 1.0), (4, 6.0)], 3) == [
        (1, 1.0),
        (2, 2.0),
        (3, pytest.approx(11 / 3)),
        (4, 6.0),
    ]


# --- a picture -------------------------------------------------------------------------------------------------------

NAMESPACE = "{http://www.w3.org/2000/svg}"


def labels(picture: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(picture).iter(f"{NAMESPACE}text")]


def test_a_picture_names_what_it_shows():
    picture = svg(drawn(), "ftjob-1", "a <model> & more")

    found = labels(picture)
    assert found[:2] == ["ftjob-1", "a <model> & more"]
    for label in ("train", "validation, a batch", "validation, whole file", "loss", "token accuracy", "step", "0.88"):
        assert label in found
    assert found.count("end of epoch 2") == 2


def test_whatever_is_drawn_is_inside_the_picture():
    root = ET.fromstring(svg(drawn(), "ftjob-1", "model"))
    width, height = float(root.get("width")), float(root.get("height"))
    points = [
        tuple(map(float, pair.split(",")))
        for line in root.iter(f"{NAMESPACE}polyline")
        for pair in line.get("points").split()
    ]

    assert len(points) == 2 * (4 + 2 + 2)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


@pytest.mark.parametrize("steps", [1, 2, 29, 30, 1000])
def test_jobs_of_any_length_are_drawn(steps):
    rows = [{"step": step, "train_loss": 2.0, "train_mean_token_accuracy": 1.0} for step in range(1, steps + 1)]

    picture = svg(curves(rows, 1), "ftjob-1", "model")

    assert ("train, mean of 9 steps" in labels(picture)) is (steps >= 30)
    assert f"end of epoch {1}" in labels(picture)
    for line in text(curves(rows, 1), 60).splitlines():
        assert len(line) <= 68


# --- text ------------------------------------------------------------------------------------------------------------


def test_a_terminal_without_other_characters_gets_ascii():
    said = text(drawn(), 60, plain=True)

    assert said.isascii()
    assert "* train   o validation batch   # whole validation file   : epoch end" in said
    assert "     4 |" in said


def test_text_fits_its_width_and_marks_the_ends_of_epochs():
    said = text(drawn(), 80)

    assert max(map(len, said.splitlines())) <= 80
    assert said.count("◆") == 2 * 2 + 1
    assert "┊" in said
