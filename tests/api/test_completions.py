import json
from dataclasses import replace

import pytest
from openai.types import Completion

from sluicegate import Chunk, FilterOffsets, Usage
from sluicegate.api.completions import collect, events
from tests.api.support import ENVELOPE, HATE, SAFE, answer, completion, frames, joined, sdk

STOP = Chunk(finish_reason="stop")
CMPL = replace(ENVELOPE, id="cmpl-1")


async def test_frames_come_in_azures_order():
    request = completion(stream=True, stream_options={"include_usage": True}).annotate(SAFE)
    chunks = answer(Chunk("Hi", content_filter_results=SAFE), STOP, Chunk(usage=Usage(3, 2)))

    prompt, text, end, usage, done = await frames(events(chunks, request, CMPL))

    same = {"id": "cmpl-1", "object": "text_completion", "created": 1700000000, "model": "parrot"}
    results = [{"prompt_index": 0, "content_filter_results": SAFE}]
    assert prompt == {**same, "choices": [], "prompt_filter_results": results, "usage": None}
    choice = {"index": 0, "logprobs": None, "finish_reason": None, "content_filter_results": {}}
    assert text == {**same, "choices": [choice | {"text": "Hi", "content_filter_results": SAFE}], "usage": None}
    assert end["choices"] == [choice | {"text": "", "finish_reason": "stop"}]
    assert usage["usage"]["total_tokens"] == 5
    assert done == "[DONE]"


async def test_a_collected_answer_has_one_choice_per_prompt_and_n():
    request = completion(prompt=["a", "b"], n=2).annotate(SAFE).annotate(HATE, prompt_index=1)
    chunks = [Chunk(str(index), index=index, finish_reason="stop") for index in (3, 1, 0, 2)]

    body = json.loads(await collect(answer(*chunks, Chunk(usage=Usage(2, 4))), request, CMPL))

    assert body["object"] == "text_completion"
    assert [choice["text"] for choice in body["choices"]] == ["0", "1", "2", "3"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [entry["prompt_index"] for entry in body["prompt_filter_results"]] == [0, 1]
    Completion.model_validate(body, strict=True)


async def test_a_filtered_choice_keeps_what_was_released():
    chunks = Chunk("Hi"), Chunk(finish_reason="content_filter", content_filter_results=HATE)

    body = json.loads(await collect(answer(*chunks), completion(), CMPL))

    assert body["choices"] == [
        {
            "text": "Hi",
            "index": 0,
            "logprobs": None,
            "finish_reason": "content_filter",
            "content_filter_results": HATE,
        }
    ]


def logprobs(tokens, offsets=None):
    lists = {"tokens": tokens, "token_logprobs": [-1.0] * len(tokens), "top_logprobs": None}
    return lists if offsets is None else lists | {"text_offset": offsets}


@pytest.mark.parametrize("offsets", [None, (0, 2), (40, 42)])
async def test_log_probabilities_are_merged_and_placed_in_the_choices_own_text(offsets):
    second = None if offsets is None else list(offsets)
    chunks = Chunk("abc"), Chunk("dexy", logprobs=logprobs(["de", "xy"], second), finish_reason="stop")

    body = json.loads(await collect(answer(*chunks), completion(logprobs=0), CMPL))
    streamed = await frames(events(answer(*chunks), completion(stream=True, logprobs=0), CMPL))

    merged = {"tokens": ["de", "xy"], "token_logprobs": [-1.0, -1.0], "text_offset": [3, 5]}
    assert body["choices"][0]["logprobs"] == merged
    assert streamed[1]["choices"][0]["logprobs"] == merged
    Completion.model_validate(body, strict=True)


async def test_the_sdk_reads_a_stream():
    chunks = Chunk("Hel"), Chunk("lo"), STOP, Chunk(usage=Usage(3, 2))
    request = completion(stream=True, stream_options={"include_usage": True}).annotate(SAFE)
    client = sdk(await joined(events(answer(*chunks), request, CMPL)))

    stream = await client.completions.create(model="m", prompt="hi", stream=True)
    received = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].text for chunk in received if chunk.choices) == "Hello"
    assert received[-1].usage.total_tokens == 5


async def test_the_sdk_reads_a_collected_answer():
    client = sdk(await collect(answer(Chunk("Hi"), STOP, Chunk(usage=Usage(1, 1))), completion(), CMPL))

    received = await client.completions.create(model="m", prompt="hi")

    assert received.choices[0].text == "Hi"


async def test_verdicts_that_follow_their_text_are_frames_with_offsets_that_say_nothing():
    annotation = Chunk(content_filter_results=SAFE, content_filter_offsets=FilterOffsets(2, 2, 4))
    violation = Chunk(
        finish_reason="content_filter",
        content_filter_results=HATE,
        content_filter_offsets=FilterOffsets(4, 3, 9),
    )

    received = await frames(events(answer(Chunk("Hi"), annotation, violation), completion(stream=True), ENVELOPE))

    told, end = (frame["choices"][0] for frame in received[-3:-1])
    assert told == {"text": ""} | {
        "index": 0,
        "logprobs": None,
        "finish_reason": None,
        "content_filter_results": SAFE,
        "content_filter_offsets": {"check_offset": 2, "start_offset": 2, "end_offset": 4},
    }
    assert (end["finish_reason"], end["content_filter_results"]) == ("content_filter", HATE)
    assert end["content_filter_offsets"] == {"check_offset": 4, "start_offset": 3, "end_offset": 9}
