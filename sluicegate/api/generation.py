"""What the answers of chat and of completions share: metadata, frames, usage and verdicts.

A frame is one server-sent event. What is the same in every frame of an answer is encoded once, because a frame is written
for every few characters.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from sluicegate.requests import GenerationRequest
from sluicegate.types import FilterResults, Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every frame of an answer repeats.

    Attributes:
        id: ``chatcmpl-…`` or ``cmpl-…``.
        created: Unix seconds.
        model: The model's name as reported to the caller.
        annotations: Whether verdicts are shown; ``versions.check(…).annotations``.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str | None = None
    annotations: bool = True

    def fields(self, kind: str) -> dict[str, Any]:
        """Return the first fields of every JSON object of the answer; ``kind`` is its ``object``."""
        fields = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        if self.system_fingerprint is not None:
            fields["system_fingerprint"] = self.system_fingerprint
        return fields


class Frames:
    """Writes the frames of one streamed answer.

    Args:
        kind: ``chat.completion.chunk`` or ``text_completion``.
    """

    def __init__(self, kind: str, request: GenerationRequest, envelope: Envelope) -> None:
        options = request.stream_options
        self._request = request
        self._annotations = envelope.annotations
        # The size of an encrypted frame tells the length of its text, so OpenAI pads frames unless asked not to.
        self._padded = options is None or options.include_obfuscation is not False
        self._head = b"data: " + encode(envelope.fields(kind))[:-1] + b',"choices":['
        self._end = b',"usage":null}\n\n' if request.include_usage else b"}\n\n"
        self._heads: dict[int, bytes] = {}

    def prompt(self) -> bytes | None:
        """Return the frame with the verdicts on the prompt, which has no choices; None where there is no verdict."""
        results = prompt_filter_results(self._request)
        if not results or not self._annotations:
            return None
        return self._head + b'],"prompt_filter_results":' + encode(results) + self._end

    def choice(
        self,
        index: int,
        content: bytes,
        *,
        logprobs: Mapping[str, Any] | None = None,
        finish_reason: str | None = None,
        results: FilterResults | None = None,
    ) -> bytes:
        """Return a frame of one choice; ``content`` is its first member, such as ``"text":"a"``."""
        parts = [self._heads.get(index) or self._head_of(index), content, b',"logprobs":']
        parts.append(encode(logprobs) if logprobs else b"null")
        parts.append(b',"finish_reason":"%b"' % finish_reason.encode() if finish_reason else b',"finish_reason":null')
        if self._annotations:
            parts += (b',"content_filter_results":', encode(results) if results else b"{}")
        parts.append(b"}]")
        if self._padded and not finish_reason:
            parts.append(b',"obfuscation":"%b"' % _padding(len(content)))
        parts.append(self._end)
        return b"".join(parts)

    def usage(self, usage: Usage) -> bytes:
        """Return the frame that counts the tokens of the whole answer."""
        return self._head + b'],"usage":' + encode(usage_fields(usage)) + b"}\n\n"

    def _head_of(self, index: int) -> bytes:
        return self._heads.setdefault(index, self._head + b'{"index":%d,' % index)


def encode(value: object) -> bytes:
    """Return ``value`` as JSON in UTF-8; what JSON cannot express as a number is ``null``."""
    try:
        return to_json(value, inf_nan_mode="null", fallback=dict)
    except PydanticSerializationError:
        # Half of a surrogate pair has no UTF-8; JSON's escapes can say it.
        return json.dumps(value, default=dict).encode()


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Return ``usage`` in wire form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def prompt_filter_results(request: GenerationRequest) -> list[dict[str, Any]]:
    """Return the verdicts on the prompts in wire form."""
    return [
        {"prompt_index": index, "content_filter_results": results}
        for index, results in sorted(request.prompt_filter_results.items())
    ]


def _padding(length: int) -> bytes:
    """Return random characters that make contents of about the same length equally long."""
    return os.urandom(16).hex().encode()[: 32 - length % 32]
