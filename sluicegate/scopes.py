"""Which texts of a request a category of the content filter reads.

* **Harms, profanity and the like** read what is new since the last assistant message: the user's text, tool results and
  documents. Earlier turns were read when they were new, so one old message cannot block a conversation for good.
  A policy with ``whole_request`` has them read everything, system text and the assistant's included.
* **Attacks** read the whole request, because an old one still works: ``jailbreak`` the user's text of every turn and the
  definitions of tools, ``indirect_attack`` documents and tool results. Neither reads system text: what a developer tells
  the model reads just like what an attacker does.

Blocklists need no scope: they read ``request.texts()``. Images, audio and files are not text, and are not read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from sluicegate.policies import Policy, Source
from sluicegate.requests import ChatRequest, Request, Text


class Kind(StrEnum):
    """Whose words a passage has."""

    USER = "user"
    """Messages of the user, prompts and suffixes, inputs to embed."""
    DOCUMENT = "document"
    """Results of tools and functions, and documents between Azure's delimiters in any text."""
    DEFINITION = "definition"
    """Tools, schemas, and all else outside messages."""
    INSTRUCTION = "instruction"
    """Messages of the system and the developer."""
    ASSISTANT = "assistant"
    """Answers of earlier turns, or the beginning of the next, with their tool calls."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of a request, or of a document in it.

    Attributes:
        is_new: Whether it came since the last assistant message.
        prompt_index: Whose verdict it counts for.
    """

    value: str
    kind: Kind
    is_new: bool = True
    prompt_index: int = 0

    def is_read_for(self, category: str, policy: Policy) -> bool:
        """Return whether a category, by its key on the wire, reads it as a part of a prompt."""
        if category == "indirect_attack":
            return self.kind is Kind.DOCUMENT
        if category == "jailbreak":
            return self.kind in (Kind.USER, Kind.DEFINITION)
        return self.is_new or policy.whole_request


def passages(request: Request, policy: Policy) -> tuple[Passage, ...]:
    """Return a request's texts as categories read them, in its order."""
    found = _of_chat(request) if isinstance(request, ChatRequest) else _of_prompts(request)
    if policy.is_on("indirect_attack", Source.PROMPT):
        return tuple(part for passage in found for part in _split(passage))
    # Nobody would look for attacks in documents, so what a user passes off as one stays the user's text.
    return tuple(found)


# --- kinds -----------------------------------------------------------------------------------------------------------

_ROLES = {
    "user": Kind.USER,
    "tool": Kind.DOCUMENT,
    "function": Kind.DOCUMENT,
    "system": Kind.INSTRUCTION,
    "developer": Kind.INSTRUCTION,
    "assistant": Kind.ASSISTANT,
}
_PLACE = re.compile(r"[a-z_]+(?:\[(\d+)\])?")
"""The field of a text, and which of its items it is in."""


def _of_chat(request: ChatRequest) -> Iterator[Passage]:
    first_new = _first_new(request)
    for place, group in groupby(_texts(request), lambda text: _place(text)[0]):
        texts = list(group)
        if not place.startswith("messages"):
            # A tool is one text: its many names and descriptions mean something together only.
            yield Passage("\n".join(text.value for text in texts), Kind.DEFINITION, is_new=False)
            continue
        for text in texts:
            yield Passage(text.value, _ROLES[text.role], is_new=_place(text)[1] >= first_new)


def _of_prompts(request: Request) -> Iterator[Passage]:
    for text in _texts(request):
        is_prompt = text.role in ("prompt", "suffix", "input")
        yield Passage(text.value, Kind.USER if is_prompt else Kind.DEFINITION, is_prompt, text.prompt_index)


def _texts(request: Request) -> Iterator[Text]:
    return (text for text in request.texts() if not _is_media(text))


def _is_media(text: Text) -> bool:
    return text.where.endswith((".image_url.url", ".file_data")) and text.value[:5].lower() == "data:"


def _place(text: Text) -> tuple[str, int]:
    found: Any = _PLACE.match(text.where)
    return found[0], int(found[1] or 0)


def _first_new(request: ChatRequest) -> int:
    """Return the number of the first message after the last answer; an answer that ends the request is only begun."""
    end = len(request.messages)
    while end and request.messages[end - 1].role == "assistant":
        end -= 1
    while end and request.messages[end - 1].role != "assistant":
        end -= 1
    return end


# --- documents -------------------------------------------------------------------------------------------------------

_OPENING = re.compile(r'"""\s*<documents>')
_CLOSING = re.compile(r'</documents>\s*"""')


def _split(passage: Passage) -> Iterator[Passage]:
    """Yield a passage's documents, and what is around them."""
    text, start, around = passage.value, 0, []
    # One search after the other, each from where the last one ended: a pattern of both would be tried at every opening.
    while (opening := _OPENING.search(text, start)) and (closing := _CLOSING.search(text, opening.end())):
        around.append(text[start : opening.start()])
        document = _unescaped(text[opening.end() : closing.start()])
        yield Passage(document, Kind.DOCUMENT, passage.is_new, passage.prompt_index)
        start = closing.end()
    around.append(text[start:])
    rest = " ".join(part for part in around if part.strip())
    if rest:
        yield Passage(rest, passage.kind, passage.is_new, passage.prompt_index)


def _unescaped(document: str) -> str:
    """Return a document without the JSON escapes it should have; one that has none is returned as it is."""
    try:
        return str(json.loads(f'"{document.strip()}"', strict=False))
    except ValueError:
        return document
