"""Completions on the wire: as chat, in the older shape of text, with log-probabilities in parallel lists."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sluicegate.api.generation import Envelope
from sluicegate.api.sse import Events
from sluicegate.requests import CompletionRequest
from sluicegate.types import Chunk


def events(chunks: AsyncIterator[Chunk], request: CompletionRequest, envelope: Envelope) -> Events:
    """Return the answer as server-sent events, ending with ``[DONE]``; for ``sse.EventStream``.

    Verdicts on the prompt are those of ``request.prompt_filter_results``. The events own ``chunks``: closing them closes it,
    started or not. ``[DONE]`` is sent when ``chunks`` has ended, so whatever its finalisers raise takes its place.
    """
    raise NotImplementedError


async def collect(chunks: AsyncIterator[Chunk], request: CompletionRequest, envelope: Envelope) -> bytes:
    """Return the answer as one JSON body; ``chunks`` is closed, and whatever it raises is passed on."""
    raise NotImplementedError
