"""Requests of the data plane: what callers may send, as immutable pydantic models in OpenAI's field names.

The fields are those of Azure's specs and of the ``openai`` package's request types; any other is refused, because a field
that nobody knows is a field that nobody filters. Two views serve every filter:

* :meth:`Request.texts` yields every text the model may read, so nothing hides from a filter;
* :meth:`Request.map_text` rewrites every one of them and returns the changed request.

A class names in ``opaque`` those of its fields that hold no text of the caller's (enumerations, ids, sizes), and in
``keywords`` those that hold either a keyword or an object with text in it; a new field is visible to filters until
somebody says otherwise.

Lists fail fast: one bad element is enough to refuse a request, and a body of a million of them must stay cheap to refuse.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

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


class Part(BaseModel):
    """Base of every object in a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
    opaque: ClassVar[frozenset[str]] = frozenset({"type", "role"})
    keywords: ClassVar[frozenset[str]] = frozenset()

    def _readable(self) -> Iterator[tuple[str, Any]]:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name not in self.opaque and not (name in self.keywords and isinstance(value, str)):
                yield name, value


_PROMPT = re.compile(r"(?:prompt|input)\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a request.

    Attributes:
        value: The text; the text parts of one message's content are joined.
        role: The message's role, or ``tool`` for definitions, ``prompt``, ``suffix``, ``input``, ``prediction``, ``other``.
        where: Path in the request, such as ``messages[2].content``.
    """

    value: str
    role: str
    where: str

    @property
    def prompt_index(self) -> int:
        """Which of several prompts, or inputs, it belongs to."""
        found = _PROMPT.match(self.where)
        return int(found[1]) if found else 0


# --- content parts ---------------------------------------------------------------------------------------------------


class CacheBreakpoint(Part):
    mode: Literal["explicit"]
    ttl: Literal["30m", "12h"] | None = None
    opaque: ClassVar[frozenset[str]] = frozenset({"mode", "ttl"})


class TextPart(Part):
    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class RefusalPart(Part):
    type: Literal["refusal"]
    refusal: str


class ImageUrl(Part):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None
    opaque: ClassVar[frozenset[str]] = frozenset({"detail"})


class ImagePart(Part):
    type: Literal["image_url"]
    image_url: ImageUrl
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputAudio(Part):
    data: str
    format: Literal["wav", "mp3"]
    opaque: ClassVar[frozenset[str]] = frozenset({"data", "format"})


class AudioPart(Part):
    type: Literal["input_audio"]
    input_audio: InputAudio
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class FileReference(Part):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None
    opaque: ClassVar[frozenset[str]] = frozenset({"file_id"})


class FilePart(Part):
    type: Literal["file"]
    file: FileReference
    prompt_cache_breakpoint: CacheBreakpoint | None = None


UserPart: TypeAlias = Annotated[TextPart | ImagePart | AudioPart | FilePart, Field(discriminator="type")]
AssistantPart: TypeAlias = Annotated[TextPart | RefusalPart, Field(discriminator="type")]

TextContent: TypeAlias = str | Annotated[tuple[TextPart, ...], Field(min_length=1, fail_fast=True)]
UserContent: TypeAlias = str | Annotated[tuple[UserPart, ...], Field(min_length=1, fail_fast=True)]
AssistantContent: TypeAlias = str | Annotated[tuple[AssistantPart, ...], Field(min_length=1, fail_fast=True)]

# --- messages --------------------------------------------------------------------------------------------------------


class SystemMessage(Part):
    role: Literal["system"]
    content: TextContent
    name: str | None = None


class DeveloperMessage(Part):
    role: Literal["developer"]
    content: TextContent
    name: str | None = None


class UserMessage(Part):
    role: Literal["user"]
    content: UserContent
    name: str | None = None


class FunctionCall(Part):
    name: str
    arguments: str


class FunctionToolCall(Part):
    id: str
    type: Literal["function"]
    function: FunctionCall
    opaque: ClassVar[frozenset[str]] = frozenset({"id", "type"})


class CustomCall(Part):
    name: str
    input: str


class CustomToolCall(Part):
    id: str
    type: Literal["custom"]
    custom: CustomCall
    opaque: ClassVar[frozenset[str]] = frozenset({"id", "type"})


ToolCall: TypeAlias = Annotated[FunctionToolCall | CustomToolCall, Field(discriminator="type")]


class AudioReference(Part):
    id: str
    opaque: ClassVar[frozenset[str]] = frozenset({"id"})


class AssistantMessage(Part):
    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Field(fail_fast=True)] | None = None
    function_call: FunctionCall | None = None
    audio: AudioReference | None = None


class ToolMessage(Part):
    role: Literal["tool"]
    content: TextContent
    tool_call_id: str
    opaque: ClassVar[frozenset[str]] = frozenset({"role", "tool_call_id"})


class FunctionMessage(Part):
    role: Literal["function"]
    content: str | None
    name: str


Message: TypeAlias = Annotated[
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]

# --- tools and options -----------------------------------------------------------------------------------------------

ToolName: TypeAlias = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]


class Function(Part):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Part):
    type: Literal["function"]
    function: Function


class CustomTool(Part):
    type: Literal["custom"]
    custom: dict[str, Any]


Tool: TypeAlias = Annotated[FunctionTool | CustomTool, Field(discriminator="type")]


class NamedFunction(Part):
    name: str


class NamedTool(Part):
    type: Literal["function"]
    function: NamedFunction


class NamedCustomTool(Part):
    type: Literal["custom"]
    custom: NamedFunction


class AllowedTools(Part):
    mode: Literal["auto", "required"]
    tools: Annotated[tuple[dict[str, Any], ...], Field(fail_fast=True)]
    opaque: ClassVar[frozenset[str]] = frozenset({"mode"})


class AllowedToolsChoice(Part):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoice: TypeAlias = (
    Literal["none", "auto", "required"]
    | Annotated[NamedTool | NamedCustomTool | AllowedToolsChoice, Field(discriminator="type")]
)


class JsonSchema(Part):
    name: ToolName
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormat(Part):
    type: Literal["text"]


class JsonObjectFormat(Part):
    type: Literal["json_object"]


class JsonSchemaFormat(Part):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat: TypeAlias = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class Prediction(Part):
    type: Literal["content"]
    content: TextContent


class StreamOptions(Part):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class UserSecurityContext(Part):
    """Azure's attribution of a request, for abuse monitoring."""

    application_name: str | None = None
    end_user_id: str | None = None
    end_user_tenant_id: str | None = None
    source_ip: str | None = None


# --- requests --------------------------------------------------------------------------------------------------------

Temperature: TypeAlias = Annotated[float, Field(ge=0, le=2)]
Probability: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=128)]
Seed: TypeAlias = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Stop: TypeAlias = str | Annotated[tuple[str, ...], Field(max_length=4, fail_fast=True)]
LogitBias: TypeAlias = dict[Annotated[str, Field(pattern=r"^\d+$")], Annotated[int, Field(ge=-100, le=100)]]
TokenId: TypeAlias = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds: TypeAlias = Annotated[tuple[TokenId, ...], Field(min_length=1, fail_fast=True)]
Texts: TypeAlias = Annotated[tuple[str, ...], Field(min_length=1, max_length=2048, fail_fast=True)]
TokenLists: TypeAlias = Annotated[tuple[TokenIds, ...], Field(min_length=1, max_length=2048, fail_fast=True)]


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
        for name, value in self._readable():
            yield from _texts(value, name, _ROLES.get(name, "other"))

    def map_text(self, change: Callable[[str], str]) -> Self:
        """Return the request with ``change`` applied to every text; verdicts are kept."""
        return cast(Self, _mapped(self, change))

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
            raise _problem("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
        return self


class ChatRequest(GenerationRequest):
    """The body of chat completions."""

    operation = "chat.completions"
    opaque = frozenset(
        {
            "model", "user", "user_security_context", "safety_identifier", "stream_options", "logit_bias",
            "reasoning_effort", "verbosity", "service_tier", "modalities", "prompt_cache_key", "prompt_cache_options",
            "prompt_cache_retention", "moderation", "audio",
        }
    )  # fmt: skip
    keywords = frozenset({"tool_choice", "function_call"})
    needs = {
        "seed": "seed", "logit_bias": "logit_bias", "logprobs": "logprobs", "top_logprobs": "logprobs",
        "presence_penalty": "penalties", "frequency_penalty": "penalties", "functions": "functions",
        "function_call": "functions", "prediction": "prediction", "audio": "audio", "modalities": "audio",
        "reasoning_effort": "reasoning_effort", "verbosity": "verbosity", "service_tier": "service_tier",
        "prompt_cache_key": "prompt_cache", "prompt_cache_options": "prompt_cache",
        "prompt_cache_retention": "prompt_cache", "moderation": "moderation", "data_sources": "data_sources",
        "web_search_options": "web_search_options",
    }  # fmt: skip
    neutral = {
        "logit_bias": ({},),
        "logprobs": (False,),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "modalities": (("text",),),
        "service_tier": ("auto", "default"),
        "functions": ((),),
    }

    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=2048, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[tuple[Tool, ...], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[tuple[Function, ...], Field(max_length=128, fail_fast=True)] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    response_format: ResponseFormat | None = None
    prediction: Prediction | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    user_security_context: UserSecurityContext | None = None
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    modalities: Annotated[tuple[Literal["text", "audio"], ...], Field(fail_fast=True)] | None = None
    audio: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    moderation: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    data_sources: Annotated[tuple[dict[str, Any], ...], Field(fail_fast=True)] | None = None

    @property
    def end_user(self) -> str | None:
        context = self.user_security_context
        return self.user or self.safety_identifier or (context.end_user_id if context else None)

    @property
    def max_output_tokens(self) -> int | None:
        """The caller's limit, by either name."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def features(self) -> Iterator[tuple[str, str]]:
        yield from super().features()
        if self.response_format is not None and self.response_format.type != "text":
            yield "response_format", self.response_format.type
        for tool in self.tools or ():
            yield "tools", "tools" if tool.type == "function" else "custom_tools"
        for number, message in enumerate(self.messages):
            yield from _message_features(message, f"messages[{number}]")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.store:
            raise _problem("store", "Stored completions are not available: leave 'store' out or set it to false.")
        if self.metadata and not self.store:
            raise _problem("metadata", "The 'metadata' parameter is only allowed when 'store' is enabled.")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise _problem(
                "max_tokens",
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported: leave one out.",
            )
        if self.max_tokens == 0:
            raise _problem("max_tokens", "Invalid 'max_tokens': expected a value >= 1.")
        if self.top_logprobs is not None and not self.logprobs:
            raise _problem("top_logprobs", "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.")
        _check_tool_choice(self)
        _check_function_call(self)
        _check_tool_results(self.messages)
        return self


class CompletionRequest(GenerationRequest):
    """The body of completions."""

    operation = "completions"
    opaque = frozenset({"model", "user", "stream_options", "logit_bias"})
    needs = {
        "seed": "seed", "logit_bias": "logit_bias", "logprobs": "logprobs", "presence_penalty": "penalties",
        "frequency_penalty": "penalties", "suffix": "suffix", "echo": "echo", "best_of": "best_of",
    }  # fmt: skip
    neutral = {
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
            raise _problem("best_of", "Invalid 'best_of': expected a value >= 'n'.")
        if self.best_of is not None and self.best_of > 1 and self.stream:
            raise _problem("best_of", "Completions cannot be streamed when 'best_of' is greater than 1.")
        return self


class EmbeddingRequest(Request):
    """The body of embeddings."""

    operation = "embeddings"
    opaque = frozenset({"model", "user", "encoding_format", "input_type"})
    needs = {"dimensions": "dimensions", "input_type": "input_type"}

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
            raise _problem("input", "Invalid 'input': an input must not be an empty string.")
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


# --- walking ---------------------------------------------------------------------------------------------------------

_ROLES = {
    "tools": "tool",
    "functions": "tool",
    "prompt": "prompt",
    "suffix": "suffix",
    "input": "input",
    "prediction": "prediction",
}


def _texts(value: object, where: str, role: str) -> Iterator[Text]:
    if isinstance(value, str):
        if value:
            yield Text(value, role, where)
    elif isinstance(value, Part):
        role = getattr(value, "role", role)
        for name, item in value._readable():
            alias = type(value).model_fields[name].alias
            yield from _texts(item, f"{where}.{alias or name}", role)
    elif isinstance(value, tuple | list):
        # A term cut in two by a content-part border is one term to the model, so parts in a row are read as one text.
        number = 0
        for run in _runs(value):
            place = where if len(run) == len(value) > 1 else f"{where}[{number}]"
            if len(run) > 1:
                yield from _texts("".join(part.text for part in run), place, role)
            else:
                yield from _texts(run[0], f"{where}[{number}]", role)
            number += len(run)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key, where, role)
            yield from _texts(item, f"{where}.{key}", role)


def _mapped(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Part):
        given = value.model_fields_set
        changed = {name: _mapped(item, change) for name, item in value._readable() if name in given}
        return value.model_copy(update=changed)
    if isinstance(value, tuple | list):
        return type(value)(part for run in _runs(value) for part in _mapped_run(run, change))
    if isinstance(value, Mapping):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    return value


def _runs(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield text parts that follow each other together, and everything else alone."""
    for is_text, group in itertools.groupby(items, lambda item: isinstance(item, TextPart)):
        members = list(group)
        yield from [members] if is_text else [[member] for member in members]


def _mapped_run(run: list[Any], change: Callable[[str], str]) -> list[Any]:
    mapped: list[Any] = [_mapped(item, change) for item in run]
    if len(run) > 1:
        whole = change("".join(part.text for part in run))
        if whole != "".join(part.text for part in mapped):
            return [run[0].model_copy(update={"text": whole})]
    return mapped


# --- rules across fields ---------------------------------------------------------------------------------------------


def _problem(param: str, message: str) -> PydanticCustomError:
    """An error whose text is ours, so safe to show; ``api.body`` reads ``param`` from its context."""
    return PydanticCustomError("sluicegate", cast(Any, "{message}"), {"message": message, "param": param})


def _message_features(message: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(message, ToolMessage) or getattr(message, "tool_calls", None):
        yield where, "tools"
    if isinstance(message, FunctionMessage) or getattr(message, "function_call", None):
        yield where, "functions"
    if getattr(message, "audio", None):
        yield f"{where}.audio", "audio"
    kinds = {"image_url": "image", "input_audio": "input_audio", "file": "file"}
    for number, part in enumerate(message.content if isinstance(message.content, tuple) else ()):
        if part.type in kinds:
            yield f"{where}.content[{number}]", kinds[part.type]
        if getattr(part, "prompt_cache_breakpoint", None):
            yield f"{where}.content[{number}].prompt_cache_breakpoint", "prompt_cache"


def _check_tool_choice(request: ChatRequest) -> None:
    if not request.tools and (request.tool_choice is not None or request.parallel_tool_calls is not None):
        param = "tool_choice" if request.tool_choice is not None else "parallel_tool_calls"
        raise _problem(param, f"The '{param}' parameter is only allowed when 'tools' are given.")
    functions = {tool.function.name for tool in request.tools or () if isinstance(tool, FunctionTool)}
    if isinstance(request.tool_choice, NamedTool) and request.tool_choice.function.name not in functions:
        raise _problem("tool_choice", "The function that 'tool_choice' names is not among 'tools'.")


def _check_function_call(request: ChatRequest) -> None:
    if request.function_call is not None and not request.functions:
        raise _problem("function_call", "The 'function_call' parameter is only allowed when 'functions' are given.")
    functions = {function.name for function in request.functions or ()}
    if isinstance(request.function_call, NamedFunction) and request.function_call.name not in functions:
        raise _problem("function_call", "The function that 'function_call' names is not among 'functions'.")


def _check_tool_results(messages: tuple[Any, ...]) -> None:
    """Each tool call is answered by a tool message before the next other message, and nothing else is."""
    open_calls: set[str] = set()
    answered: set[str] = set()
    for number, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in open_calls | answered:
                raise _problem(
                    f"messages[{number}].role",
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
                )
            open_calls.discard(message.tool_call_id)
            answered.add(message.tool_call_id)
            continue
        if open_calls:
            break
        answered = set()
        if isinstance(message, AssistantMessage):
            open_calls = {call.id for call in message.tool_calls or ()}
            if message.content is None and not (message.tool_calls or message.function_call or message.refusal):
                raise _problem(
                    f"messages[{number}].content", "Invalid value for 'content': expected a string, got null."
                )
    if open_calls:
        raise _problem(
            "messages",
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'.",
        )
