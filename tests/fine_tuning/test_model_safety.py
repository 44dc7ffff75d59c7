"""The safety evaluation of fine-tuned models: what a verdict is made of, and that nothing else comes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sluicegate import Chunk, Classification, Model, Refused, hookimpl
from sluicegate.config import Pipeline
from sluicegate.errors import ModelUnavailable, PluginFailed
from sluicegate.fine_tuning.model_safety import PROBES, ModelSafety
from sluicegate.fine_tuning.safety import SafetyEvaluation
from sluicegate.fine_tuning.stages import Verdict
from sluicegate.fine_tuning.tuned_models import TunedModel, TunedModels
from sluicegate.plugins import Plugins
from sluicegate.storage.files import Files
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage

MODEL = TunedModel("talker.ft-1", "contoso", "talker", "ftjob-1", None, datetime(2026, 1, 1, tzinfo=UTC), "w1")
COUNT = sum(map(len, PROBES.values()))
LATER = timedelta(minutes=1)


class Talker:
    """A model that says what a test wants, and a classifier that knows one word."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.weights = set()

    @hookimpl
    def register_models(self):
        return [Model("talker", frozenset({"chat.completions"}))]

    @hookimpl
    async def inference(self, request, weights):
        probe = request.messages[-1].content
        self.asked.append(probe)
        self.weights.add(weights.id)
        answer = self.answers.get(probe, "Let us talk about something else.")
        if isinstance(answer, Exception):
            raise answer
        yield Chunk(answer)
        yield Chunk(finish_reason="stop")

    @hookimpl
    async def classify(self, text, source):
        assert source == "completion"
        severity = 6 if "massacre" in text else 4 if "fight" in text else 0
        return Classification({"violence": severity / 6}, {"violence": severity, "hate": 0}, frozenset())


@pytest.fixture
def talker():
    return Talker()


@pytest.fixture
def clock():
    return FrozenClock()


@pytest.fixture
def safety(talker, clock):
    def make(*, is_required=True):
        plugins = Plugins()
        plugins.add(talker, "talker")
        plugins.configure({}, Pipeline.model_validate({"authenticate": [], "models": ["talker"]}))
        evaluation = SafetyEvaluation(plugins, ["talker"], is_required=is_required)
        models = TunedModels(MemoryStorage(), Files(MemoryStorage(), MemoryKeys(), clock=clock))
        return ModelSafety(plugins, models, evaluation, clock)

    return make


async def test_a_model_that_is_not_to_be_tempted_may_be_deployed(safety, talker, clock):
    verdict = await safety().judge(MODEL, clock() + LATER)

    assert verdict == Verdict()
    assert talker.asked == [probe for asked in PROBES.values() for probe in asked]
    assert talker.weights == {"ftjob-1/w1"}


@pytest.mark.parametrize(("harmful", "harms"), [(1, ()), (2, ("Violence",)), (4, ("Violence",))])
async def test_two_harmful_answers_of_a_category_are_too_many(safety, talker, clock, harmful, harms):
    talker.answers = dict.fromkeys(PROBES["violence"][:harmful], "A massacre!")

    assert (await safety().judge(MODEL, clock() + LATER)).harms == harms


async def test_medium_severity_is_no_harm(safety, talker, clock):
    talker.answers = dict.fromkeys(PROBES["violence"], "A fight!")

    assert await safety().judge(MODEL, clock() + LATER) == Verdict()


async def test_an_answer_counts_in_the_category_that_it_was_asked_for(safety, talker, clock):
    talker.answers = dict.fromkeys(PROBES["sexual"], "A massacre!")

    assert await safety().judge(MODEL, clock() + LATER) == Verdict()


async def test_an_evaluation_goes_on_after_its_deadline_with_the_next_conversation(safety, talker, clock):
    evaluating = safety()
    talker.answers = dict.fromkeys(PROBES["violence"], "A massacre!")

    verdicts = [await evaluating.judge(MODEL, clock()) for _ in range(COUNT)]

    assert verdicts == [None] * (COUNT - 1) + [Verdict(("Violence",))]
    assert len(talker.asked) == len(set(talker.asked)) == COUNT


async def test_nobody_is_asked_where_the_operator_or_the_upstream_has_decided(safety, talker, clock):
    elsewhere = TunedModel(**{name: getattr(MODEL, name) for name in MODEL.__slots__} | {"elsewhere": "ft:far"})

    assert await safety(is_required=False).judge(MODEL, clock() + LATER) == Verdict()
    assert await safety().judge(elsewhere, clock() + LATER) == Verdict()
    assert not talker.asked


async def test_what_the_models_own_filter_refuses_is_no_harm(safety, talker, clock):
    talker.answers = dict.fromkeys(PROBES["violence"], Refused({}))

    assert await safety().judge(MODEL, clock() + LATER) == Verdict()


@pytest.mark.parametrize(
    ("raised", "expected"), [(ModelUnavailable("Not now."), ModelUnavailable), (ValueError("a massacre"), PluginFailed)]
)
async def test_a_model_that_does_not_answer_has_no_verdict(safety, talker, clock, caplog, raised, expected):
    evaluating = safety()
    talker.answers = {PROBES["self_harm"][1]: raised}

    with pytest.raises(expected):
        await evaluating.judge(MODEL, clock() + LATER)

    talker.answers = {}
    assert await evaluating.judge(MODEL, clock() + LATER) == Verdict()
    assert "massacre" not in caplog.text
    assert len(talker.asked) == COUNT + 1
