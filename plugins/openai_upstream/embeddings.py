"""Embeddings: one request to the upstream, its vectors checked."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from contextlib import closing
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from sluicegate import EmbeddingRequest, Embeddings, Usage

from . import bodies, failures
from .connection import Connection
from .upstream import UpstreamModel

Matrix: TypeAlias = npt.NDArray[np.float32]


async def embed(request: EmbeddingRequest, model: UpstreamModel, connection: Connection) -> Embeddings:
    """Return one vector of unit length per input, in input order.

    Raises:
        ModelUnavailable: The upstream sent other than one vector of the right length per input.
    """
    body = bodies.embedding(request, model, connection.upstream)
    with closing(await connection.post(model, request.operation, body)) as response:
        answer = await response.read_all()
    try:
        return _embeddings(from_json(answer), len(request.inputs), request.dimensions or model.dimensions)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise failures.malformed(response.where) from None


def _embeddings(answer: Any, count: int, dimensions: int | None) -> Embeddings:
    items = sorted(answer["data"], key=lambda item: int(item["index"]))
    if [item["index"] for item in items] != list(range(count)):
        raise ValueError("not one vector per input")
    # Vectors of unequal length do not make a matrix: ValueError.
    matrix = np.array([_row(item["embedding"]) for item in items], dtype="<f4")
    if dimensions is not None and matrix.shape[1] != dimensions:
        raise ValueError("vectors of another length")
    usage = Usage((answer.get("usage") or {}).get("prompt_tokens") or 0)
    return Embeddings(tuple(row.tobytes() for row in _of_unit_length(matrix)), usage)


def _row(embedding: str | Sequence[float]) -> Any:
    """Not every compatible server knows base64; one that does not sends numbers."""
    if isinstance(embedding, str):
        return np.frombuffer(b64decode(embedding, validate=True), dtype="<f4")
    return embedding


def _of_unit_length(matrix: Matrix) -> Matrix:
    """Not every compatible server normalises; what is normalised is left as it is, bit for bit."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not np.all(np.isfinite(norms) & (norms > 0)):
        raise ValueError("no direction")
    return matrix if np.allclose(norms, 1, rtol=0, atol=1e-4) else matrix / norms
