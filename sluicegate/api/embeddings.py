"""Embeddings on the wire: floats, or base64 of little-endian float32, which is what the OpenAI SDK asks for."""

from __future__ import annotations

from sluicegate.requests import EmbeddingRequest
from sluicegate.types import Embeddings


def render(embeddings: Embeddings, request: EmbeddingRequest, model: str) -> bytes:
    """Return the JSON body; ``model`` is the name as reported to the caller."""
    raise NotImplementedError
