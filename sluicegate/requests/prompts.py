"""The bodies of completions and embeddings, whose text may come as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, cast

from pydantic import Field, model_validator

from sluicegate.requests.parts import problem
from sluicegate.requests.request import GenerationRequest, Request

TokenId: TypeAlias = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds: TypeAlias = Annotated[tuple[TokenId, ...], Field(min_length=1, fail_fast=True)]
Texts: TypeAlias = Annotated[tuple[str, ...], Field(min_length=1, max_length=2048, fail_fast=True)]
TokenLists: TypeAlias = Annotated[tuple[TokenIds, ...], Field(min_length=1, max_length=2048, fail_fast=True)]


class CompletionRequest(GenerationRequest):
    """The body of completions."""

    operation = "completions"
    opaque = frozenset({"model", "user", "stream_options", "logit_bias"})
    needs: ClassVar[Mapping[str, str]] = {
        "seed": "seed", "logit_bias": "logit_bias", "logprobs": "logprobs", "presence_penalty": "penalties",
        "frequency_penalty": "penalties", "suffix": "suffix", "echo": "echo", "best_of": "best_of",
    }  # fmt: skip
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "logit_bias": ({},),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "suffix": ("",),
        "echo": (False,),
    }

    prompt: str | Texts | TokenIds | TokenLists
    suffix: str | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts as text; the core has turned token ids into text before any hook sees the request."""
        return _as_texts(self.prompt)

    @property
    def prompt_count(self) -> int:
        return len(self.prompts)

    @property
    def choices(self) -> int:
        return len(self.prompts) * (self.n or 1)

    def features(self) -> Iterator[tuple[str, str]]:
        yield from (need for need in super().features() if need[0] != "best_of" or self.best_of != (self.n or 1))
        if self.token_lists():
            yield "prompt", "token_input"

    def token_lists(self) -> tuple[tuple[int, ...], ...]:
        return _token_lists(self.prompt)

    def with_texts(self, texts: tuple[str, ...]) -> Self:
        return self.model_copy(update={"prompt": texts})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise problem("best_of", "Invalid 'best_of': expected a value >= 'n'.")
        if self.best_of is not None and self.best_of > 1 and self.stream:
            raise problem("best_of", "Completions cannot be streamed when 'best_of' is greater than 1.")
        return self


class EmbeddingRequest(Request):
    """The body of embeddings."""

    operation = "embeddings"
    opaque = frozenset({"model", "user", "encoding_format", "input_type"})
    needs: ClassVar[Mapping[str, str]] = {"dimensions": "dimensions", "input_type": "input_type"}

    input: str | Texts | TokenIds | TokenLists
    dimensions: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    input_type: Annotated[str, Field(max_length=64, pattern=r"^[a-z_]+$")] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs as text; the core has turned token ids into text before any hook sees the request."""
        return _as_texts(self.input)

    @property
    def prompt_count(self) -> int:
        return len(self.inputs)

    def features(self) -> Iterator[tuple[str, str]]:
        yield from super().features()
        if self.token_lists():
            yield "input", "token_input"

    def token_lists(self) -> tuple[tuple[int, ...], ...]:
        return _token_lists(self.input)

    def with_texts(self, texts: tuple[str, ...]) -> Self:
        return self.model_copy(update={"input": texts})

    @model_validator(mode="after")
    def _inputs_are_not_empty(self) -> Self:
        if any(not text for text in ((self.input,) if isinstance(self.input, str) else self.input)):
            raise problem("input", "Invalid 'input': an input must not be an empty string.")
        return self


def _token_lists(value: str | tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
    if isinstance(value, str) or isinstance(value[0], str):
        return ()
    return (cast(tuple[int, ...], value),) if isinstance(value[0], int) else cast(tuple[tuple[int, ...], ...], value)


def _as_texts(value: str | tuple[Any, ...]) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if _token_lists(value):
        raise TypeError("token ids must be turned into text before hooks run")
    return value
