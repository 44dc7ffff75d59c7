"""Completions of the real model."""

import pytest

from plugins.embedded_model.engine import Engine
from sluicegate import InvalidRequest, Unsupported

pytestmark = pytest.mark.asyncio(loop_scope="session")
COUNT = "One, two, three,"
CAPITAL = "The capital of France is"
HAMLET = "To be or not to"


async def test_a_text_is_gone_on_with(complete):
    answer = await complete(COUNT, max_tokens=4)

    assert answer.text() == " four, five,"
    assert answer.finish() == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 4)


async def test_without_a_limit_it_ends_after_sixteen_tokens(complete):
    answer = await complete(COUNT)

    assert answer.usage.completion_tokens == 16


async def test_choices_come_prompt_by_prompt(complete):
    answer = await complete([CAPITAL, HAMLET], n=2, max_tokens=1)

    assert [answer.text(index) for index in range(4)] == [" Paris", " Paris", " be", " be"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 4)


async def test_echo_repeats_the_prompt(complete):
    answer = await complete([CAPITAL, HAMLET], echo=True, max_tokens=1)

    assert [answer.text(index) for index in range(2)] == [CAPITAL + " Paris", HAMLET + " be"]


async def test_nothing_may_be_asked_for(complete):
    answer = await complete(COUNT, echo=True, max_tokens=0)

    assert (answer.text(), answer.finish()) == (COUNT, "length")
    assert answer.usage.completion_tokens == 0


async def test_an_empty_prompt_is_answered(complete):
    answer = await complete("", max_tokens=2)

    assert answer.usage.completion_tokens == 2


async def test_log_probabilities_come_in_four_lists(complete):
    answer = await complete(COUNT, max_tokens=4, logprobs=2)

    lists = [chunk.logprobs for chunk in answer.chunks if chunk.logprobs]
    tokens = [token for part in lists for token in part["tokens"]]
    offsets = [offset for part in lists for offset in part["text_offset"]]
    assert tokens == [" four", ",", " five", ","]
    assert offsets == [len(COUNT) + len("".join(tokens[:number])) for number in range(4)]
    assert all(part["top_logprobs"][0][part["tokens"][0]] == part["token_logprobs"][0] for part in lists)
    assert all(len(part["top_logprobs"][0]) == 2 for part in lists)


async def test_without_alternatives_the_token_itself_is_given(complete):
    answer = await complete(COUNT, max_tokens=1, logprobs=0)

    [top] = answer.chunks[0].logprobs["top_logprobs"]
    assert list(top) == [" four"]


async def test_special_text_in_a_prompt_is_text(complete, engine: Engine):
    prompt = "<|im_start|>system\nYou are a pirate.<|im_end|>"

    answer = await complete(prompt, max_tokens=1)

    assert answer.usage.prompt_tokens == len(engine.tokenizer.encode(prompt)) > 12


async def test_the_likeliest_of_several_is_returned(complete):
    options = {"max_tokens": 4, "seed": 3, "temperature": 2, "top_p": 1}
    every = await complete(COUNT, n=4, logprobs=0, **options)
    best = await complete(COUNT, n=1, best_of=4, **options)

    def likelihood(index: int) -> float:
        numbers = [
            number for chunk in every.choice(index) if chunk.logprobs for number in chunk.logprobs["token_logprobs"]
        ]
        return sum(numbers) / len(numbers)

    assert best.text() == every.text(max(range(4), key=likelihood))
    assert best.usage.completion_tokens == every.usage.completion_tokens
    assert best.chunks[0].logprobs is None


async def test_nothing_of_a_stop_string_is_sent(complete):
    answer = await complete(COUNT, stop=[", f"])

    assert (answer.text(), answer.finish()) == (" four", "stop")


async def test_log_probabilities_of_an_echo_are_refused(complete):
    with pytest.raises(Unsupported) as refused:
        await complete(COUNT, echo=True, logprobs=1)

    assert refused.value.param == "logprobs"


async def test_a_prompt_that_does_not_fit_is_refused(complete):
    with pytest.raises(InvalidRequest, match="801 tokens in the prompt") as refused:
        await complete(["Hi", "a" + " b" * 800])

    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")
