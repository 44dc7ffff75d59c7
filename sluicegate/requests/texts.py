"""Every text in a request: found, and changed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluicegate.requests.messages import TextPart
from sluicegate.requests.parts import Part

_PROMPT = re.compile(r"(?:prompt|input)\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a request.

    Attributes:
        value: The text; the text parts of one message's content are joined.
        role: The message's role, or ``tool`` for definitions, ``prompt``, ``suffix``, ``input``, ``prediction``, ``other``.
        where: Path in the request, such as ``messages[2].content``.
    """

    value: str
    role: str
    where: str

    @property
    def prompt_index(self) -> int:
        """Which of several prompts, or inputs, it belongs to."""
        found = _PROMPT.match(self.where)
        return int(found[1]) if found else 0


ROLES = {
    "tools": "tool",
    "functions": "tool",
    "prompt": "prompt",
    "suffix": "suffix",
    "input": "input",
    "prediction": "prediction",
}
"""The role of what is in a field, where no message has one."""


def texts_of(value: object, where: str, role: str) -> Iterator[Text]:
    """Yield every text in part of a request, outermost first."""
    if isinstance(value, str):
        if value:
            yield Text(value, role, where)
    elif isinstance(value, Part):
        role = getattr(value, "role", role)
        for name, item in value.readable():
            alias = type(value).model_fields[name].alias
            yield from texts_of(item, f"{where}.{alias or name}", role)
    elif isinstance(value, tuple | list):
        # A term cut in two by a content-part border is one term to the model, so parts in a row are read as one text.
        number = 0
        for run in _runs(value):
            place = where if len(run) == len(value) > 1 else f"{where}[{number}]"
            if len(run) > 1:
                yield from texts_of("".join(part.text for part in run), place, role)
            else:
                yield from texts_of(run[0], f"{where}[{number}]", role)
            number += len(run)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_of(key, where, role)
            yield from texts_of(item, f"{where}.{key}", role)


def mapped(value: object, change: Callable[[str], str]) -> object:
    """Return part of a request with ``change`` applied to every text in it."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Part):
        given = value.model_fields_set
        changed = {name: mapped(item, change) for name, item in value.readable() if name in given}
        return value.model_copy(update=changed)
    if isinstance(value, tuple | list):
        return type(value)(part for run in _runs(value) for part in _mapped_run(run, change))
    if isinstance(value, Mapping):
        return {change(key): mapped(item, change) for key, item in value.items()}
    return value


def _runs(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield text parts that follow each other together, and everything else alone."""
    for is_text, group in itertools.groupby(items, lambda item: isinstance(item, TextPart)):
        members = list(group)
        yield from [members] if is_text else [[member] for member in members]


def _mapped_run(run: list[Any], change: Callable[[str], str]) -> list[Any]:
    parts: list[Any] = [mapped(item, change) for item in run]
    if len(run) > 1:
        whole = change("".join(part.text for part in run))
        if whole != "".join(part.text for part in parts):
            return [run[0].model_copy(update={"text": whole})]
    return parts
