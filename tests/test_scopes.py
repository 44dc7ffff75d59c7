"""What each category reads of a request, and that nothing a caller writes gets out of reach."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sluicegate.policies import DEFAULT_V2, ContentFilter, Source
from sluicegate.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from sluicegate.scopes import Kind, Passage, passages

SHIELDED = DEFAULT_V2.replacing(ContentFilter("Indirect Attack", Source.PROMPT))
WHOLE = replace(SHIELDED, whole_request=True)
TOOL = {"type": "function", "function": {"name": "look_up", "description": "finds things"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "call arguments"}}


def chat(*messages, **fields):
    return ChatRequest.model_validate_json(json.dumps({"messages": messages, **fields}))


def said(role, content, **fields):
    return {"role": role, "content": content, **fields}


def read_for(category, request, policy=SHIELDED):
    return [passage.value for passage in passages(request, policy) if passage.is_read_for(category, policy)]


CONVERSATION = chat(
    said("system", "be kind"),
    said("user", "first question"),
    said("assistant", "first answer"),
    said("user", "second question", name="eve"),
    said("assistant", None, tool_calls=[CALL]),
    said("tool", "what was found", tool_call_id="c1"),
    said("user", "third question"),
    tools=[TOOL],
)


def test_harms_are_looked_for_in_what_is_new_since_the_last_answer():
    assert read_for("hate", CONVERSATION) == ["what was found", "third question"]


def test_user_attacks_are_looked_for_in_every_turn_of_the_user_and_in_tools():
    assert read_for("jailbreak", CONVERSATION) == [
        "first question",
        "second question",
        "eve",
        "third question",
        "look_up\nfinds things",
    ]


def test_document_attacks_are_looked_for_in_results_of_tools():
    assert read_for("indirect_attack", CONVERSATION) == ["what was found"]


def test_a_policy_can_have_harms_looked_for_everywhere():
    everything = {text.value for text in CONVERSATION.texts()}

    read = read_for("hate", CONVERSATION, WHOLE)

    assert {part for value in read for part in value.split("\n")} == everything


def test_an_answer_that_is_only_begun_makes_nothing_old():
    begun = chat(said("user", "one"), said("assistant", "two"), said("user", "three"), said("assistant", "Sure: four"))

    assert read_for("hate", begun) == ["three", "Sure: four"]
    assert read_for("hate", chat(said("assistant", "alone"))) == ["alone"]


def test_the_first_message_is_new_and_so_is_the_system_text_with_it():
    assert read_for("hate", chat(said("system", "rules"), said("user", "question"))) == ["rules", "question"]


def test_the_parts_of_a_message_are_read_as_one_text():
    parts = [{"type": "text", "text": "kil"}, {"type": "text", "text": "ling"}]

    assert read_for("violence", chat(said("user", parts))) == ["killing"]


@pytest.mark.parametrize("field", ["image_url", "file"])
def test_images_and_files_are_not_read_as_text(field):
    part = {
        "image_url": {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        "file": {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
    }[field]

    assert not [value for value in read_for("hate", chat(said("user", [part]))) if "AAAA" in value]


def test_each_prompt_and_each_input_has_its_own_verdict():
    completion = CompletionRequest.model_validate({"prompt": ("one", "two"), "suffix": "three"})
    embedding = EmbeddingRequest.model_validate({"input": ("one", "two")})

    assert [(each.value, each.prompt_index) for each in passages(completion, SHIELDED)] == [
        ("one", 0),
        ("two", 1),
        ("three", 0),
    ]
    assert [(each.value, each.prompt_index) for each in passages(embedding, SHIELDED)] == [("one", 0), ("two", 1)]
    assert read_for("jailbreak", completion) == read_for("hate", completion) == ["one", "two", "three"]
    assert read_for("jailbreak", embedding) == read_for("hate", embedding) == ["one", "two"]


# --- documents -------------------------------------------------------------------------------------------------------


DOCUMENT = '""" <documents> a \\"quoted\\" word\\nand a line </documents> """'


def test_a_delimited_document_is_read_apart_from_the_text_around_it():
    request = chat(said("user", f"Sum up: {DOCUMENT} in a line."))

    assert passages(request, SHIELDED) == (
        Passage('a "quoted" word\nand a line', Kind.DOCUMENT),
        Passage("Sum up:   in a line.", Kind.USER),
    )


def test_what_calls_itself_a_document_is_the_users_text_where_nobody_looks_for_attacks_in_documents():
    assert read_for("jailbreak", chat(said("user", DOCUMENT)), DEFAULT_V2) == [DOCUMENT]


def test_documents_in_system_text_and_in_prompts_are_found():
    completion = CompletionRequest.model_validate({"prompt": ("one", DOCUMENT)})

    assert read_for("indirect_attack", chat(said("system", DOCUMENT), said("user", "?"))) == [
        'a "quoted" word\nand a line'
    ]
    assert [(each.kind, each.prompt_index) for each in passages(completion, SHIELDED)] == [
        (Kind.USER, 0),
        (Kind.DOCUMENT, 1),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '""" <documents> never closed',
        "<documents> without quotes </documents>",
        'closed first </documents> """ """ <documents>',
        "",
    ],
)
def test_what_is_not_delimited_right_stays_text(text):
    assert [each.kind for each in passages(chat(said("user", text)), SHIELDED)] == [Kind.USER] * bool(text)


def test_a_document_that_is_not_escaped_is_read_as_it_stands():
    assert read_for("indirect_attack", chat(said("user", '"""<documents>say "hi"</documents>"""'))) == ['say "hi"']


def test_several_documents_and_nothing_else():
    request = chat(said("user", '"""<documents>one</documents>"""\n"""<documents>two</documents>"""'))

    assert [(each.value, each.kind) for each in passages(request, SHIELDED)] == [
        ("one", Kind.DOCUMENT),
        ("two", Kind.DOCUMENT),
    ]


def test_a_million_openings_are_read_once():
    text = '"""<documents>' * 70_000

    assert read_for("jailbreak", chat(said("user", text))) == [text]
