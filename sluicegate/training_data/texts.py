"""Every text of an example that a model would read or learn: for whoever looks at what the examples say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json

from sluicegate.types import TextSource

_CONVERSATIONS: Mapping[str, TextSource] = {
    "messages": "prompt",
    "preferred_output": "completion",
    "non_preferred_output": "completion",
}
_LISTS = frozenset({"tools", "functions"})
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class Text(NamedTuple):
    """A text, and whether the model would read it (``prompt``) or learn to write it (``completion``)."""

    value: str
    source: TextSource


class HasImage(ValueError):
    """An example has an image, which is no text."""


def texts(row: Mapping[str, Any]) -> Iterator[Text]:
    """Yield the texts of an example of any format, right or wrong: what is not known is read as well.

    A message's content is one text, and so are a call with its arguments, and a tool with its description and schema. Strings that
    hold JSON, as arguments do, are undone: an escape hides nothing.

    Raises:
        HasImage: A content part is an image.
    """
    for field, value in row.items():
        if field in _CONVERSATIONS and isinstance(value, list):
            for message in value:
                yield from _message(message, _CONVERSATIONS[field])
        elif field == "input" and isinstance(value, dict):
            yield from texts(value)
        elif field in _LISTS and isinstance(value, list):
            yield from (Text(_joined(tool), "prompt") for tool in value)
        elif field in ("prompt", "completion") and isinstance(value, str):
            yield Text(value, "completion" if field == "completion" else "prompt")
        elif field != "parallel_tool_calls":
            yield Text(_joined({field: value}), "prompt")


def _message(message: Any, source: TextSource) -> Iterator[Text]:
    if not isinstance(message, dict):
        yield Text(_joined(message), source)
        return
    if message.get("role") == "assistant":
        source = "completion"
    for field, value in message.items():
        if field == "role" and isinstance(value, str) and value in _ROLES:
            continue
        if field == "tool_calls" and isinstance(value, list):
            yield from (Text(_joined(call), source) for call in value)
        elif field == "content" and isinstance(value, list):
            yield Text("\n".join(map(_part, value)), source)
        elif isinstance(value, str) and field in ("content", "name", "refusal"):
            yield Text(value, source)
        else:
            yield Text(_joined({field: value}), source)


def _part(part: Any) -> str:
    if isinstance(part, dict):
        if part.get("type") == "image_url" or "image_url" in part:
            raise HasImage
        if part.keys() == {"type", "text"} and isinstance(part["text"], str):
            return part["text"]
    return _joined(part)


def _joined(value: Any) -> str:
    return "\n".join(_strings(value))


def _strings(value: Any) -> Iterator[str]:
    """Yield the strings in a value and the names of its fields, in their order."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            waiting += reversed(value)
        elif isinstance(value, dict):
            for key, item in reversed(value.items()):
                waiting += (_undone(item) if key == "arguments" else item, key)


def _undone(arguments: Any) -> Any:
    """Return what a string of JSON says; itself if it is none."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return from_json(arguments, cache_strings="none")
    except ValueError:
        return arguments
