"""Answer embedding requests, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from plugins.embedded_model.minilm import DIMENSIONS, POSITIONS, MiniLM
from plugins.embedded_model.wordpiece import WordPiece
from sluicegate import EmbeddingRequest, Embeddings, InvalidRequest, Usage

P = ParamSpec("P")
T = TypeVar("T")
_AROUND = 2  # [CLS] and [SEP]


class Embedder:
    """The embedding model, its tokenizer, and the one thread they work on. Make one with :meth:`open`."""

    def __init__(self, model: MiniLM, tokenizer: WordPiece) -> None:
        self.tokenizer = tokenizer
        self._model = model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedded-model-embeddings")

    @classmethod
    async def open(cls, folder: Path) -> Embedder:
        """Load ``model.safetensors`` and ``vocab.txt``; 0.2 s.

        Raises:
            StartupError: One of them cannot be used.
        """
        return await asyncio.to_thread(
            lambda: cls(MiniLM(folder / "model.safetensors"), WordPiece(folder / "vocab.txt"))
        )

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return one vector per input.

        Inputs are worked on one by one, those of several requests in turns, so a long request does not hold up a short one.

        Raises:
            InvalidRequest: An input is too long, or more dimensions are asked for than the model has.
        """
        dimensions = DIMENSIONS if request.dimensions is None else request.dimensions
        if dimensions > DIMENSIONS:
            raise InvalidRequest(f"This model's vectors have at most {DIMENSIONS} dimensions.", param="dimensions")
        tokens = [await self._run(self._tokens, number, text) for number, text in enumerate(request.inputs)]
        vectors = [await self._run(self._model.embed, ids, dimensions) for ids in tokens]
        return Embeddings(tuple(vectors), Usage(sum(len(ids) for ids in tokens)))

    async def close(self) -> None:
        """Finish what is being worked on."""
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *arguments, **named))

    def _tokens(self, number: int, text: str) -> list[int]:
        ids = self.tokenizer.encode(text, POSITIONS - _AROUND)
        if ids is None:
            raise InvalidRequest(
                f"This model's maximum context length is {POSITIONS} tokens, of which {_AROUND} mark the beginning and "
                f"the end; input {number} has more. Please reduce your input.",
                code="context_length_exceeded",
                param=f"input[{number}]",
            )
        return [self.tokenizer.start, *ids, self.tokenizer.end]
