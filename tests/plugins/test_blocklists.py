"""A blocked term never reaches the model or the wire, however it is written and however the model cuts it."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from plugins import blocklists
from sluicegate import Chunk, Refused, ToolCall
from sluicegate.errors import StartupError
from sluicegate.policies import DEFAULT_V2
from sluicegate.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from sluicegate.testing import (
    FakeModel,
    Use,
    answered,
    chat_request,
    check_chunking,
    check_plugin,
    post_filtered,
    pre_filtered,
)
from sluicegate.types import Outcome

TERM = "Project Nightjar"
LISTS = {"codenames": (TERM,)}
SPELLINGS = {
    "as it is": "Project Nightjar",
    "in another case": "pROJECT nIGHTJAR",
    "in capitals": "PROJECT NIGHTJAR",
    "full width": "".join("\u3000" if char == " " else chr(ord(char) + 0xFEE0) for char in TERM),
    "mathematical letters": "\U0001d40froject \U0001d40dightjar",
    "a letter in a circle": "Project Night\u24d9ar",
    "several spaces": "Project    Nightjar",
    "a line break": "Project\r\n\tNightjar",
    "a no-break space": "Project\u00a0Nightjar",
    "a zero-width space within": "Pro\u200bject Night\u200djar",
    "a soft hyphen within": "Project Night\u00adjar",
    "a byte order mark within": "Project \ufeffNightjar",
    "a variation selector within": "Project Night\ufe0fjar",
    "a Hangul filler within": "Project Night\u3164jar",
    "a control character within": "Project Night\x00jar",
    "direction marks around": "\u202eProject Nightjar\u202c",
    "struck through": "P\u0336roject Nightjar\u0336",
    "between quotes": "'Project Nightjar'",
    "between ideographs": "請說Project Nightjar的事",
}
NEAR_MISSES = {
    "part of a longer word": "Project Nightjars",
    "the end of a longer word": "subproject nightjar",
    "joined by an underscore": "project nightjar_2",
    "another word between": "Project the Nightjar",
    "half of it": "Project Night",
    "without the space": "ProjectNightjar",
}


def verdict(*lists):
    return {"custom_blocklists": {"filtered": True, "details": [{"filtered": True, "id": name} for name in lists]}}


CLEAN = {"custom_blocklists": {"filtered": False, "details": []}}


def test_obeys_the_rules():
    check_plugin(blocklists)


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
async def test_a_prompt_with_a_blocked_term_is_refused_however_it_is_written(spelling):
    with pytest.raises(Refused) as refused:
        await pre_filtered(blocklists, f"about {spelling}, please", lists=LISTS)

    assert refused.value.results == verdict("codenames")


@pytest.mark.parametrize("text", NEAR_MISSES.values(), ids=NEAR_MISSES)
async def test_a_prompt_without_a_blocked_term_passes_unchanged(text):
    assert await pre_filtered(blocklists, text, lists=LISTS) == text


async def test_a_clean_prompt_carries_the_verdict():
    returned = await pre_filtered(blocklists, chat_request("hello"), lists=LISTS)

    assert returned.prompt_filter_results == {0: CLEAN}


@pytest.mark.parametrize("lists", [{}, {"empty": ()}])
async def test_without_terms_everything_passes(lists):
    request = chat_request("hello")

    assert await pre_filtered(blocklists, request, lists=lists) is request
    assert await post_filtered(blocklists, "hello", lists=lists) == "hello"


async def test_every_list_with_a_term_is_named():
    lists = {"birds": ("nightjar",), "codenames": (TERM,), "fish": ("trout",)}

    with pytest.raises(Refused) as refused:
        await pre_filtered(blocklists, f"about {TERM}", lists=lists)

    assert refused.value.results == verdict("birds", "codenames")


@pytest.mark.parametrize(
    "escaped",
    [r"Project \u004eightjar", r"Project\u0020Nightjar", r"Project\nNightjar", r"\ud835\udc0f" "roject Nightjar"],
)
async def test_a_prompt_is_also_read_as_a_reader_of_json_reads_it(escaped):
    with pytest.raises(Refused):
        await pre_filtered(blocklists, f'{{"text": "{escaped}"}}', lists=LISTS)


CALL = {"id": "1", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "fine"}
USER = {"role": "user", "content": "hello"}


def messages(*given):
    return {"messages": [*given, USER]}


def tools(**function):
    return {"tools": [{"type": "function", "function": {"name": "lookup", **function}}], **messages()}


CHATS = {
    "a system message": messages({"role": "system", "content": TERM}),
    "a developer message": messages({"role": "developer", "content": TERM}),
    "a user message": messages({"role": "user", "content": TERM}),
    "an earlier answer": messages({"role": "assistant", "content": TERM}),
    "an earlier refusal": messages({"role": "assistant", "content": None, "refusal": TERM}),
    "a refusal part": messages({"role": "assistant", "content": [{"type": "refusal", "refusal": TERM}]}),
    "a content part": messages({"role": "user", "content": [{"type": "text", "text": TERM}]}),
    "a border of content parts": messages({"role": "user", "content": [{"type": "text", "text": TERM[:9]}, {"type": "text", "text": TERM[9:]}]}),
    "a text beside an image": messages({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}, {"type": "text", "text": TERM}]}),
    "an image's URL": messages({"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:{TERM}"}}]}),
    "a file's name": messages({"role": "user", "content": [{"type": "file", "file": {"filename": TERM, "file_data": "x"}}]}),
    "a user's name": messages({"role": "user", "content": "hi", "name": TERM}),
    "a system's name": messages({"role": "system", "content": "hi", "name": TERM}),
    "a tool call's name": messages({"role": "assistant", "tool_calls": [{**CALL, "function": {"name": TERM, "arguments": "{}"}}]}, RESULT),
    "a tool call's arguments": messages({"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "lookup", "arguments": json.dumps({"q": TERM})}}]}, RESULT),
    "a custom tool call's input": messages({"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "run", "input": TERM}}]}, RESULT),
    "a function call's arguments": messages({"role": "assistant", "content": None, "function_call": {"name": "lookup", "arguments": TERM}}),
    "a tool's result": messages({"role": "assistant", "tool_calls": [CALL]}, {**RESULT, "content": TERM}),
    "a part of a tool's result": messages({"role": "assistant", "tool_calls": [CALL]}, {**RESULT, "content": [{"type": "text", "text": TERM}]}),
    "a function's result": messages({"role": "function", "name": "lookup", "content": TERM}),
    "a tool's description": tools(description=TERM),
    "a key of a tool's schema": tools(parameters={"properties": {TERM: {"type": "string"}}}),
    "a value of a tool's schema": tools(parameters={"properties": {"q": {"enum": ["a", TERM]}}}),
    "a deep value of a tool's schema": tools(parameters={"a": [{"b": [[TERM]]}]}),
    "a function's description": {"functions": [{"name": "lookup", "description": TERM}], **messages()},
    "a custom tool": {"tools": [{"type": "custom", "custom": {"name": "run", "description": TERM}}], **messages()},
    "an allowed tool": {**tools(), "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"name": TERM}]}}},
    "a schema of the answer": {**messages(), "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {TERM: 1}}}},
    "the description of the answer's schema": {**messages(), "response_format": {"type": "json_schema", "json_schema": {"name": "x", "description": TERM}}},
    "a prediction": {**messages(), "prediction": {"type": "content", "content": TERM}},
    "a part of a prediction": {**messages(), "prediction": {"type": "content", "content": [{"type": "text", "text": TERM}]}},
    "a stop sequence": {**messages(), "stop": ["\n", TERM]},
    "a data source": {**messages(), "data_sources": [{"parameters": {"role_information": TERM}}]},
    "a web search's location": {**messages(), "web_search_options": {"user_location": {"city": TERM}}},
}  # fmt: skip
COMPLETIONS = {
    "a prompt": {"prompt": TERM},
    "one of several prompts": {"prompt": ["hello", TERM]},
    "a suffix": {"prompt": "hello", "suffix": TERM},
    "a stop sequence": {"prompt": "hello", "stop": TERM},
    "a prompt of token ids": {"prompt": list(TERM.encode())},
    "one of several prompts of token ids": {"prompt": [[104, 105], list(TERM.encode())]},
}
EMBEDDINGS = {
    "an input": {"input": TERM},
    "one of several inputs": {"input": ["hello", TERM]},
    "an input of token ids": {"input": list(TERM.encode())},
}
REQUESTS = [
    pytest.param(kind, body, id=f"{kind.operation}: {where}")
    for kind, bodies in ((ChatRequest, CHATS), (CompletionRequest, COMPLETIONS), (EmbeddingRequest, EMBEDDINGS))
    for where, body in bodies.items()
]


@pytest.mark.parametrize(("kind", "body"), REQUESTS)
async def test_a_blocked_term_in_any_field_the_model_reads_is_refused(kind, body):
    model = FakeModel()
    request = kind.model_validate_json(json.dumps(body))
    harmless = kind.model_validate_json(json.dumps(body).replace("Nightjar", "Nighthawk"))

    refused = await answered(request, model, pre_filter=[Use(blocklists, {"lists": LISTS})])
    passed = await answered(harmless, pre_filter=[Use(blocklists, {"lists": {"x": ("unrelated",)}})])

    assert isinstance(refused.error, Refused)
    assert model.opened == 0
    assert passed.error is None


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
async def test_a_blocked_term_in_an_answer_is_refused_however_it_is_written_and_cut(spelling):
    text = f"I know of {spelling}, yes"

    with pytest.raises(Refused) as refused:
        await post_filtered(blocklists, text, lists=LISTS)
    await check_chunking(blocklists, text, lists=LISTS)

    assert refused.value.results == verdict("codenames")


@pytest.mark.parametrize("text", NEAR_MISSES.values(), ids=NEAR_MISSES)
async def test_an_answer_without_a_blocked_term_passes_however_it_is_cut(text):
    text = f"I know of {text}, yes"

    assert await post_filtered(blocklists, text, lists=LISTS) == text
    await check_chunking(blocklists, text, lists=LISTS)


@pytest.mark.parametrize("text", [TERM, f"{TERM}.", f"{TERM} ", f"{TERM}\n\n", f"about {TERM}", f"{TERM} again {TERM}"])
async def test_a_blocked_term_at_either_end_is_refused(text):
    with pytest.raises(Refused):
        await post_filtered(blocklists, text, lists=LISTS)
    await check_chunking(blocklists, text, lists=LISTS)


async def test_what_precedes_a_blocked_term_is_sent_and_the_rest_is_withheld():
    model = FakeModel("I know ", "of Pro", "ject", " Night", "jar", ", yes")

    result = await answered("hello", model, post_filter=[Use(blocklists, {"lists": LISTS})])

    assert result.text == "I know of "
    assert result.chunks[-1] == Chunk(finish_reason="content_filter", content_filter_results=verdict("codenames"))
    [answer] = result.exchange.answers
    assert (answer.text, answer.withheld) == ("I know of ", "Project Nightjar, yes")
    assert result.exchange.outcome is Outcome.CUT


async def test_a_clean_answer_carries_the_verdict_at_its_end():
    result = await answered("hello", FakeModel("fine"), post_filter=[Use(blocklists, {"lists": LISTS})])

    assert result.chunks == (Chunk("fine"), Chunk(finish_reason="stop", content_filter_results=CLEAN))


async def test_the_character_before_the_held_text_decides_whether_a_word_begins():
    lists = {"a": ("jar",)}

    assert await post_filtered(blocklists, [Chunk("night"), Chunk("jar"), Chunk(finish_reason="stop")], lists=lists)
    with pytest.raises(Refused):
        await post_filtered(blocklists, [Chunk("night-"), Chunk("jar"), Chunk(finish_reason="stop")], lists=lists)


@pytest.mark.parametrize(
    ("term", "blocked", "passes"),
    [
        ("夜鷹", "我知道夜鷹計劃", "我知道夜 鷹"),
        ("夜鷹", "夜鷹", "夜"),
        ("プロジェクト", "新プロジェクトの", "プロジェク"),
        ("ガ", "ｶﾞ", "カ"),
        ("かぎ", "かき\u3099", "かき"),
        ("かき", "かきの木", "かぎの木"),
        ("ลับ", "ความลับมาก", "ความลั"),
        ("나이트", "나이트 ", "나이트자르"),
        ("나이트", unicodedata.normalize("NFD", "나이트"), unicodedata.normalize("NFD", "나이틈")),
        ("müller", "mu\u0308ller", "muller"),
        ("mu\u0308ller", "MÜLLER", "mülller"),
        ("cafe", "cafe\u0336", "cafe\u0301"),
        ("über", "u\u0308ber", "uber"),
        ("straße", "STRASSE", "strase"),
        ("ﬁne print", "fine print", "fine prints"),
        ("c++", "c++", "c+ +"),
        ("C++", "objective-c++14", "objective-c+14"),
        ("#hash", "a#hash", "#hashes"),
        ("a.b", "a.b", "a,b"),
        ("東京2020", "東京2020", "東京20200"),
        ("istanbul", "İstanbul", "istanbull"),
        ("😀", "oh 😀!", "oh 😁!"),
        ("कि", "कि", "की"),
        ("क", "क", "कि"),
    ],
)
async def test_letters_of_any_script_are_matched_as_their_readers_would(term, blocked, passes):
    lists = {"a": (term,)}

    with pytest.raises(Refused):
        await pre_filtered(blocklists, blocked, lists=lists)
    with pytest.raises(Refused):
        await post_filtered(blocklists, blocked, lists=lists)
    assert await pre_filtered(blocklists, passes, lists=lists) == passes
    assert await post_filtered(blocklists, passes, lists=lists) == passes
    await check_chunking(blocklists, blocked, lists=lists)
    await check_chunking(blocklists, passes, lists=lists)


@pytest.mark.parametrize(
    ("lists", "text", "sent", "named"),
    [
        ({"long": ("a b c",), "short": ("b",)}, "x a b c", "x a ", ("short",)),
        ({"long": ("夜鷹計劃",), "short": ("夜鷹",)}, "說夜鷹計劃", "說", ("short",)),
        ({"inner": ("b",), "outer": ("a b",)}, "x a b", "x ", ("inner", "outer")),
        ({"one": ("a b",), "two": ("b c",)}, "x a b c", "x ", ("one",)),
        ({"two": ("a B",), "one": ("A b",)}, "x a b", "x ", ("two", "one")),
        ({"undecided": ("c",), "longer": ("a b cd",)}, "x a b cd", "x ", ("longer",)),
        ({"prefix": ("中文",), "word": ("中文x",)}, "說中文xy", "說", ("prefix",)),
    ],
)
async def test_of_overlapping_terms_the_one_complete_first_counts(lists, text, sent, named):
    result = await answered("hello", text, post_filter=[Use(blocklists, {"lists": lists})])

    assert result.text == sent
    assert result.chunks[-1].content_filter_results == verdict(*named)
    await check_chunking(blocklists, text, lists=lists)


ALPHABET = ["a", "b", "A", " ", "\n", "-", "é", "e", "\u0301", "\u200b", "中", "か", "\u3099", "ﬁ", "\\", "u0061"]


@given(
    terms=st.lists(st.text(alphabet="aAbeé -中かfi", min_size=1, max_size=5), min_size=1, max_size=4),
    pieces=st.lists(st.lists(st.sampled_from(ALPHABET), max_size=4).map("".join), max_size=8),
)
@example(terms=["c", "a b cd"], pieces=["a b c", "d"])
@example(terms=["éa"], pieces=["e", "\u0301a"])
async def test_any_cut_of_any_text_gives_the_same_result_and_never_a_blocked_term(terms, pieces):
    terms = [term for term in terms if term.strip()]
    assume(terms)
    lists = {f"list-{number}": (term,) for number, term in enumerate(terms)}
    whole = "".join(pieces)
    assume("\\" not in whole)

    uncut = await answered("hello", FakeModel(whole), post_filter=[Use(blocklists, {"lists": lists})])
    cut = await answered("hello", FakeModel(*pieces), post_filter=[Use(blocklists, {"lists": lists})])

    assert (cut.text, cut.finish_reasons) == (uncut.text, uncut.finish_reasons)
    assert cut.chunks[-1].content_filter_results == uncut.chunks[-1].content_filter_results
    assert await is_clean(cut.text, lists)
    assert (uncut.finish_reasons == {0: "stop"}) is await is_clean(whole, lists)


@given(
    terms=st.lists(st.text(alphabet="abé -", min_size=1, max_size=4), min_size=1, max_size=3),
    pieces=st.lists(
        st.text(alphabet="ab -", max_size=3) | st.sampled_from(["\\", "\\u0061", "u00", "e9", '\\"']), max_size=9
    ),
)
@example(terms=["a b"], pieces=["\\u006", "1 b"])
@example(terms=["a"], pieces=["\\u0061", "\\", "a"])
async def test_a_blocked_term_is_never_sent_with_escapes_in_it_either(terms, pieces):
    terms = tuple(term for term in terms if term.strip())
    assume(terms)

    result = await answered("hello", FakeModel(*pieces), post_filter=[Use(blocklists, {"lists": {"a": terms}})])

    assert await is_clean(result.text, {"a": terms})
    assert (result.finish_reasons == {0: "stop"}) is await is_clean("".join(pieces), {"a": terms})


async def is_clean(text, lists):
    """Whether the pre-filter, which sees a text whole, finds nothing in it."""
    try:
        await pre_filtered(blocklists, text, lists=lists)
    except Refused:
        return False
    return True


# --- what else an answer says ----------------------------------------------------------------------------------------

ESCAPED = {
    "plain": TERM,
    "a letter escaped": r"Project \u004eightjar",
    "every letter escaped": "".join(f"\\u{ord(char):04x}" for char in TERM),
    "in upper-case hexadecimal": r"Project \u004Eightjar",
    "a line break escaped": r"Project\nNightjar",
    "a tab and a space": r"Project\t Nightjar",
    "an astral letter escaped": r"Project \ud835\udc0dightjar",
    "an invisible character escaped": r"Project Night\u200bjar",
}


@pytest.mark.parametrize("escaped", ESCAPED.values(), ids=ESCAPED)
async def test_a_blocked_term_in_tool_arguments_is_refused_however_it_is_escaped_and_cut(escaped):
    text = f'{{"q": "{escaped}", "n": 1}}'
    call = Chunk(tool_calls=(ToolCall(0, "call-1", "lookup", text),), finish_reason="tool_calls")

    with pytest.raises(Refused):
        await post_filtered(blocklists, [call], lists=LISTS)
    await check_chunking(blocklists, text, finish_reason="tool_calls", lists=LISTS)


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("and/or", r"and\/or"),
        ('say "hi"', r"say \"hi\""),
        (r"\\server\share", r"\\\\server\\share"),
        ("nightjar", r"C:\nightjar"),
        ("a😀", r"a\ud83d\ude00"),
        ("u0041", r"\\u0041"),
        ("b c", r"a\u0020\u0062\u0020c"),
    ],
)
async def test_text_with_backslashes_is_read_both_ways(term, text):
    lists = {"a": (term,)}

    with pytest.raises(Refused):
        await post_filtered(blocklists, text, lists=lists)
    with pytest.raises(Refused):
        await pre_filtered(blocklists, text, lists=lists)
    await check_chunking(blocklists, text, lists=lists)


@pytest.mark.parametrize(
    "text", [r"Project \\u004eightjar", r"Project \u00", "Project \\", r"Project \ud835", r"\x \u zz"]
)
async def test_broken_and_doubled_escapes_pass_as_they_are(text):
    assert await post_filtered(blocklists, text, lists=LISTS) == text
    await check_chunking(blocklists, text, lists=LISTS)


async def test_a_blocked_term_in_a_refusal_is_refused():
    with pytest.raises(Refused):
        await post_filtered(
            blocklists, [Chunk(refusal=f"I will not talk about {TERM}."), Chunk(finish_reason="stop")], lists=LISTS
        )


@pytest.mark.parametrize("pieces", [["night_jar"], ["night", "_jar"]])
async def test_a_blocked_term_in_a_tools_name_is_refused(pieces):
    calls = [Chunk(tool_calls=(ToolCall(0, "call-1", piece),)) for piece in pieces]
    model = FakeModel(*calls, finish_reason="tool_calls")

    result = await answered("hello", model, post_filter=[Use(blocklists, {"lists": {"a": ("night_jar",)}})])

    assert result.finish_reasons == {0: "content_filter"}
    assert result.exchange.answers[0].tool_calls == ()


async def test_terms_do_not_reach_across_calls_or_choices():
    halves = (ToolCall(0, "a", "find", '"Project "'), ToolCall(1, "b", "find", '"Nightjar"'))
    chunks = [Chunk("Project "), Chunk(tool_calls=halves), Chunk(refusal="Nightjar"), Chunk(finish_reason="stop")]

    passed = await post_filtered(blocklists, chunks, lists=LISTS)

    assert passed[:-1] == tuple(chunks[:-1])


async def test_held_text_is_not_sent_when_the_model_fails():
    model = FakeModel("I know of Project", ValueError("lost"))

    result = await answered("hello", model, post_filter=[Use(blocklists, {"lists": LISTS})])

    assert result.chunks == ()
    assert result.exchange.outcome is Outcome.FAILED


async def test_text_is_held_only_while_it_could_become_a_blocked_term():
    async def pieces():
        for text in ("The subpro", "ject ", "Project ", "Night", "fall came"):
            taken.append(text)
            yield Chunk(text)

    taken = []
    config = blocklists.Config(lists=LISTS)
    passed = {}
    async for chunk in blocklists.post_filter(pieces(), chat_request("hello"), DEFAULT_V2, config):
        passed[chunk.text] = len(taken)

    assert passed == {"The subpro": 1, "ject ": 2, "Project ": 5, "Night": 5, "fall came": 5}


async def test_log_probabilities_stay_where_nothing_is_cut():
    logprobs = {"content": [{"token": "x", "logprob": -0.5}]}
    chunks = [Chunk("about Pro", logprobs=logprobs), Chunk("jects", logprobs=logprobs), Chunk(finish_reason="stop")]

    passed = await post_filtered(blocklists, chunks, lists=LISTS)

    assert passed[:2] == tuple(chunks[:2])


async def test_a_chunk_that_is_cut_loses_its_log_probabilities():
    logprobs = {"content": [{"token": "x", "logprob": -0.5}]}
    model = FakeModel(Chunk(f"about {TERM} ", logprobs=logprobs))

    result = await answered("hello", model, post_filter=[Use(blocklists, {"lists": LISTS})])

    assert result.chunks[0] == Chunk("about ")


async def test_lone_surrogates_pass():
    text = "a \ud835 b \udc0d Project \ud800"

    assert await post_filtered(blocklists, text, lists=LISTS) == text
    await check_chunking(blocklists, text, lists=LISTS)


@pytest.mark.parametrize("char", ["z", " ", "中", "\u0301", "\\"])
async def test_a_megabyte_of_one_character_passes(char):
    text = char * (1 << 20)
    lists = {"a": ("z" * 50 + "y", "中" * 20 + "文", TERM)}

    assert await post_filtered(blocklists, [Chunk(text), Chunk(finish_reason="stop")], lists=lists)
    assert await pre_filtered(blocklists, text, lists=lists) == text


@pytest.mark.parametrize("char", ["\n", "\u200b", "\u0301"])
async def test_what_is_held_costs_no_more_the_longer_it_gets(char):
    model = FakeModel("Project ", *[char * 2] * 5_000, "Nightjar")

    result = await answered("hello", model, post_filter=[Use(blocklists, {"lists": LISTS})])

    assert result.text == ""
    assert result.finish_reasons == {0: "content_filter"}


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["", " ", "\u200b", "\n\t", "\u0301"])
async def test_an_empty_term_would_block_everything_and_stops_the_start(term):
    with pytest.raises(StartupError, match="list 'a' holds an empty term"):
        await pre_filtered(blocklists, "hello", lists={"a": ("fine", term)})


async def test_terms_are_not_quoted_when_settings_are_wrong():
    with pytest.raises(StartupError) as error:
        await pre_filtered(blocklists, "hello", lists={"a": (TERM, 7)})

    assert "lists.a.1" in str(error.value)
    assert "Nightjar" not in str(error.value)
