import json
from dataclasses import replace
from types import MappingProxyType

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sluicegate import Chunk, FilterOffsets, ToolCall, Usage
from sluicegate.api.chat import collect, events
from tests.api.support import ENVELOPE, HATE, SAFE, answer, chat, frames, joined, sdk

MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
STREAMED = {"stream": True, "tools": TOOLS}
LOGPROBS = [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}]
STOP = Chunk(finish_reason="stop")


async def test_frames_come_in_azures_order():
    request = chat(stream=True, stream_options={"include_usage": True}).annotate(SAFE)
    chunks = answer(Chunk("Hi", content_filter_results=SAFE), STOP, Chunk(usage=Usage(3, 2)))

    prompt, role, content, end, usage, done = await frames(events(chunks, request, ENVELOPE))

    same = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "parrot"}
    assert prompt == {
        **same,
        "choices": [],
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}],
        "usage": None,
    }
    choice = {"index": 0, "logprobs": None, "finish_reason": None, "content_filter_results": {}}
    assert role == {**same, "choices": [choice | {"delta": {"role": "assistant", "content": ""}}], "usage": None}
    assert content["choices"] == [choice | {"delta": {"content": "Hi"}, "content_filter_results": SAFE}]
    assert end["choices"] == [choice | {"delta": {}, "finish_reason": "stop"}]
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 5
    assert done == "[DONE]"


async def test_without_include_usage_no_frame_has_usage():
    received = await frames(events(answer(Chunk("Hi", usage=Usage(3, 2)), STOP), chat(stream=True), ENVELOPE))

    assert all("usage" not in frame for frame in received[:-1])


async def test_without_verdicts_there_is_no_prompt_frame():
    received = await frames(events(answer(STOP), chat(stream=True), ENVELOPE))

    assert received[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


async def test_versions_without_annotations_show_no_verdict():
    request, envelope = chat(stream=True).annotate(SAFE), replace(ENVELOPE, annotations=False)
    chunks = Chunk("Hi", content_filter_results=SAFE), STOP

    streamed = await joined(events(answer(*chunks), request, envelope))
    collected = await collect(answer(*chunks), request, envelope)

    assert b"filter" not in streamed + collected


async def test_roles_of_all_choices_come_first_and_in_order():
    chunks = Chunk("b", index=1), Chunk(index=1, finish_reason="stop"), Chunk("a"), STOP

    received = await frames(events(answer(*chunks), chat(stream=True, n=2), ENVELOPE))

    choices = [frame["choices"][0] for frame in received[:-1]]
    assert [choice["index"] for choice in choices] == [0, 1, 1, 1, 0, 0]
    assert [choice["delta"].get("role") for choice in choices[:2]] == ["assistant", "assistant"]


async def test_a_chunk_with_text_and_an_end_becomes_two_frames():
    chunk = Chunk("Hi", finish_reason="stop", content_filter_results=SAFE)

    _, content, end, _ = await frames(events(answer(chunk), chat(stream=True), ENVELOPE))

    assert content["choices"][0]["content_filter_results"] == SAFE
    assert end["choices"][0]["content_filter_results"] == {}
    assert end["choices"][0]["finish_reason"] == "stop"


async def test_a_filtered_choice_ends_with_the_verdict():
    chunks = Chunk("Hi"), Chunk(finish_reason="content_filter", content_filter_results=HATE)

    received = await frames(events(answer(*chunks), chat(stream=True), ENVELOPE))

    end = received[-2]["choices"][0]
    assert (end["delta"], end["finish_reason"], end["content_filter_results"]) == ({}, "content_filter", HATE)


async def test_the_last_text_of_a_filtered_choice_does_not_hide_the_verdict():
    chunk = Chunk("Hi", finish_reason="content_filter", content_filter_results=HATE)

    received = await frames(events(answer(chunk), chat(stream=True), ENVELOPE))

    assert received[-2]["choices"][0]["content_filter_results"] == HATE


async def test_a_verdict_without_text_comes_in_an_empty_delta():
    received = await frames(events(answer(Chunk(content_filter_results=SAFE), STOP), chat(stream=True), ENVELOPE))

    assert received[1]["choices"][0]["delta"] == {}
    assert received[1]["choices"][0]["content_filter_results"] == SAFE


async def test_chunks_that_say_nothing_are_not_sent():
    received = await frames(events(answer(Chunk(), Chunk(usage=Usage(1)), STOP), chat(stream=True), ENVELOPE))

    assert len(received) == 3


async def test_log_probabilities_travel_with_their_text_and_are_merged():
    chunks = [Chunk("Hi", logprobs={"content": LOGPROBS}), Chunk("Hi", logprobs={"content": LOGPROBS}), STOP]
    request = chat(stream=True, logprobs=True)

    received = await frames(events(answer(*chunks), request, ENVELOPE))
    collected = json.loads(await collect(answer(*chunks), request, ENVELOPE))

    assert received[1]["choices"][0]["logprobs"] == {"content": LOGPROBS}
    assert collected["choices"][0]["logprobs"] == {"content": LOGPROBS * 2, "refusal": None}


async def test_log_probabilities_are_sent_once():
    with_text = Chunk("Hi", logprobs={"content": LOGPROBS}, finish_reason="stop")
    without = Chunk(logprobs={"content": LOGPROBS}, finish_reason="stop")

    received = await frames(events(answer(with_text), chat(stream=True), ENVELOPE))
    received += await frames(events(answer(without), chat(stream=True), ENVELOPE))

    sent = [frame["choices"][0]["logprobs"] for frame in received if frame != "[DONE]"]
    assert sent == [None, {"content": LOGPROBS}, None, None, {"content": LOGPROBS}]


async def test_a_verdict_may_be_any_mapping():
    chunk = Chunk("Hi", finish_reason="stop", content_filter_results=MappingProxyType(SAFE))

    received = await frames(events(answer(chunk), chat(stream=True), ENVELOPE))

    assert received[1]["choices"][0]["content_filter_results"] == SAFE


async def test_log_probabilities_that_json_cannot_express_are_null():
    logprobs = {"content": [{**LOGPROBS[0], "logprob": float("-inf")}]}

    received = await frames(events(answer(Chunk("Hi", logprobs=logprobs), STOP), chat(stream=True), ENVELOPE))

    assert received[1]["choices"][0]["logprobs"]["content"][0]["logprob"] is None


@pytest.mark.parametrize("text", ["größe 日本 😀", '"\\\n\r\u2028\0', "half \ud83d"])
async def test_any_text_survives(text):
    received = await frames(events(answer(Chunk(text), STOP), chat(stream=True), ENVELOPE))
    collected = json.loads(await collect(answer(Chunk(text), STOP), chat(), ENVELOPE))

    assert received[1]["choices"][0]["delta"]["content"] == text
    assert collected["choices"][0]["message"]["content"] == text


async def test_a_frame_is_one_event_whatever_the_text():
    received = [frame async for frame in events(answer(Chunk("a\n\ndata: b\r\n"), STOP), chat(stream=True), ENVELOPE)]

    assert all(frame.count(b"\n") == 2 and b"\r" not in frame for frame in received)


async def test_padding_hides_the_length_of_the_text_unless_it_is_switched_off():
    request = chat(stream=True, stream_options={"include_obfuscation": True})
    chunks = Chunk("a"), Chunk("a longer one"), STOP

    _, short, long, *_ = [frame async for frame in events(answer(*chunks), request, ENVELOPE)]

    assert len(short) == len(long)
    assert b"obfuscation" not in await joined(events(answer(*chunks), chat(stream=True), ENVELOPE))


async def test_padding_is_on_by_default():
    request = chat(stream=True).model_copy(update={"stream_options": None})

    assert b"obfuscation" in await joined(events(answer(Chunk("a"), STOP), request, ENVELOPE))


async def test_a_collected_answer_has_azures_fields():
    request = chat(n=2).annotate(SAFE)
    chunks = (
        Chunk("H"),
        Chunk("Y", index=1),
        Chunk("i", content_filter_results=SAFE),
        Chunk("o", index=1, finish_reason="length"),
        STOP,
        Chunk(usage=Usage(3, 4, cached_tokens=2, reasoning_tokens=1)),
    )

    body = json.loads(await collect(answer(*chunks), request, ENVELOPE))

    message = {"role": "assistant", "refusal": None}
    rest = {"logprobs": None, "content_filter_results": {}}
    assert body == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "parrot",
        "choices": [
            {
                **rest,
                "index": 0,
                "message": {**message, "content": "Hi"},
                "finish_reason": "stop",
                "content_filter_results": SAFE,
            },
            {**rest, "index": 1, "message": {**message, "content": "Yo"}, "finish_reason": "length"},
        ],
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    }


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([STOP], {"role": "assistant", "content": "", "refusal": None}),
        ([Chunk(refusal="No"), Chunk(refusal=".", finish_reason="stop")], {"content": None, "refusal": "No."}),
        ([Chunk(finish_reason="content_filter", content_filter_results=HATE)], {"role": "assistant"}),
        (
            [Chunk("Hi"), Chunk(finish_reason="content_filter", content_filter_results=HATE)],
            {"role": "assistant", "content": "Hi", "refusal": None},
        ),
    ],
)
async def test_a_message_is_null_or_absent_where_there_is_none(chunks, message):
    body = json.loads(await collect(answer(*chunks), chat(), ENVELOPE))

    assert body["choices"][0]["message"] == {"role": "assistant"} | message
    ChatCompletion.model_validate(body)


def tool_call(call_id="call_1", name="weather"):
    return (
        Chunk(tool_calls=(ToolCall(0, call_id, name),)),
        Chunk(tool_calls=(ToolCall(0, arguments='{"city":'),)),
        Chunk(tool_calls=(ToolCall(0, arguments='"Bonn"}'),)),
        Chunk(finish_reason="tool_calls"),
    )


async def test_tool_calls_come_in_pieces_or_whole():
    streamed = await frames(events(answer(*tool_call()), chat(**STREAMED), ENVELOPE))
    collected = json.loads(await collect(answer(*tool_call()), chat(tools=TOOLS), ENVELOPE))

    deltas = [frame["choices"][0]["delta"].get("tool_calls") for frame in streamed[1:4]]
    function = {"name": "weather", "arguments": ""}
    assert deltas == [
        [{"index": 0, "id": "call_1", "type": "function", "function": function}],
        [{"index": 0, "function": {"arguments": '{"city":'}}],
        [{"index": 0, "function": {"arguments": '"Bonn"}'}}],
    ]
    whole = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
    assert collected["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [whole],
    }
    assert collected["choices"][0]["finish_reason"] == "tool_calls"


async def test_who_asked_with_functions_is_answered_with_a_function_call():
    request = {"functions": [{"name": "weather"}]}

    streamed = await frames(events(answer(*tool_call()), chat(stream=True, **request), ENVELOPE))
    collected = json.loads(await collect(answer(*tool_call()), chat(**request), ENVELOPE))

    assert streamed[1]["choices"][0]["delta"] == {"function_call": {"name": "weather", "arguments": ""}}
    assert streamed[2]["choices"][0]["delta"] == {"function_call": {"arguments": '{"city":'}}
    assert streamed[-2]["choices"][0]["finish_reason"] == "function_call"
    choice = collected["choices"][0]
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Bonn"}'}
    assert choice["finish_reason"] == "function_call"
    ChatCompletion.model_validate(collected)


async def test_custom_tools_get_their_input_as_text():
    tools = [{"type": "custom", "custom": {"name": "weather"}}]

    streamed = await frames(events(answer(*tool_call()), chat(stream=True, tools=tools), ENVELOPE))
    collected = json.loads(await collect(answer(*tool_call()), chat(tools=tools), ENVELOPE))

    custom = {"name": "weather", "input": ""}
    assert streamed[1]["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "id": "call_1", "type": "custom", "custom": custom}
    ]
    assert streamed[2]["choices"][0]["delta"]["tool_calls"] == [{"index": 0, "custom": {"input": '{"city":'}}]
    assert collected["choices"][0]["message"]["tool_calls"] == [
        {"id": "call_1", "type": "custom", "custom": {"name": "weather", "input": '{"city":"Bonn"}'}}
    ]
    ChatCompletion.model_validate(collected)


async def test_every_frame_is_a_chunk_to_the_sdk():
    request = chat(stream=True, n=2, tools=TOOLS, stream_options={"include_usage": True}).annotate(SAFE)
    chunks = Chunk("Hi", logprobs={"content": LOGPROBS}), Chunk(refusal="No", index=1), *tool_call()

    received = await frames(events(answer(*chunks, Chunk(usage=Usage(1, 2))), request, ENVELOPE))

    for frame in received[:-1]:
        ChatCompletionChunk.model_validate(frame, strict=True)


async def test_the_sdk_reads_a_stream():
    request = chat(stream=True, stream_options={"include_usage": True}).annotate(SAFE)
    chunks = Chunk("Hel"), Chunk("lo"), STOP, Chunk(usage=Usage(3, 2))
    client = sdk(await joined(events(answer(*chunks), request, ENVELOPE)))

    stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    received = [chunk async for chunk in stream]

    assert received[0].prompt_filter_results == [{"prompt_index": 0, "content_filter_results": SAFE}]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in received if chunk.choices) == "Hello"
    assert received[-1].usage.total_tokens == 5


async def test_the_sdks_stream_helper_puts_together_interleaved_choices():
    request = chat(stream=True, n=2, stream_options={"include_usage": True}).annotate(SAFE)
    ends = STOP, Chunk(index=1, finish_reason="stop"), Chunk(usage=Usage(3, 2))
    chunks = Chunk("second", index=1), Chunk("first"), Chunk("!", index=1), *ends
    client = sdk(await joined(events(answer(*chunks), request, ENVELOPE)))

    async with client.chat.completions.stream(model="m", messages=MESSAGES, n=2) as stream:
        final = await stream.get_final_completion()

    assert [choice.message.content for choice in final.choices] == ["first", "second!"]
    assert (final.id, final.model, final.usage.total_tokens) == ("chatcmpl-1", "parrot", 5)


async def test_the_sdks_stream_helper_puts_together_tool_calls():
    client = sdk(await joined(events(answer(*tool_call()), chat(**STREAMED), ENVELOPE)))

    async with client.chat.completions.stream(model="m", messages=MESSAGES, tools=TOOLS) as stream:
        final = await stream.get_final_completion()

    (call,) = final.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "weather", '{"city":"Bonn"}')


async def test_the_sdk_reads_a_collected_answer():
    client = sdk(await collect(answer(Chunk("Hi"), STOP, Chunk(usage=Usage(1, 1))), chat(), ENVELOPE))

    completion = await client.chat.completions.create(model="m", messages=MESSAGES)

    assert completion.choices[0].message.content == "Hi"
    ChatCompletion.model_validate(completion.model_dump(), strict=True)


async def test_what_the_answer_raises_takes_the_place_of_the_end():
    async def failing():
        yield Chunk("Hi")
        raise RuntimeError

    received = []

    with pytest.raises(RuntimeError):
        await _read(events(failing(), chat(stream=True), ENVELOPE), received)

    assert b"Hi" in received[-1]


async def _read(stream, received):
    async for frame in stream:
        received.append(frame)


async def test_a_collected_answer_is_closed_when_it_fails():
    closed = []

    async def failing():
        try:
            yield Chunk("Hi", index=7)
        finally:
            closed.append(True)

    with pytest.raises(IndexError):
        await collect(failing(), chat(), ENVELOPE)
    assert closed == [True]


async def test_verdicts_that_follow_their_text_are_frames_with_offsets_that_say_nothing():
    annotation = Chunk(content_filter_results=SAFE, content_filter_offsets=FilterOffsets(2, 2, 4))
    violation = Chunk(
        finish_reason="content_filter",
        content_filter_results=HATE,
        content_filter_offsets=FilterOffsets(4, 3, 9),
    )

    received = await frames(events(answer(Chunk("Hi"), annotation, violation), chat(stream=True), ENVELOPE))

    told, end = (frame["choices"][0] for frame in received[-3:-1])
    assert told == {"delta": {}} | {
        "index": 0,
        "logprobs": None,
        "finish_reason": None,
        "content_filter_results": SAFE,
        "content_filter_offsets": {"check_offset": 2, "start_offset": 2, "end_offset": 4},
    }
    assert (end["finish_reason"], end["content_filter_results"]) == ("content_filter", HATE)
    assert end["content_filter_offsets"] == {"check_offset": 4, "start_offset": 3, "end_offset": 9}
