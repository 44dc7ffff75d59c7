"""The three formats of a row: a conversation, a prompt with its completion, and an answer preferred over another."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic_core import to_json

from sluicegate.training_data.findings import Path, Say
from sluicegate.training_data.messages import Conversation, is_cut_off
from sluicegate.training_data.tools import Functions, check_fields, offered


class Format(StrEnum):
    """How a file writes its examples."""

    CHAT = "chat"
    COMPLETION = "completion"
    PREFERENCE = "preference"


class Example(NamedTuple):
    """The text of a row, for counts and comparisons; it is never kept.

    Attributes:
        prompt: Roles, texts, names and tools, in order, but for the answer.
        answer: Of a preference both outputs; empty for a conversation that ends with a call.
        messages: How many there are, a prompt and a completion counting one each.
        learned: What is guessed the language of: the last answer.
    """

    format: Format
    prompt: str
    answer: str
    messages: int
    learned: str


_OFFERS = frozenset({"tools", "functions", "parallel_tool_calls"})
_CHAT = _OFFERS | {"messages"}
_COMPLETION = frozenset({"prompt", "completion"})
_PREFERENCE = frozenset({"input", "preferred_output", "non_preferred_output"})
_BETWEEN = "\x1f"


def read_row(row: Mapping[str, Any], say: Say) -> Example | None:
    """Check one row; None if it is of no known format."""
    if "messages" in row:
        return _chat(row, say)
    if not _PREFERENCE.isdisjoint(row):
        return _preference(row, say)
    if not _COMPLETION.isdisjoint(row):
        return _completion(row, say)
    say("format_unknown", ())
    return None


def _chat(row: Mapping[str, Any], say: Say) -> Example:
    functions: Functions = {}
    if len(row) > 1:
        check_fields(row, _CHAT, (), say)
        functions = offered(row, (), say)
    conversation = Conversation(functions, say)
    conversation.check(row["messages"], ("messages",))
    conversation.must_end_with_answer(("messages",))
    texts, answer = conversation.texts, conversation.last_answer
    prompt = texts if answer is None else texts[:-1]
    return Example(Format.CHAT, _joined(prompt, row), answer or "", conversation.length, answer or "")


def _completion(row: Mapping[str, Any], say: Say) -> Example:
    check_fields(row, _COMPLETION, (), say)
    texts = {}
    for field in ("prompt", "completion"):
        text = row.get(field)
        if not isinstance(text, str):
            say("field_missing" if text is None else "type_wrong", (field,))
            text = ""
        elif not text.strip():
            say("prompt_empty" if field == "prompt" else "answer_empty", (field,))
        texts[field] = text
    if is_cut_off(texts["completion"]):
        say("answer_truncated", ("completion",))
    return Example(Format.COMPLETION, texts["prompt"], texts["completion"], 2, texts["completion"])


def _preference(row: Mapping[str, Any], say: Say) -> Example:
    check_fields(row, _PREFERENCE, (), say)
    given = row.get("input")
    if not isinstance(given, dict):
        say("field_missing" if given is None else "type_wrong", ("input",))
        given = {}
    else:
        check_fields(given, _CHAT, ("input",), say)
    functions = offered(given, ("input",), say)
    asked = Conversation(functions, say)
    if given:
        asked.check(given.get("messages"), ("input", "messages"))
        asked.must_not_end_with_answer(("input", "messages"))
    outputs = [_output(row.get(field), (field,), functions, say) for field in sorted(_PREFERENCE - {"input"})]
    non_preferred, preferred = outputs
    if preferred.texts and preferred.texts == non_preferred.texts:
        say("outputs_equal", ("non_preferred_output",))
    answers = _BETWEEN.join([*preferred.texts, "\x1e", *non_preferred.texts])
    length = asked.length + preferred.length + non_preferred.length
    return Example(Format.PREFERENCE, _joined(asked.texts, given), answers, length, preferred.last_answer or "")


def _output(found: Any, path: Path, functions: Functions, say: Say) -> Conversation:
    output = Conversation(functions, say, is_output=True)
    output.check(found, path)
    if output.length and not output.has_answer:
        say("no_answer", path)
    return output


def _joined(texts: list[str], offers: Mapping[str, Any]) -> str:
    joined = _BETWEEN.join(texts)
    if len(offers) == 1:
        return joined
    tools = to_json({field: offers[field] for field in sorted(_OFFERS) if field in offers}, inf_nan_mode="strings")
    return joined + _BETWEEN + tools.decode()
