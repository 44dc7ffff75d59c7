"""The safety evaluation: what is shown to classifiers, where the bar is, how it goes on, and what it refuses to pass over."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from plugins import content_filter
from sluicegate import Classification
from sluicegate.config import Pipeline
from sluicegate.errors import FilterUnavailable, PluginFailed, TrainingFailed
from sluicegate.fine_tuning.safety import MOST_LINES, PIECE, Evaluation, SafetyEvaluation
from sluicegate.plugins import Plugins
from sluicegate.testing import FakeModel, FrozenClock, plugin_of
from tests.training_data.rows import SYSTEM, WEATHER, answer, call, calls, chat, good, lines, preference, user

NEVER = datetime.max.replace(tzinfo=UTC)
SECOND = timedelta(seconds=1)
WORDS = {
    "grim": ("violence", 4),
    "ghastly": ("violence", 6),
    "lewd": ("sexual", 6),
    "vile": ("hate", 6),
    "woe": ("self_harm", 6),
}


class Judge:
    """A classifier that goes by words, remembers what it was shown, and takes a second for each text."""

    def __init__(self):
        self.seen = []
        self.clock = FrozenClock()

    async def classify(self, text, source):
        self.seen.append((text, source))
        self.clock.advance(SECOND)
        severity = dict.fromkeys(("hate", "sexual", "violence", "self_harm"), 0)
        for word, (category, level) in WORDS.items():
            if word in text:
                severity[category] = max(level, severity[category])
        return Classification({}, severity, frozenset())

    def evaluation(self, **settings):
        async def classify(text, source):
            return await self.classify(text, source)

        return evaluation_by(classify, **settings)


def evaluation_by(classify, *, is_required=True, classifiers=("judge",)):
    plugins = Plugins()
    plugins.add(plugin_of(classify), "judge")
    plugins.add(FakeModel(), "model")
    plugins.configure({}, Pipeline.model_validate({"authenticate": [], "models": ["model"]}))
    return SafetyEvaluation(plugins, classifiers, is_required=is_required)


def reader(data, size=7):
    async def read(offset):
        for start in range(offset, len(data), size):
            yield data[start : start + size]

    return read


async def evaluated(data, judge=None, **settings):
    judge = judge or Judge()
    return await judge.evaluation(**settings).evaluate_examples(reader(data), deadline=NEVER, clock=judge.clock)


def grim(count, of, word="grim"):
    """Return ``of`` chats, the first ``count`` of which have a word that is judged."""
    return lines(*(chat(user(f"{word if each < count else 'mild'} {each}"), answer(f"{each}.")) for each in range(of)))


WHERE = {
    "system": chat({"role": "system", "content": "ghastly"}, user(), answer()),
    "developer": chat({"role": "developer", "content": "ghastly"}, user(), answer()),
    "user": chat(user("ghastly"), answer()),
    "answer": chat(user(), answer("ghastly")),
    "answer without weight": chat(user(), answer("ghastly", weight=0), user(), answer()),
    "refusal": chat(user(), answer(None, refusal="ghastly")),
    "name": chat(user(name="ghastly"), answer()),
    "part": chat(user([{"type": "text", "text": "mild"}, {"type": "text", "text": "ghastly"}]), answer()),
    "called function": chat(user(), calls(call(name="ghastly")), tools=[WEATHER]),
    "argument": chat(user(), calls(call(arguments='{"place": "ghastly"}')), tools=[WEATHER]),
    "name of an argument": chat(user(), calls(call(arguments='{"ghastly": 1}')), tools=[WEATHER]),
    "escaped argument": chat(user(), calls(call(arguments='{"place": "\\u0067hastly"}')), tools=[WEATHER]),
    "broken argument": chat(user(), calls(call(arguments='{"place": "ghastly')), tools=[WEATHER]),
    "older call": chat(user(), answer(None, function_call={"name": "f", "arguments": '{"a": "\\u0067hastly"}'})),
    "result": chat(user(), calls(call()), {"role": "tool", "tool_call_id": "call_1", "content": "ghastly"}, answer()),
    "tool": chat(user(), answer(), tools=[{"type": "function", "function": {"name": "f", "description": "ghastly"}}]),
    "schema": chat(user(), answer(), functions=[{"name": "f", "parameters": {"properties": {"ghastly": {}}}}]),
    "prompt": {"prompt": "ghastly", "completion": "mild"},
    "completion": {"prompt": "mild", "completion": "ghastly"},
    "input": preference(input={"messages": [user("ghastly")]}),
    "preferred": preference(preferred_output=[answer("ghastly")]),
    "not preferred": preference(non_preferred_output=[answer("ghastly")]),
    "tool of an input": preference(
        input={"messages": [user()], "tools": [{"type": "function", "function": {"name": "ghastly"}}]}
    ),
    "field that is not known": chat(user(), answer(), note={"ghastly": 1}),
    "field of a message that is not known": chat(user(note="ghastly"), answer()),
    "role that is not known": chat({"role": "ghastly", "content": "mild"}, answer()),
}


@pytest.mark.parametrize("case", WHERE)
async def test_every_text_of_an_example_is_looked_at(case):
    found = await evaluated(lines(WHERE[case]))

    assert found.failed == ("violence",)


async def test_what_is_learned_is_told_from_what_is_read():
    judge = Judge()

    await evaluated(lines(chat(SYSTEM, user("Q"), answer("A")), {"prompt": "P", "completion": "C"}), judge)

    assert dict(judge.seen) == {
        SYSTEM["content"]: "prompt",
        "Q": "prompt",
        "A": "completion",
        "P": "prompt",
        "C": "completion",
    }


async def test_categories_have_azures_names_and_the_message_azures_words():
    found = await evaluated(lines(chat(user("ghastly, lewd"), answer("vile, woe"))))

    with pytest.raises(TrainingFailed) as failure:
        found.check("training")
    assert failure.value.message == (
        "The provided training data failed RAI checks for harm types: [hate_fairness, self_harm, sexual, violence]. "
        "Please fix the data and try again."
    )
    assert failure.value.param == "training_file"
    with pytest.raises(TrainingFailed, match="validation data"):
        found.check("validation")


@pytest.mark.parametrize(
    ("data", "fails"),
    [
        (grim(1, 1), False),
        (grim(2, 10), True),
        (grim(2, 40), False),
        (grim(3, 40), True),
        (grim(1, 10, "ghastly"), True),
        (grim(1, 499, "ghastly"), True),
        (grim(1, 500, "ghastly"), False),
        (grim(2, 500, "ghastly"), True),
        (good(), False),
    ],
)
async def test_the_bar(data, fails):
    found = await evaluated(data)

    assert found.finished
    assert found.failed == (("violence",) if fails else ())


async def test_what_is_kept_has_counts_and_lines_and_no_text():
    found = await evaluated(
        b"\xef\xbb\xbf" + lines(chat(user("mild"), answer())) + b"\n" + grim(30, 30, "grim canary-5501")
    )

    kept = json.dumps(found.document())
    assert (found.examples, found.lines, found.medium) == (31, 32, {"violence": 30})
    assert found.found == {"violence": [*range(3, 3 + MOST_LINES)]}
    assert "canary" not in kept
    assert Evaluation(**json.loads(kept)) == found


async def test_it_goes_on_where_the_deadline_stopped_it_even_within_an_example():
    data = lines(
        chat(SYSTEM, user("grim " + "x " * PIECE), answer("ghastly")), *[chat(SYSTEM, user("Q"), answer("A"))] * 9
    )
    at_once = await evaluated(data)
    judge, done, steps = Judge(), None, 0

    while done is None or not done.finished:
        done = None if done is None else Evaluation(**json.loads(json.dumps(done.document())))
        evaluation = judge.evaluation()
        done = await evaluation.evaluate_examples(
            reader(data), done, deadline=judge.clock() + SECOND, clock=judge.clock
        )
        steps += 1

    assert steps > 10
    assert done == at_once
    assert all(len(text) <= PIECE for text, _ in judge.seen)
    assert (done.failed, done.medium["violence"]) == (("violence",), 1)


async def test_a_text_that_every_example_has_is_looked_at_once():
    judge = Judge()

    await evaluated(lines(*(chat(SYSTEM, user(f"{each}?"), answer(f"{each}.")) for each in range(20))), judge)

    assert len(judge.seen) == 41


async def test_without_a_classifier_nothing_is_trained_on():
    with pytest.raises(TrainingFailed, match=r"no classifier.*safety_evaluation") as failure:
        await evaluated(good(), classifiers=())

    assert failure.value.code == "safetyEvaluationUnavailable"


async def test_switched_off_it_says_that_nobody_looked():
    judge = Judge()

    found = await evaluated(grim(10, 10, "ghastly"), judge, is_required=False)

    assert (found.finished, found.skipped, found.failed, judge.seen) == (True, True, (), [])
    assert not (await evaluated(good())).skipped


@pytest.mark.parametrize(
    ("raised", "seen"), [(ValueError("canary"), PluginFailed), (FilterUnavailable("busy"), FilterUnavailable)]
)
async def test_a_classifier_that_fails_passes_nothing(raised, seen):
    async def classify(text):
        raise raised

    with pytest.raises(seen):
        await evaluation_by(classify).evaluate_examples(reader(good()), deadline=NEVER, clock=FrozenClock())


@pytest.mark.parametrize(
    "row",
    [
        chat(user([{"type": "image_url", "image_url": {"url": "https://www.example.com/canary.png"}}]), answer()),
        chat(user([{"type": "text", "text": "mild", "image_url": {"url": "data:canary"}}]), answer()),
        ["canary"],
    ],
)
async def test_what_cannot_be_looked_at_is_not_trained_on(row):
    with pytest.raises(TrainingFailed, match="Line 13 ") as failure:
        await evaluated(good() + lines(row))

    assert "canary" not in failure.value.message


async def test_the_embedded_classifier_judges():
    config = content_filter.Config()
    await content_filter.startup(config)

    async def classify(text, source):
        return await content_filter.classify(text, source, config)

    harmful = lines(
        *[chat(user("How was your day?"), answer("I will kill you, cut your throat and watch you bleed."))] * 10
    )

    async def judged(data):
        return await evaluation_by(classify).evaluate_examples(reader(data), deadline=NEVER, clock=FrozenClock())

    assert (await judged(good())).failed == ()
    assert "violence" in (await judged(harmful)).failed
