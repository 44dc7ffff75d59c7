"""Training step by step: the same end however often it is stopped, and numbers that mean what they say."""

from dataclasses import fields

import numpy as np
import pytest

from plugins.embedded_model.training.methods import Preferences, Supervised
from plugins.embedded_model.training.run import Plan, Run
from sluicegate.training import Metrics
from tests.plugins.embedded_model.training import tiny

PLAN = Plan(epochs=3, batch=2, multiplier=1.0, seed=4)


class Clock:
    """Each look takes a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def run(model, adapter, training=7, validation=3, plan=PLAN):
    examples = tiny.examples(training + validation)
    method = Supervised(model, adapter)
    return Run(method, adapter, plan, 2e-2, examples[:training], examples[training:], Clock())


@pytest.mark.parametrize("seconds", [0, 4])
def test_a_job_that_is_stopped_and_goes_on_ends_as_one_that_is_not(seconds):
    model = tiny.model()
    at_once, in_steps = tiny.adapter(model), tiny.adapter(model)

    expected = [row.values for row in run(model, at_once).rows(1e9)]
    found, state, step, tokens, processes = [], None, 0, 0, 0
    while step < 12:
        going = run(model, in_steps)
        if state is not None:
            in_steps.flat[:] = 0
            going.resume(state, step, tokens)
        found += [row.values for row in going.rows(seconds)]
        state, step, tokens, processes = going.state(), going.step, going.tokens, processes + 1

    assert found == expected
    assert in_steps.flat == pytest.approx(at_once.flat, abs=0)
    assert processes > 3


def test_training_learns_and_says_so():
    model = tiny.model()
    adapter = tiny.adapter(model, trained=False)
    going = run(model, adapter, training=4, validation=0, plan=Plan(150, 4, 1.0, 1))

    rows = [row.values for row in going.rows(1e9)]

    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    assert rows[-1]["train_mean_token_accuracy"] > rows[0]["train_mean_token_accuracy"]
    assert going.tokens == 150 * sum(len(one.ids) for one in tiny.examples(4))


def test_preferences_are_learnt():
    model = tiny.model()
    adapter, before = tiny.adapter(model), tiny.adapter(model)
    pairs = tiny.pairs(3)
    method = Preferences(model, adapter, before, 0.5)
    going = Run(method, adapter, Plan(25, 3, 1.0, 1), 1e-2, pairs, [])

    rows = [row.values for row in going.rows(1e9)]

    assert rows[0]["train_loss"] == pytest.approx(np.log(2))
    assert rows[-1]["train_loss"] < 0.3
    assert rows[-1]["train_mean_token_accuracy"] == 1


def test_the_whole_validation_file_is_measured_at_the_end_of_each_epoch():
    model = tiny.model()
    adapter = tiny.adapter(model)

    rows = [row.values for row in run(model, adapter).rows(1e9)]

    assert [row["step"] for row in rows if "full_valid_loss" in row] == [4, 8, 12]
    assert [row["step"] for row in rows if "valid_loss" in row] == [1, 4, 6, 8, 11, 12]
    measured = Supervised(model, adapter).measure(tiny.examples(10)[7:])
    assert rows[-1]["full_valid_loss"] == pytest.approx(measured.loss / measured.number)
    assert set().union(*rows) == {field.name for field in fields(Metrics)}


def test_each_example_is_seen_once_an_epoch_and_in_another_order_each_time():
    seen = []

    class Noting(Supervised):
        def learn(self, batch):
            seen.extend(id(one) for one in batch)
            return super().learn(batch)

    model = tiny.model()
    adapter = tiny.adapter(model)
    training = tiny.examples(7)
    list(Run(Noting(model, adapter), adapter, PLAN, 1e-3, training, []).rows(1e9))

    epochs = [seen[start : start + 7] for start in range(0, 21, 7)]
    assert all(sorted(epoch) == sorted(map(id, training)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
