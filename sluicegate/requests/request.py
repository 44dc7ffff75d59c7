"""What all requests are, and what those share that a model writes an answer to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self, TypeAlias, cast

from pydantic import Field, PrivateAttr, model_validator

from sluicegate.requests.options import StreamOptions
from sluicegate.requests.parts import Part, problem
from sluicegate.requests.texts import ROLES, Text, mapped, texts_of

FEATURES: Mapping[str, str] = {
    "seed": "repeatable sampling",
    "logit_bias": "token biases",
    "logprobs": "log-probabilities, with top_logprobs",
    "penalties": "frequency_penalty and presence_penalty",
    "tools": "function tools, tool_choice and tool results",
    "custom_tools": "custom (free-form) tools",
    "functions": "the older functions and function_call",
    "json_object": "response_format json_object",
    "json_schema": "response_format json_schema",
    "prediction": "predicted output",
    "suffix": "text after the completion",
    "echo": "the prompt repeated before the completion",
    "best_of": "several completions, the best returned",
    "dimensions": "shortened embedding vectors",
    "input_type": "embeddings that differ between queries and documents",
    "token_input": "prompts and inputs as token ids; needs the detokenize hook, so that filters can read them",
    "image": "image_url content parts",
    "input_audio": "audio content parts",
    "file": "file content parts",
    "audio": "spoken answers: audio and modalities",
    "reasoning_effort": "reasoning effort",
    "verbosity": "verbosity",
    "service_tier": "service tiers other than auto and default",
    "prompt_cache": "prompt_cache_key, prompt_cache_options, prompt_cache_retention and cache breakpoints",
    "moderation": "the upstream's own moderation",
    "web_search_options": "web search",
    "data_sources": "Azure's on-your-data sources",
}
"""What a model may be able to do beyond plain text; ``Model.features`` names some of these."""

Temperature: TypeAlias = Annotated[float, Field(ge=0, le=2)]
Probability: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=128)]
Seed: TypeAlias = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Stop: TypeAlias = str | Annotated[tuple[str, ...], Field(max_length=4, fail_fast=True)]
LogitBias: TypeAlias = dict[Annotated[str, Field(pattern=r"^\d+$")], Annotated[int, Field(ge=-100, le=100)]]


class Request(Part):
    """Base of the three requests."""

    operation: ClassVar[str]
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Values that ask for nothing, so need no feature."""
    needs: ClassVar[Mapping[str, str]] = {}
    """Field -> the feature it needs."""

    model: str | None = None
    user: str | None = None

    # One entry per prompt; in wire form.
    _filter_results: dict[int, dict[str, Mapping[str, Any]]] = PrivateAttr(default_factory=dict)

    @property
    def end_user(self) -> str | None:
        """The caller's own name for its end user, the field to attribute abuse by."""
        return self.user

    @property
    def prompt_count(self) -> int:
        """How many prompts, or inputs, have verdicts of their own."""
        return 1

    @property
    def prompt_filter_results(self) -> Mapping[int, Mapping[str, Mapping[str, Any]]]:
        """Verdicts by prompt index, in wire form."""
        return self._filter_results

    def annotate(self, results: Mapping[str, Mapping[str, Any]], prompt_index: int = 0) -> Self:
        """Return a copy that carries these verdicts as well; the same category is replaced."""
        copy = self.model_copy()
        copy._filter_results = {
            **self._filter_results,
            prompt_index: {**self._filter_results.get(prompt_index, {}), **results},
        }
        return copy

    def texts(self) -> Iterator[Text]:
        """Yield every text the model may read, outermost first, in request order."""
        for name, value in self.readable():
            yield from texts_of(value, name, ROLES.get(name, "other"))

    def map_text(self, change: Callable[[str], str]) -> Self:
        """Return the request with ``change`` applied to every text; verdicts are kept."""
        return cast(Self, mapped(self, change))

    def features(self) -> Iterator[tuple[str, str]]:
        """Yield ``(field, feature)`` for each feature this request needs."""
        for name, feature in self.needs.items():
            value = getattr(self, name)
            if value is not None and value not in self.neutral.get(name, ()):
                yield name, feature

    def token_lists(self) -> tuple[tuple[int, ...], ...]:
        """Return the prompts or inputs that were sent as token ids; empty when they are text."""
        return ()

    def with_texts(self, texts: tuple[str, ...]) -> Self:
        """Return the request with texts in place of its token lists."""
        raise TypeError(f"{self.operation} takes no token ids")

    def body(self) -> dict[str, Any]:
        """Return the request as the JSON object that was sent, as filters left it."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class GenerationRequest(Request):
    """What chat and completions share."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Count | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stop: Stop | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    seed: Seed | None = None

    @property
    def choices(self) -> int:
        """How many choices the answer has."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a streamed answer ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise problem("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
        return self
