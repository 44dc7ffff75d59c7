"""The gradient that is written out, beside what differences say, for each kind of matrix and both methods."""

import numpy as np
import pytest

from plugins.embedded_model.training import llama
from plugins.embedded_model.training.adapter import RANK, TARGETS
from plugins.embedded_model.training.methods import Preferences, Supervised
from tests.plugins.embedded_model.training import tiny

STEP = 1e-6


def method(name, model, adapter):
    if name == "supervised":
        return Supervised(model, adapter), tiny.examples(3)
    return Preferences(model, adapter, tiny.adapter(model, 9), 0.3), tiny.pairs(2)


def places(adapter, target, which):
    """Return which of the adapter's numbers belong to one of the two matrices beside each of a kind."""
    found, place = [], 0
    for name, (out, into) in adapter._shapes.items():
        sizes = (RANK * into, out * RANK)
        start = place + (sizes[0] if which == "b" else 0)
        if name.endswith(target):
            found += range(start, start + sizes[which == "b"])
        place += sum(sizes)
    return np.array(found)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["supervised", "dpo"])
def test_the_gradient_is_that_of_the_loss(monkeypatch, name, recompute):
    if recompute:
        monkeypatch.setattr(llama, "_RECOMPUTE", 0)
    model = tiny.model()
    adapter = tiny.adapter(model)
    learnt, batch = method(name, model, adapter)

    learnt.learn(batch)

    before, gradient = adapter.flat.copy(), adapter.gradient.copy()
    for target in TARGETS:
        for which in "ab":
            chosen = places(adapter, target, which)
            direction = np.zeros_like(before)
            direction[chosen] = np.random.default_rng(7).normal(size=len(chosen))
            losses = []
            for sign in (1, -1):
                adapter.flat[:] = before + sign * STEP * direction
                measured = learnt.measure(batch)
                losses.append(measured.loss / measured.number)
            adapter.flat[:] = before
            assert (losses[0] - losses[1]) / (2 * STEP) == pytest.approx(gradient @ direction, rel=1e-5, abs=1e-9)


def test_a_batch_is_the_same_however_it_is_divided(monkeypatch):
    model = tiny.model()
    whole, divided = tiny.adapter(model), tiny.adapter(model)
    batch = tiny.examples(5)

    at_once = Supervised(model, whole).learn(batch)
    monkeypatch.setattr("plugins.embedded_model.training.methods._AT_ONCE", 8)
    in_parts = Supervised(model, divided).learn(batch)

    assert in_parts.loss == pytest.approx(at_once.loss)
    assert in_parts[1:] == at_once[1:]
    assert divided.gradient == pytest.approx(whole.gradient)


def test_what_is_not_scored_is_not_learnt():
    model = tiny.model()
    adapter = tiny.adapter(model)
    (example,) = tiny.examples(1)
    silent = llama.Example(example.ids, np.zeros_like(example.scored))

    alone = Supervised(model, adapter).learn([example])
    gradient = adapter.gradient.copy()
    adapter.gradient[:] = 0
    both = Supervised(model, adapter).learn([example, silent])

    assert both == pytest.approx(alone)
    assert adapter.gradient == pytest.approx(gradient)


def test_a_later_token_changes_nothing_before_it():
    model = tiny.model()
    adapter = tiny.adapter(model)
    ids = np.arange(6)
    other = ids.copy()
    other[-1] = 11
    scored = np.array([False, True, True, True, True, False])

    one, two = (model.score([llama.Example(each, scored)], adapter).log_probabilities for each in (ids, other))

    assert one == pytest.approx(two)
