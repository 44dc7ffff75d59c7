"""The path of one request: what each stage may do, what happens when it fails, and what is retained of it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from contextlib import aclosing, suppress
from dataclasses import fields, replace

import anyio
import pytest

from sluicegate import hookimpl, pipeline
from sluicegate.app import Sluicegate
from sluicegate.errors import (
    InvalidRequest,
    ModelUnavailable,
    PluginFailed,
    Refused,
    StartupError,
    Unauthorized,
    Unsupported,
    UpstreamError,
)
from sluicegate.requests import CompletionRequest, EmbeddingRequest
from sluicegate.testing import Assembly, FakeModel, Use, answered, chat_request, plugin_of
from sluicegate.types import Chunk, Exchange, Outcome, Principal, Purged, Role, ToolCall, Usage

CANARY = "canary-8d1f"
VERDICT = {"test": {"filtered": True}}


async def purge():
    return Purged()


def retaining(action):
    """Return a plugin whose ``retain`` does this."""

    async def retain(exchange, store):
        await action(exchange, store)

    return plugin_of(retain, purge)


def pre_filtering(change, name="pre"):
    async def pre_filter(request):
        return change(request)

    return plugin_of(pre_filter, name=name)


def post_filtering(change, name="post"):
    """Return a plugin that passes each chunk through ``change``."""

    async def post_filter(chunks):
        async for chunk in chunks:
            yield change(chunk)

    return plugin_of(post_filter, name=name)


def refusing_at(word, name="refuses"):
    """Return a plugin that refuses when a chunk is this text."""

    async def post_filter(chunks):
        async for chunk in chunks:
            if chunk.text == word:
                raise Refused(VERDICT)
            yield chunk

    return plugin_of(post_filter, name=name)


def raiser(error):
    def raise_it(*_):
        raise error

    return raise_it


def completion(prompt, **options):
    return CompletionRequest.model_validate({"prompt": prompt, **options})


def embedding(given, **options):
    return EmbeddingRequest.model_validate({"input": given, **options})


async def collected(assembly, request="hello"):
    call = assembly.call(request)
    async with aclosing(assembly.pipeline.chunks(call)) as answer:
        return [chunk async for chunk in answer]


# --- who is calling --------------------------------------------------------------------------------------------------

BASE = """
from sluicegate import Chunk, Model, hookimpl
from sluicegate.testing import MemoryKeys, MemoryStorage

@hookimpl
def open_storage(url): return MemoryStorage()

@hookimpl
def open_keys(url): return MemoryKeys()

@hookimpl
def register_models(): return [Model("fake", frozenset({"completions"}))]

@hookimpl
async def inference(request): yield Chunk(finish_reason="stop")
"""


@pytest.fixture
def gate_with(make_app):
    """Return a function that builds an app whose ``authenticate`` stage is plugins with these bodies."""

    def gate_with(*bodies):
        names = [f"step_{number}" for number in range(len(bodies))]
        plugins = {
            name: f"from sluicegate import *\n@hookimpl\nasync def authenticate(headers): {body}"
            for name, body in zip(names, bodies, strict=True)
        }
        stages = f"[pipeline]\nauthenticate = {names}\nmodels = ['base']\n"
        root = make_app(f"storage = 'memory:'\nkeys = 'memory:'\nregion = 'local'\n{stages}", base=BASE, **plugins)
        return Sluicegate(root, {})

    return gate_with


KNOWS_KEY1 = "return Principal('contoso', Role.CALLER, 'key1')"
KNOWS_NOBODY = "return None"


@pytest.mark.parametrize("bodies", [[KNOWS_KEY1], [KNOWS_NOBODY, KNOWS_KEY1], [KNOWS_KEY1, "raise ValueError"]])
async def test_the_first_plugin_that_knows_the_caller_counts(gate_with, bodies):
    principal = await gate_with(*bodies).authenticate({}, "models.list")

    assert principal == Principal("contoso", Role.CALLER, "key1")


@pytest.mark.parametrize("bodies", [[], [KNOWS_NOBODY], [KNOWS_NOBODY, KNOWS_NOBODY]])
async def test_a_caller_nobody_knows_is_refused(gate_with, bodies):
    with pytest.raises(Unauthorized) as refused:
        await gate_with(*bodies).authenticate({}, "models.list")

    assert refused.value.status == 401


async def test_a_bad_credential_is_refused_whatever_later_plugins_say(gate_with):
    with pytest.raises(Unauthorized, match="bad"):
        await gate_with("raise Unauthorized('bad')", KNOWS_KEY1).authenticate({}, "models.list")


@pytest.mark.parametrize("body", [f"raise ValueError('{CANARY}')", f"return '{CANARY}'", "return False"])
async def test_a_bug_in_authentication_refuses_with_a_503(gate_with, body):
    with pytest.raises(PluginFailed) as failed:
        await gate_with(body, KNOWS_KEY1).authenticate({}, "models.list")

    assert (failed.value.status, failed.value.plugin, failed.value.hook) == (503, "step_0", "authenticate")
    assert CANARY not in str(failed.value)


@pytest.mark.parametrize(("operation", "role"), [("accounts.list", "operator"), ("retained.list", "officer")])
async def test_a_credential_of_another_role_is_refused(gate_with, operation, role):
    with pytest.raises(Unauthorized, match=f"lacks the role '{role}'") as refused:
        await gate_with(KNOWS_KEY1).authenticate({}, operation)

    assert refused.value.code == "PermissionDenied"


# --- before the model ------------------------------------------------------------------------------------------------


async def test_pre_filters_change_the_request_one_after_the_other():
    model = FakeModel()
    louder = pre_filtering(lambda request: request.map_text(str.upper), "louder")
    longer = pre_filtering(lambda request: request.map_text(lambda text: text + "!"), "longer")

    await answered("hello", model, pre_filter=[louder, longer])

    assert [request.messages[0].content for request in model.requests] == ["HELLO!"]


async def test_a_refused_prompt_never_reaches_the_model():
    model = FakeModel()

    result = await answered("hello", model, pre_filter=[pre_filtering(raiser(Refused(VERDICT)))])

    assert isinstance(result.error, Refused)
    assert result.chunks == ()
    assert model.opened == 0
    assert result.exchange.outcome is Outcome.BLOCKED
    assert result.exchange.prompt_filter_results == {0: VERDICT}


async def test_a_refusal_carries_the_verdicts_of_earlier_filters_too():
    annotating = pre_filtering(lambda request: request.annotate({"other": {"filtered": False}}), "annotates")

    result = await answered("hello", pre_filter=[annotating, pre_filtering(raiser(Refused(VERDICT)))])

    assert result.error.results == {"other": {"filtered": False}, **VERDICT}


async def test_a_filter_that_refuses_on_purpose_is_obeyed_even_if_it_is_not_required():
    result = await answered("hello", pre_filter=[Use(pre_filtering(raiser(Refused(VERDICT))), required=False)])

    assert isinstance(result.error, Refused)


async def test_an_error_a_pre_filter_raises_on_purpose_reaches_the_caller_as_it_is():
    error = InvalidRequest("Say please.", param="messages")

    result = await answered("hello", pre_filter=[Use(pre_filtering(raiser(error)), required=False)])

    assert result.error is error


@pytest.mark.parametrize(
    "change",
    [
        raiser(ValueError(CANARY)),
        raiser(asyncio.CancelledError()),
        raiser(StopAsyncIteration()),
        lambda request: None,
        lambda request: "text",
        lambda request: completion("hello"),
    ],
    ids=["raises", "raises CancelledError", "raises StopAsyncIteration", "returns None", "a string", "another kind"],
)
async def test_a_pre_filter_that_fails_stops_the_request(change):
    model = FakeModel()

    result = await answered("hello", model, pre_filter=[pre_filtering(change, "broken")])

    assert isinstance(result.error, PluginFailed)
    assert (result.error.plugin, result.error.hook, result.error.status) == ("broken", "pre_filter", 503)
    assert result.error.code == "plugin_failed"
    assert model.opened == 0
    assert result.exchange.outcome is Outcome.FAILED


@pytest.mark.parametrize("change", [raiser(ValueError(CANARY)), lambda request: None], ids=["raises", "returns None"])
async def test_a_pre_filter_that_is_not_required_may_fail(change):
    model = FakeModel("fine")

    result = await answered("hello", model, pre_filter=[Use(pre_filtering(change), required=False)])

    assert result.text == "fine"
    assert model.requests[0].messages[0].content == "hello"


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (chat_request("hello", seed=1), "seed"),
        (chat_request("hello", logit_bias={"5": 1}), "logit_bias"),
        (chat_request("hello", response_format={"type": "json_object"}), "response_format"),
        (completion("hello", suffix="!"), "suffix"),
        (completion((104, 105)), "prompt"),
        (embedding("hello", dimensions=2), "dimensions"),
        (embedding(((104, 105),)), "input"),
    ],
)
async def test_a_feature_the_model_lacks_is_refused_by_name(request_, param):
    model = FakeModel(features=())

    result = await answered(request_, model)

    assert isinstance(result.error, Unsupported)
    assert result.error.param == param
    assert param in result.error.message
    assert model.opened == 0
    assert result.exchange.outcome is Outcome.FAILED


@pytest.mark.parametrize("request_", [completion((104, 105)), embedding(((104, 105),))])
async def test_token_ids_are_text_before_the_first_filter_reads_them(request_):
    seen = []
    model = FakeModel()

    await answered(request_, model, pre_filter=[pre_filtering(lambda request: seen.extend(request.texts()) or request)])

    assert [text.value for text in seen] == ["hi"]
    assert [text.value for text in model.requests[0].texts()] == ["hi"]
    assert not model.requests[0].token_lists()


@pytest.mark.parametrize("returned", [None, 7, b"hi"])
async def test_token_ids_that_do_not_become_text_stop_the_request(returned):
    class Mute(FakeModel):
        @hookimpl
        def detokenize(self, tokens):
            return returned

    model = Mute()

    result = await answered(completion((104, 105)), model)

    assert isinstance(result.error, PluginFailed)
    assert result.error.hook == "detokenize"
    assert model.opened == 0


async def test_token_ids_outside_the_vocabulary_are_the_callers_error():
    class Small(FakeModel):
        @hookimpl
        def detokenize(self, tokens):
            raise InvalidRequest("not in the vocabulary")

    result = await answered(embedding((1, 2)), Small())

    assert isinstance(result.error, InvalidRequest)


# --- the model -------------------------------------------------------------------------------------------------------


async def test_an_answer_passes_piece_by_piece():
    result = await answered("hello", FakeModel("one ", "two"))

    assert result.chunks == (Chunk("one "), Chunk("two"), Chunk(finish_reason="stop"))
    assert result.error is None


async def test_what_the_model_raises_on_purpose_reaches_the_caller_as_it_is():
    error = ModelUnavailable("Loading.", retry_after_s=3)

    result = await answered("hello", FakeModel(error))

    assert result.error is error
    assert result.exchange.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "line",
    [ValueError(CANARY), "text", asyncio.CancelledError()],
    ids=["raises", "not a chunk", "raises CancelledError"],
)
@pytest.mark.parametrize("n", [1, 2])
async def test_a_model_that_fails_mid_stream_ends_the_answer_with_an_error(line, n):
    class Broken(FakeModel):
        @hookimpl
        async def inference(self, request):
            yield Chunk("some ")
            if isinstance(line, BaseException):
                raise line
            yield line

    result = await answered(chat_request("hello", n=n), Broken())

    assert result.text == "some "
    assert isinstance(result.error, PluginFailed)
    assert result.error.hook == "inference"
    assert result.exchange.outcome is Outcome.FAILED
    assert result.exchange.answers[0].text == "some "


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("index", [-1, 2])
async def test_a_choice_nobody_asked_for_is_an_error(n, index):
    result = await answered(chat_request("hello", n=n), FakeModel(Chunk("x", index=index)))

    assert isinstance(result.error, PluginFailed)
    assert result.chunks == ()


@pytest.mark.parametrize("n", [1, 2])
async def test_an_answer_without_a_finish_reason_is_an_error(n):
    result = await answered(chat_request("hello", n=n), FakeModel("half", finish_reason=None))

    assert isinstance(result.error, PluginFailed)
    assert result.error.hook == "inference"


async def test_text_after_the_finish_reason_is_an_error():
    result = await answered("hello", FakeModel("one", Chunk(finish_reason="stop"), "two"))

    assert isinstance(result.error, PluginFailed)
    assert result.text == "one"


async def test_verdicts_after_the_finish_reason_pass():
    late = Chunk(content_filter_results={"hate": {"filtered": False}})

    result = await answered("hello", FakeModel("one", Chunk(finish_reason="stop"), late))

    assert result.chunks[-1] == late
    assert result.exchange.answers[0].finish_reason == "stop"


async def test_a_prompt_that_the_models_server_refuses_is_a_refused_prompt():
    annotating = pre_filtering(lambda request: request.annotate({"other": {"filtered": False}}))
    model = FakeModel(Chunk(usage=Usage(1)), Refused(VERDICT))

    result = await answered(chat_request("hello", n=2), model, pre_filter=[annotating])

    assert isinstance(result.error, Refused)
    assert result.error.results == {"other": {"filtered": False}, **VERDICT}
    assert result.chunks == ()
    assert result.exchange.outcome is Outcome.BLOCKED


async def test_an_answer_that_the_models_server_refuses_later_is_cut():
    result = await answered("hello", FakeModel("some ", Refused(VERDICT)))

    assert result.finish_reasons == {0: "content_filter"}
    assert result.chunks[-1].content_filter_results == VERDICT
    assert result.exchange.outcome is Outcome.CUT


async def test_usage_is_taken_off_the_chunks_and_comes_last():
    seen = []
    model = FakeModel(Chunk("a", usage=Usage(3, 1)), Chunk("b", usage=Usage(3, 2)), usage=Usage(3, 3))

    result = await answered("hello", model, post_filter=[post_filtering(lambda chunk: seen.append(chunk) or chunk)])

    assert [chunk.usage for chunk in seen] == [None, None, None]
    assert [chunk.usage for chunk in result.chunks] == [None, None, None, Usage(3, 3)]
    assert result.exchange.usage == Usage(3, 3)


async def test_a_cut_answer_is_counted_as_far_as_it_came():
    model = FakeModel(Chunk("a", usage=Usage(3, 1)), Chunk("bad", usage=Usage(3, 2)), "c", usage=Usage(3, 3))

    result = await answered("hello", model, post_filter=[refusing_at("bad")])

    assert result.chunks[-1] == Chunk(usage=Usage(3, 2))


async def test_an_answer_nobody_counted_ends_without_usage():
    result = await answered("hello", FakeModel("a"))

    assert result.chunks[-1] == Chunk(finish_reason="stop")
    assert result.exchange.usage is None


async def test_an_upstreams_verdicts_on_the_prompt_join_ours_and_ours_stand():
    ours, theirs = {"filtered": False, "details": []}, {"filtered": True}
    annotating = pre_filtering(lambda request: request.annotate({"custom_blocklists": ours}))
    verdicts = {0: {"custom_blocklists": theirs, "hate": theirs}, 1: {"hate": theirs}}
    seen = []
    assembly = Assembly(
        FakeModel(Chunk(prompt_filter_results=verdicts), Chunk("a", prompt_filter_results={2: {"hate": theirs}})),
        pre_filter=[annotating],
        post_filter=[post_filtering(lambda chunk: seen.append(chunk) or chunk)],
    )
    call = assembly.call("hello")

    async with aclosing(assembly.pipeline.chunks(call)) as answer:
        first = await anext(answer)

    assert first == Chunk("a") == seen[0]
    assert call.request.prompt_filter_results == {
        0: {"custom_blocklists": ours, "hate": theirs},
        1: {"hate": theirs},
        2: {"hate": theirs},
    }


async def test_log_probabilities_of_no_text_are_passed_on():
    odd = Chunk(logprobs={"content": [{"token": "", "logprob": -1.0}]})

    result = await answered("hello", FakeModel(odd))

    assert result.chunks[0] == odd


# --- after the model -------------------------------------------------------------------------------------------------


async def test_post_filters_change_the_answer_one_after_the_other():
    louder = post_filtering(lambda chunk: replace(chunk, text=chunk.text.upper()), "louder")
    longer = post_filtering(lambda chunk: replace(chunk, text=chunk.text and chunk.text + "!"), "longer")

    result = await answered("hello", FakeModel("a", "b"), post_filter=[louder, longer])

    assert result.text == "A!B!"


async def test_a_refusing_post_filter_ends_the_choice_with_its_verdict():
    result = await answered("hello", FakeModel("one ", "two ", "three"), post_filter=[refusing_at("two ")])

    assert result.error is None
    assert result.chunks == (Chunk("one "), Chunk(finish_reason="content_filter", content_filter_results=VERDICT))
    assert result.exchange.outcome is Outcome.CUT


async def test_what_a_refusing_filter_had_read_and_not_passed_is_recorded_as_withheld():
    async def post_filter(chunks):
        held = []
        async for chunk in chunks:
            if chunk.text == "bad":
                raise Refused(VERDICT)
            held.append(chunk)
            if len(held) > 2:
                yield held.pop(0)

    result = await answered("hello", FakeModel("a", "b", "c", "d", "bad", "e"), post_filter=[plugin_of(post_filter)])

    [answer] = result.exchange.answers
    assert (answer.text, answer.withheld) == ("ab", "cdbad")
    assert (answer.finish_reason, answer.content_filter_results) == ("content_filter", VERDICT)


async def test_what_is_withheld_is_recorded_as_earlier_filters_left_it():
    redacting = post_filtering(lambda chunk: replace(chunk, text=chunk.text.replace("a@b.de", "[email]")))

    result = await answered("hello", FakeModel("to ", "a@b.de"), post_filter=[redacting, refusing_at("[email]")])

    assert result.exchange.answers[0].withheld == "[email]"


async def test_of_a_filter_that_rewrote_what_passed_all_it_had_read_is_withheld():
    async def post_filter(chunks):
        async for chunk in chunks:
            if chunk.text == "bad":
                raise Refused(VERDICT)
            yield replace(chunk, text=chunk.text.upper())

    result = await answered("hello", FakeModel("one ", "bad"), post_filter=[plugin_of(post_filter)])

    assert result.exchange.answers[0].withheld == "one bad"


async def swallowing(chunks):
    try:
        async for chunk in chunks:
            yield chunk
    except Exception:  # noqa: BLE001 - what this filter does wrong
        pass


async def swallowing_and_going_on(chunks):
    async for chunk in swallowing(chunks):
        yield chunk
    yield Chunk("nevertheless")
    yield Chunk(finish_reason="stop")


async def swallowing_and_raising(chunks):
    async for chunk in swallowing(chunks):
        yield chunk
    raise ValueError(CANARY)


LATER_FILTERS = [swallowing, swallowing_and_going_on, swallowing_and_raising]


def as_post_filter(function):
    async def post_filter(chunks):
        async with aclosing(function(chunks)) as filtered:
            async for chunk in filtered:
                yield chunk

    return plugin_of(post_filter, name=function.__name__)


@pytest.mark.parametrize("later", LATER_FILTERS)
async def test_a_later_filter_cannot_swallow_a_refusal_nor_add_to_it(later):
    filters = [refusing_at("two "), as_post_filter(later)]

    result = await answered("hello", FakeModel("one ", "two ", "three"), post_filter=filters)

    assert result.error is None
    assert result.chunks == (Chunk("one "), Chunk(finish_reason="content_filter", content_filter_results=VERDICT))
    assert result.exchange.outcome is Outcome.CUT
    assert result.exchange.answers[0].withheld == "two "


@pytest.mark.parametrize("later", LATER_FILTERS)
async def test_a_later_filter_cannot_swallow_a_failure_of_the_model(later):
    result = await answered("hello", FakeModel("one ", ValueError(CANARY)), post_filter=[as_post_filter(later)])

    assert isinstance(result.error, PluginFailed)
    assert (result.error.plugin, result.error.hook) == ("fakemodel", "inference")
    assert result.text == "one "


@pytest.mark.parametrize("later", LATER_FILTERS)
async def test_a_later_filter_cannot_swallow_a_failure_of_an_earlier_one(later):
    broken = post_filtering(raiser(ValueError(CANARY)), "broken")

    result = await answered("hello", FakeModel("one "), post_filter=[broken, as_post_filter(later)])

    assert isinstance(result.error, PluginFailed)
    assert result.error.plugin == "broken"
    assert result.chunks == ()


async def test_a_later_filter_cannot_turn_a_failure_into_a_refusal():
    async def post_filter(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except Exception as error:
            raise Refused(VERDICT) from error

    result = await answered("hello", FakeModel("one ", ValueError(CANARY)), post_filter=[plugin_of(post_filter)])

    assert isinstance(result.error, PluginFailed)


@pytest.mark.parametrize(
    "change",
    [
        raiser(ValueError(CANARY)),
        raiser(asyncio.CancelledError()),
        lambda chunk: None,
        lambda chunk: chunk.text,
        lambda chunk: replace(chunk, finish_reason=None),
        lambda chunk: replace(chunk, text="more", finish_reason="stop"),
    ],
    ids=["raises", "raises CancelledError", "yields None", "yields a string", "drops the finish", "goes on after it"],
)
@pytest.mark.parametrize("n", [1, 2])
async def test_a_post_filter_that_fails_ends_the_answer_with_an_error(change, n):
    broken = post_filtering(change, "broken")
    other = post_filtering(lambda chunk: chunk, "other")

    result = await answered(chat_request("hello", n=n), FakeModel("one ", "two"), post_filter=[broken, other])

    assert isinstance(result.error, PluginFailed)
    assert (result.error.plugin, result.error.hook) == ("broken", "post_filter")
    assert result.exchange.outcome is Outcome.FAILED


async def test_a_filter_that_stops_reading_is_the_one_that_failed():
    async def post_filter(chunks):
        yield await anext(chunks)

    result = await answered("hello", FakeModel("one ", "two"), post_filter=[plugin_of(post_filter, name="short")])

    assert isinstance(result.error, PluginFailed)
    assert result.error.plugin == "short"


async def test_an_error_a_post_filter_raises_on_purpose_reaches_the_caller_as_it_is():
    error = UpstreamError("The classifier is busy.", status=429)

    result = await answered("hello", post_filter=[post_filtering(raiser(error))])

    assert result.error is error


# --- several choices -------------------------------------------------------------------------------------------------


async def test_each_choice_has_a_chain_of_filters_of_its_own():
    async def post_filter(chunks):
        count = 0
        async for chunk in chunks:
            count += bool(chunk.text)
            yield replace(chunk, text=chunk.text and f"{count} ")

    result = await answered(chat_request("hello", n=3), FakeModel("a", "b"), post_filter=[plugin_of(post_filter)])

    assert [answer.text for answer in result.exchange.answers] == ["1 2 "] * 3
    assert result.finish_reasons == {0: "stop", 1: "stop", 2: "stop"}


async def test_a_filter_cannot_move_text_to_another_choice():
    confusing = post_filtering(lambda chunk: replace(chunk, index=0))

    result = await answered(completion(("p", "q")), FakeModel("a"), post_filter=[confusing])

    assert [answer.text for answer in result.exchange.answers] == ["a", "a"]


async def test_a_refused_choice_does_not_end_the_others():
    model = FakeModel("one ", Chunk("bad", index=1), "two")

    result = await answered(chat_request("hello", n=3), model, post_filter=[refusing_at("bad")])

    assert [answer.text for answer in result.exchange.answers] == ["one two", "one ", "one two"]
    assert [answer.withheld for answer in result.exchange.answers] == ["", "bad", ""]
    assert result.finish_reasons == {0: "stop", 1: "content_filter", 2: "stop"}
    assert result.exchange.outcome is Outcome.CUT


async def test_a_failure_in_one_choice_fails_the_answer():
    def fail_at_bad(chunk):
        if chunk.text == "bad":
            raise ValueError(CANARY)
        return chunk

    model = FakeModel("one ", Chunk("bad", index=1), "two")

    result = await answered(chat_request("hello", n=3), model, post_filter=[post_filtering(fail_at_bad)])

    assert isinstance(result.error, PluginFailed)
    assert result.exchange.outcome is Outcome.FAILED
    assert model.closed == 1


async def test_an_answer_that_was_cut_in_one_choice_and_failed_in_another_has_failed():
    model = FakeModel(Chunk("bad"), ValueError(CANARY))

    result = await answered(chat_request("hello", n=2), model, post_filter=[refusing_at("bad")])

    assert result.finish_reasons == {0: "content_filter"}
    assert result.exchange.outcome is Outcome.FAILED


# --- what is retained ------------------------------------------------------------------------------------------------


async def test_a_completed_exchange_is_retained_as_it_was_sent():
    redacting = pre_filtering(lambda request: request.map_text(lambda text: text.replace("a@b.de", "[email]")))
    calls = (
        Chunk(tool_calls=(ToolCall(0, "call-7", "lookup", '{"a"'),)),
        Chunk(tool_calls=(ToolCall(0, None, None, ": 1}"), ToolCall(1, "call-8", "lookup", "{}"))),
    )
    assembly = Assembly(
        FakeModel("to ", "you", *calls, finish_reason="tool_calls", usage=Usage(2, 1)), pre_filter=[redacting]
    )

    await collected(assembly, "mail a@b.de")

    [exchange] = assembly.exchanges
    assert (exchange.id, exchange.account, exchange.deployment, exchange.model) == (
        "call-1",
        "contoso",
        "deployment-1",
        "fake",
    )
    assert (exchange.operation, exchange.outcome, exchange.usage) == (
        "chat.completions",
        Outcome.COMPLETED,
        Usage(2, 1),
    )
    assert exchange.started <= exchange.finished
    assert exchange.request.messages[0].content == "mail [email]"
    [answer] = exchange.answers
    assert (answer.text, answer.finish_reason, answer.withheld) == ("to you", "tool_calls", "")
    assert answer.tool_calls == (ToolCall(0, "call-7", "lookup", '{"a": 1}'), ToolCall(1, "call-8", "lookup", "{}"))


async def test_a_request_that_a_filter_refused_is_retained_as_that_filter_saw_it():
    redacting = pre_filtering(
        lambda request: request.map_text(lambda text: text.replace("a@b.de", "[email]")), "redacts"
    )
    refusing = pre_filtering(raiser(Refused(VERDICT)), "refuses")
    unreached = pre_filtering(lambda request: request.map_text(str.upper), "unreached")

    result = await answered("mail a@b.de", pre_filter=[redacting, refusing, unreached])

    assert result.exchange.request.messages[0].content == "mail [email]"
    assert result.exchange.answers == ()


@pytest.mark.parametrize(
    "end_user",
    [{"user": CANARY}, {"safety_identifier": CANARY}, {"user_security_context": {"end_user_id": CANARY}}],
    ids=lambda given: next(iter(given)),
)
async def test_the_end_user_is_retained_only_as_a_keyed_hash(end_user):
    assembly = Assembly(FakeModel())

    await collected(assembly, chat_request("hello", **end_user))

    [exchange] = assembly.exchanges
    assert exchange.user == assembly.call("hello").account.user_hash(CANARY)
    assert CANARY not in repr([getattr(exchange, field.name) for field in fields(Exchange)])
    assert CANARY not in str(exchange.request.body())
    assert assembly.model.requests[0].end_user == CANARY


async def test_redacting_the_end_user_from_what_is_retained_keeps_the_verdicts():
    annotating = pre_filtering(lambda request: request.annotate(VERDICT))

    result = await answered(chat_request("hello", user=CANARY), pre_filter=[annotating])

    assert result.exchange.request.prompt_filter_results == {0: VERDICT}


@pytest.mark.parametrize(
    ("model", "stages", "outcome"),
    [
        (FakeModel("fine"), {}, Outcome.COMPLETED),
        (FakeModel("fine"), {"pre_filter": [pre_filtering(raiser(Refused(VERDICT)))]}, Outcome.BLOCKED),
        (FakeModel("bad"), {"post_filter": [refusing_at("bad")]}, Outcome.CUT),
        (FakeModel(ValueError(CANARY)), {}, Outcome.FAILED),
        (FakeModel("fine"), {"pre_filter": [pre_filtering(raiser(ValueError(CANARY)))]}, Outcome.FAILED),
        (FakeModel("fine"), {"post_filter": [post_filtering(raiser(ValueError(CANARY)))]}, Outcome.FAILED),
    ],
)
@pytest.mark.parametrize("n", [1, 2])
async def test_every_exchange_is_retained_once_and_its_model_closed(model, stages, outcome, n):
    assembly = Assembly(model, **stages)
    opened, closed = model.opened, model.closed

    with suppress(PluginFailed, Refused):
        await collected(assembly, chat_request("hello", n=n))

    assert [exchange.outcome for exchange in assembly.exchanges] == [outcome]
    assert model.closed - closed == model.opened - opened


@pytest.mark.parametrize(
    ("model", "stages", "outcome"),
    [
        (FakeModel(), {}, Outcome.COMPLETED),
        (FakeModel(), {"pre_filter": [pre_filtering(raiser(Refused(VERDICT)))]}, Outcome.BLOCKED),
        (FakeModel(Refused(VERDICT)), {}, Outcome.BLOCKED),
        (FakeModel(ValueError(CANARY)), {}, Outcome.FAILED),
    ],
)
async def test_embeddings_are_retained_too(model, stages, outcome):
    result = await answered(embedding(("one", "two")), model, **stages)

    assert result.exchange.outcome is outcome
    assert result.exchange.request.inputs == ("one", "two")
    assert result.exchange.operation == "embeddings"
    assert result.exchange.prompt_filter_results == ({0: VERDICT} if outcome is Outcome.BLOCKED else {})
    assert result.exchange.answers == ()


async def test_embeddings_are_returned_and_counted():
    assembly = Assembly(FakeModel(usage=Usage(5)))

    returned = await assembly.pipeline.embeddings(assembly.call(embedding(("one", "two"))))

    assert len(returned.vectors) == 2
    assert assembly.exchanges[0].usage == Usage(5)


async def test_a_model_that_returns_no_embeddings_fails():
    class Mute(FakeModel):
        @hookimpl
        async def embed(self):
            return None

    result = await answered(embedding("one"), Mute())

    assert isinstance(result.error, PluginFailed)
    assert result.error.hook == "embed"


# --- the caller goes away --------------------------------------------------------------------------------------------


async def slowly(exchange, store):
    for _ in range(20):
        await asyncio.sleep(0)


class Watched:
    """A retaining plugin that takes its time, and says what it has seen when it is done."""

    def __init__(self):
        self.outcomes = []

    @hookimpl
    async def retain(self, exchange):
        await slowly(exchange, None)
        self.outcomes.append(exchange.outcome)

    @hookimpl
    async def purge(self):
        return Purged()


@pytest.fixture
def watched():
    return Watched()


def leaving(watched, n=1):
    """Return an assembly whose model never ends, and a function that reads until the first chunk and then waits for more."""
    assembly = Assembly(FakeModel("first ", asyncio.Event()), retain=[watched])
    first = asyncio.Event()

    async def read():
        async with aclosing(assembly.pipeline.chunks(assembly.call(chat_request("hello", n=n)))) as answer:
            async for _ in answer:
                first.set()

    return assembly, first, read


@pytest.mark.parametrize("n", [1, 2])
async def test_an_answer_that_is_closed_is_retained_as_abandoned(watched, n):
    assembly, _, _ = leaving(watched)
    answer = assembly.pipeline.chunks(assembly.call(chat_request("hello", n=n)))

    await anext(answer)
    await answer.aclose()

    assert watched.outcomes == [Outcome.ABANDONED]
    assert assembly.exchanges[0].answers[0].text == "first "
    assert assembly.model.closed == 1


@pytest.mark.parametrize("n", [1, 2])
async def test_an_answer_whose_reader_is_cancelled_is_retained_as_abandoned(watched, n):
    assembly, first, read = leaving(watched, n)
    reader = asyncio.create_task(read())
    await first.wait()

    reader.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reader
    assert watched.outcomes == [Outcome.ABANDONED]
    assert assembly.model.closed == 1


@pytest.mark.parametrize("n", [1, 2])
async def test_an_answer_whose_scope_is_cancelled_is_retained_as_abandoned(watched, n):
    assembly, first, read = leaving(watched, n)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await first.wait()
        group.cancel_scope.cancel()

    assert watched.outcomes == [Outcome.ABANDONED]
    assert assembly.model.closed == 1


@pytest.mark.parametrize("n", [1, 2])
async def test_every_filter_is_closed_before_the_exchange_is_retained(n):
    events = []

    def closing(name):
        async def post_filter(chunks):
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                await asyncio.sleep(0)
                events.append(name)

        return plugin_of(post_filter, name=name)

    retained = retaining(lambda exchange, store: events.append("retained") or slowly(exchange, store))
    filters = [closing("first"), closing("second")]
    assembly = Assembly(FakeModel("a", asyncio.Event()), post_filter=filters, retain=[retained])
    answer = assembly.pipeline.chunks(assembly.call(chat_request("hello", n=n)))

    await anext(answer)
    await answer.aclose()

    assert sorted(events[:-1]) == sorted(["first", "second"] * n)
    assert events[-1] == "retained"


async def test_a_reader_who_is_cancelled_twice_does_not_stop_the_retaining(watched):
    assembly, first, read = leaving(watched)
    reader = asyncio.create_task(read())
    await first.wait()

    reader.cancel()
    while not assembly.exchanges:
        await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader

    assert watched.outcomes == []
    await assembly.pipeline.drain()
    assert watched.outcomes == [Outcome.ABANDONED]


async def test_a_reader_who_leaves_stays_cancelled_though_retaining_fails():
    _, first, read = leaving(retaining(raiser(OSError(CANARY))))
    reader = asyncio.create_task(read())
    await first.wait()

    reader.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reader


async def test_embeddings_whose_caller_is_cancelled_are_retained_as_abandoned(watched):
    assembly = Assembly(FakeModel(asyncio.Event()), retain=[watched])
    caller = asyncio.create_task(assembly.pipeline.embeddings(assembly.call(embedding("one"))))
    while not assembly.model.opened:
        await asyncio.sleep(0)

    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert watched.outcomes == [Outcome.ABANDONED]
    assert assembly.model.closed == 1


# --- retaining fails -------------------------------------------------------------------------------------------------


async def never_ending(exchange, store):
    await asyncio.Event().wait()


FAULTS = {
    "raises": raiser(OSError(CANARY)),
    "raises an error for callers": raiser(InvalidRequest("hm")),
    "raises an error for the operator": raiser(StartupError("hm")),
    "refuses": raiser(Refused(VERDICT)),
    "raises CancelledError": raiser(asyncio.CancelledError()),
    "takes too long": never_ending,
}


@pytest.fixture
def short_deadline(monkeypatch):
    monkeypatch.setattr(pipeline, "RETAIN_S", 0.01)


@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_an_answer_that_cannot_be_retained_ends_with_an_error(fault, watched):
    result = await answered("hello", FakeModel("fine"), retain=[retaining(fault), watched])

    assert result.text == "fine"
    assert isinstance(result.error, PluginFailed)
    assert result.error.hook == "retain"
    assert watched.outcomes == [Outcome.COMPLETED]


@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_retaining_plugin_that_is_not_required_may_fail(fault, watched):
    result = await answered("hello", retain=[Use(retaining(fault), required=False), watched])

    assert result.error is None
    assert watched.outcomes == [Outcome.COMPLETED]


@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_embeddings_that_cannot_be_retained_are_not_returned(fault):
    result = await answered(embedding("one"), retain=[retaining(fault)])

    assert isinstance(result.error, PluginFailed)
    assert result.error.hook == "retain"


@pytest.mark.usefixtures("short_deadline")
async def test_a_retaining_plugin_that_takes_too_long_is_named_in_the_log(caplog):
    await answered("hello", retain=[Use(retaining(never_ending), required=False)])

    assert "plugin plugin failed in retain: TimeoutError" in caplog.text


async def test_a_plugin_retains_in_a_namespace_of_its_own():
    async def keep(exchange, store):
        await store.keep(exchange.id, exchange.answers[0].text.encode())

    assembly = Assembly(FakeModel("fine"), retain=[retaining(keep)])

    await collected(assembly)

    [record] = [record async for record in assembly.vault.store("contoso", "plugin").records()]
    assert (record.id, record.data) == ("call-1", b"fine")
    assert [record async for record in assembly.vault.store("contoso", "other").records()] == []


# --- content stays out of logs and errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        (FakeModel(CANARY, ValueError(CANARY)), {}),
        (FakeModel(CANARY, finish_reason=None), {}),
        (FakeModel(CANARY), {"pre_filter": [pre_filtering(raiser(ValueError(CANARY)))]}),
        (FakeModel(CANARY), {"pre_filter": [pre_filtering(lambda request: CANARY)]}),
        (FakeModel(CANARY), {"pre_filter": [pre_filtering(raiser(Refused(VERDICT)))]}),
        (FakeModel(CANARY), {"post_filter": [post_filtering(raiser(ValueError(CANARY)))]}),
        (FakeModel(CANARY), {"post_filter": [post_filtering(lambda chunk: CANARY)]}),
        (FakeModel(CANARY), {"post_filter": [refusing_at(CANARY)]}),
        (FakeModel(CANARY), {"retain": [retaining(raiser(OSError(CANARY)))]}),
    ],
)
@pytest.mark.parametrize("n", [1, 2])
async def test_neither_logs_nor_errors_quote_what_was_said(model, stages, n, caplog):
    caplog.set_level(logging.DEBUG)

    result = await answered(chat_request(CANARY, n=n, user=CANARY), model, **stages)

    assert CANARY not in caplog.text
    if result.error:
        assert CANARY not in "".join(traceback.format_exception(result.error))
        assert CANARY not in repr(result.error)


async def test_a_failure_is_logged_with_plugin_class_and_frames(caplog):
    await answered("hello", pre_filter=[pre_filtering(raiser(ValueError(CANARY)), "leaky")])

    assert "plugin leaky failed in pre_filter: ValueError" in caplog.text
    assert "in raise_it" in caplog.text
