"""Every code of a finding: how bad it is, what it means and what to do. Docs and reports take their words from here."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """An error stops a job; a warning is worth a look."""

    ERROR = "error"
    WARNING = "warning"


class Code(NamedTuple):
    """One kind of finding.

    Attributes:
        what: What is wrong, as a sentence without the value that is wrong.
        fix: What to do about it.
    """

    severity: Severity
    what: str
    fix: str


def _error(what: str, fix: str) -> Code:
    return Code(Severity.ERROR, what, fix)


def _warning(what: str, fix: str) -> Code:
    return Code(Severity.WARNING, what, fix)


_FILE: Mapping[str, Code] = {
    "file_empty": _error("The file has no example.", "Write one JSON object per line."),
    "file_too_large": _error("The file is larger than 512 MiB.", "Split it, or train on fewer examples."),
    "encoding_utf16": _error("The file is UTF-16 or UTF-32; nothing else was checked.", "Save it as UTF-8."),
    "too_few_examples": _error("Fewer than 10 examples are without errors.", "Add examples; hundreds are better."),
}
_LINE: Mapping[str, Code] = {
    "line_too_long": _error("The line is longer than 4 MiB; it was not read.", "Split the conversation."),
    "line_blank": _warning("The line is blank; it is skipped.", "Delete it."),
    "nul_byte": _error("The line has a NUL byte.", "Delete it; look for a file cut off or copied badly."),
    "bom_misplaced": _error("A byte order mark inside the file.", "Delete it; files were joined with theirs."),
    "utf8_invalid": _error("The line is not UTF-8.", "Save the file as UTF-8."),
    "character_replaced": _warning(
        "U+FFFD stands where a character was lost in an earlier conversion.", "Convert the source again."
    ),
    "json_array": _error("The file is one JSON array.", "Write each element on a line of its own, without commas."),
    "json_incomplete": _error(
        "The object does not end on its line.", "Write each object on one line; look for a file that is cut off."
    ),
    "json_trailing": _error("Something follows the object.", "Write one object per line, without commas between."),
    "json_control_character": _error("A control character is not escaped.", "Escape it, as \\n or \\u00XX."),
    "json_surrogate": _error("An escape is half of a surrogate pair.", "Escape both halves, or write the character."),
    "json_too_deep": _error("The object is nested too deeply.", "Nest less than 200 deep."),
    "json_number": _error("A number has too many digits.", "Write it as a string."),
    "json_invalid": _error("The line is not JSON.", "Write it with a JSON library; Python's dict syntax is not JSON."),
    "not_an_object": _error("The line is JSON but no object.", "Write an object, such as one with 'messages'."),
}
_FORMAT: Mapping[str, Code] = {
    "format_unknown": _error(
        "The object is of no known format.",
        "Give it 'messages', or 'prompt' and 'completion', or 'input', 'preferred_output' and 'non_preferred_output'.",
    ),
    "format_mixed": _error("The format is not that of the first example.", "Keep one format in each file."),
    "field_missing": _error("A required field is missing.", "Add it."),
    "field_unknown": _error(
        "A field that is not known here; * stands for its name.", "Delete or rename it: nobody would read it."
    ),
    "type_wrong": _error("The value is of the wrong type.", "Look up the field's type in docs/fine-tuning-data.md."),
    "list_empty": _error("The list is empty.", "Fill it, or leave the field out if it is optional."),
    "prompt_empty": _error("The prompt is empty.", "Write what the model will be asked."),
}
_MESSAGES: Mapping[str, Code] = {
    "role_unknown": _error(
        "The role is not known.", "Use system, developer, user, assistant, tool or, in older data, function."
    ),
    "role_misplaced": _error("An output has a role other than assistant and tool.", "Move the message to 'input'."),
    "role_order": _warning("A system or developer message follows others.", "Move it to the beginning."),
    "role_repeated": _warning(
        "Two messages in a row have the role user, or assistant.", "Join them, or look for one that is missing."
    ),
    "starts_with_answer": _warning("The conversation starts with an answer.", "Put what was asked before it."),
    "no_answer": _error("No message has the role assistant.", "Add the answer to learn."),
    "ends_without_answer": _error(
        "The last message is not the assistant's.", "Add the answer, or cut what follows it."
    ),
    "input_ends_with_answer": _warning("The input ends with an answer.", "Move it to the outputs."),
    "answer_empty": _error("The answer is empty.", "Write it, or delete the example."),
    "answer_truncated": _warning(
        "The answer seems to stop within a sentence or a code block.", "Complete it: models learn to stop there."
    ),
    "content_empty": _warning("The message is empty.", "Write it, or delete it."),
    "part_unknown": _error("The content part is of a type that is not known.", "Use text or image_url."),
    "image": _warning("The example has an image.", "Train a model that sees, or delete the example."),
    "image_misplaced": _error("An image outside a user's message.", "Move it to a message of the user."),
    "name_invalid": _error("The name has a forbidden character or length.", "Use 1 to 64 of A-Z a-z 0-9 _ -."),
    "weight_invalid": _error("The weight is neither 0 nor 1.", "Use the number 0 or 1, or leave it out."),
    "weight_misplaced": _error("Only answers have a weight.", "Delete it here; nothing else is learned."),
    "weights_zero": _error("Each answer has the weight 0: nothing is learned.", "Give one the weight 1."),
    "outputs_equal": _error("Both outputs are the same.", "Prefer one over something else, or delete the example."),
}
_TOOLS: Mapping[str, Code] = {
    "tool_type": _error("The type is not 'function'.", "Use function; no other type can be trained."),
    "tool_repeated": _error("Two tools have this name.", "Delete or rename one."),
    "tool_schema": _error(
        "The parameters are no JSON schema of an object.", "Correct 'type', 'properties', 'required'."
    ),
    "tool_unknown": _error(
        "The called function is not among the example's tools.", "Add it to 'tools' or 'functions'."
    ),
    "arguments_invalid": _error("The arguments are no JSON object in a string.", "Encode them as the model must."),
    "arguments_mismatch": _warning(
        "The arguments do not fit the function's parameters.", "Correct the call, or the schema."
    ),
    "call_id_repeated": _error("Two calls have this id.", "Give each call an id of its own."),
    "call_id_dangling": _error("No call before this result has this id.", "Correct it; add the call if it is missing."),
    "call_unanswered": _error("The conversation goes on without this call's result.", "Add it, as a tool message."),
    "result_without_call": _error("No function call comes before this result.", "Add the call, or delete the result."),
}
_FILES: Mapping[str, Code] = {
    "context_exceeded": _error("The example has more tokens than the context.", "Shorten or split it."),
    "context_exceeded_estimate": _warning(
        "The example has more tokens than the context, by an estimate from its characters.", "Shorten or split it."
    ),
    "duplicate": _warning("An earlier line has the same example.", "Delete one, or use n_epochs to repeat."),
    "duplicate_normalised": _warning(
        "An earlier line has the same example but for case, spaces and punctuation.", "Delete one."
    ),
    "answers_differ": _warning("An earlier line has the same prompt with another answer.", "Decide for one."),
    "leak": _warning("The training file has the same example.", "Delete it from one: the loss would look too good."),
    "leak_prompt": _warning("The training file has the same prompt.", "Validate on what was not trained on."),
    "format_differs": _error("The format is not that of the training file.", "Write both files in one format."),
}
CODES: Mapping[str, Code] = {**_FILE, **_LINE, **_FORMAT, **_MESSAGES, **_TOOLS, **_FILES}
"""Code -> what it means. Codes are never renamed, so that programs can rely on them."""

UNREADABLE = frozenset(name for name, code in {**_LINE, **_FILE}.items() if code.severity is Severity.ERROR) - {
    "too_few_examples"
}
"""Codes of what is no JSON Lines at all, whatever a job would make of its examples."""
