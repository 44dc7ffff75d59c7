"""Embeddings on the wire: floats, or base64 of little-endian float32, which is what the OpenAI SDK asks for."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence

from sluicegate.api.encoding import encode
from sluicegate.requests import EmbeddingRequest
from sluicegate.types import Embeddings


def render(embeddings: Embeddings, request: EmbeddingRequest, model: str) -> bytes:
    """Return the JSON body; ``model`` is the name as reported to the caller."""
    written = _base64 if request.encoding_format == "base64" else _floats
    usage = embeddings.usage
    return encode(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": written(vector)}
                for index, vector in enumerate(embeddings.vectors)
            ],
            "model": model,
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens},
        }
    )


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _floats(vector: bytes) -> Sequence[float]:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()
