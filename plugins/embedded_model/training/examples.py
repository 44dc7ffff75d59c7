"""Turn training rows into tokens, and say which of them the model is to learn.

Rendered as when the model is asked: the same turns, the same system message where there is none, the same description of
tools; see ``template``. Learnt are the assistant's messages, with the mark that ends them, but for those of weight 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter

from plugins.embedded_model.template import conversation
from plugins.embedded_model.tokenizer import Tokenizer
from plugins.embedded_model.tools import offered
from plugins.embedded_model.training.llama import Example
from plugins.embedded_model.training.tensors import NotTrainable
from sluicegate import ChatRequest
from sluicegate.requests import Message

T = TypeVar("T")
_MESSAGES: TypeAdapter[tuple[Message, ...]] = TypeAdapter(tuple[Message, ...])


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt: the one that is preferred, and the other."""

    preferred: Example
    other: Example


@dataclass
class Rows:
    """Reads a file's rows.

    Attributes:
        longest: Tokens of an example; what is beyond is cut off.
        cut: How many were longer.
        left_out: How many had nothing left to learn then.
    """

    tokenizer: Tokenizer
    longest: int
    cut: int = 0
    left_out: int = 0

    def supervised(self, lines: Iterable[bytes]) -> Iterator[Example]:
        """Yield the examples of a file of chats, or of prompts and completions.

        Raises:
            NotTrainable: A line is no example of text; the message has its number.
        """
        yield from _each(lines, self._supervised)

    def preferences(self, lines: Iterable[bytes]) -> Iterator[Pair]:
        """Yield the pairs of a file of preferences; raises likewise."""
        yield from _each(lines, self._pair)

    def _supervised(self, row: Mapping[str, Any]) -> Example | None:
        if "messages" in row:
            return self._chat(row["messages"], row)
        prompt, completion = (self.tokenizer.encode(row[name]) for name in ("prompt", "completion"))
        return self._example([(prompt, False), ([*completion, self.tokenizer.special["<|im_end|>"]], True)])

    def _pair(self, row: Mapping[str, Any]) -> Pair | None:
        given = row["input"]
        before = [{**message, "weight": 0} for message in given["messages"]]
        preferred, other = (
            self._chat([*before, *row[output]], given) for output in ("preferred_output", "non_preferred_output")
        )
        return Pair(preferred, other) if preferred and other else None

    def _chat(self, messages: list[Mapping[str, Any]], offers: Mapping[str, Any]) -> Example | None:
        plain = [{name: value for name, value in message.items() if name != "weight"} for message in messages]
        spoken = conversation(_MESSAGES.validate_json(json.dumps(plain)), _instructions(offers.get("tools")))
        start, end, line = (
            self.tokenizer.special["<|im_start|>"],
            self.tokenizer.special["<|im_end|>"],
            self.tokenizer.encode("\n"),
        )
        learnt = [message["role"] == "assistant" and message.get("weight") != 0 for message in messages]
        learnt = [False] * (len(spoken) - len(learnt)) + learnt
        parts: list[tuple[list[int], bool]] = []
        for turn, is_learnt in zip(spoken, learnt, strict=True):
            if is_learnt:
                # As it is written: the opening is given, the rest is the model's.
                parts.append(([start, *self.tokenizer.encode("assistant\n")], False))
                parts.append(([*self.tokenizer.encode(turn.text), end], True))
            else:
                parts.append(([start, *self.tokenizer.encode(f"{turn.speaker}\n{turn.text}"), end], False))
            parts.append((line, False))
        return self._example(parts)

    def _example(self, parts: list[tuple[list[int], bool]]) -> Example | None:
        ids = np.array([token for tokens, _ in parts for token in tokens], np.int32)
        scored = np.array([learnt for tokens, learnt in parts for _ in tokens], bool)
        self.cut += len(ids) > self.longest
        ids, scored = ids[: self.longest], scored[: self.longest]
        scored[:1] = False
        if not scored.any():
            self.left_out += 1
            return None
        return Example(ids, scored)


def _instructions(tools: object) -> list[str]:
    """Return what the system message says of tools, which is what it says when the model is asked."""
    if not tools:
        return []
    asked = ChatRequest.model_validate_json(json.dumps({"messages": [{"role": "user", "content": ""}], "tools": tools}))
    functions = offered(asked)
    return [functions.instructions()] if functions.functions else []


def _each(lines: Iterable[bytes], read: Callable[[Mapping[str, Any]], T | None]) -> Iterator[T]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = read(json.loads(line.removeprefix(b"\xef\xbb\xbf")))
        except (ValueError, KeyError, TypeError, AttributeError):
            # Its message would quote the line.
            raise NotTrainable(f"line {number} of a file, which is no example of text") from None
        if found is not None:
            yield found
