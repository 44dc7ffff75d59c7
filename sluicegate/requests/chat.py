"""The body of chat completions, and the rules across its fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sluicegate.requests.messages import AssistantMessage, FunctionMessage, Message, ToolMessage
from sluicegate.requests.options import (
    Function,
    FunctionTool,
    NamedFunction,
    NamedTool,
    Prediction,
    ResponseFormat,
    Tool,
    ToolChoice,
    UserSecurityContext,
)
from sluicegate.requests.parts import problem
from sluicegate.requests.request import GenerationRequest


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
    needs: ClassVar[Mapping[str, str]] = {
        "seed": "seed", "logit_bias": "logit_bias", "logprobs": "logprobs", "top_logprobs": "logprobs",
        "presence_penalty": "penalties", "frequency_penalty": "penalties", "functions": "functions",
        "function_call": "functions", "prediction": "prediction", "audio": "audio", "modalities": "audio",
        "reasoning_effort": "reasoning_effort", "verbosity": "verbosity", "service_tier": "service_tier",
        "prompt_cache_key": "prompt_cache", "prompt_cache_options": "prompt_cache",
        "prompt_cache_retention": "prompt_cache", "moderation": "moderation", "data_sources": "data_sources",
        "web_search_options": "web_search_options",
    }  # fmt: skip
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
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
            raise problem("store", "Stored completions are not available: leave 'store' out or set it to false.")
        if self.metadata and not self.store:
            raise problem("metadata", "The 'metadata' parameter is only allowed when 'store' is enabled.")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise problem(
                "max_tokens",
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported: leave one out.",
            )
        if self.max_tokens == 0:
            raise problem("max_tokens", "Invalid 'max_tokens': expected a value >= 1.")
        if self.top_logprobs is not None and not self.logprobs:
            raise problem("top_logprobs", "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.")
        _check_tool_choice(self)
        _check_function_call(self)
        _check_tool_results(self.messages)
        return self


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
        raise problem(param, f"The '{param}' parameter is only allowed when 'tools' are given.")
    functions = {tool.function.name for tool in request.tools or () if isinstance(tool, FunctionTool)}
    if isinstance(request.tool_choice, NamedTool) and request.tool_choice.function.name not in functions:
        raise problem("tool_choice", "The function that 'tool_choice' names is not among 'tools'.")


def _check_function_call(request: ChatRequest) -> None:
    if request.function_call is not None and not request.functions:
        raise problem("function_call", "The 'function_call' parameter is only allowed when 'functions' are given.")
    functions = {function.name for function in request.functions or ()}
    if isinstance(request.function_call, NamedFunction) and request.function_call.name not in functions:
        raise problem("function_call", "The function that 'function_call' names is not among 'functions'.")


def _check_tool_results(messages: tuple[Any, ...]) -> None:
    """Each tool call is answered by a tool message before the next other message, and nothing else is."""
    open_calls: set[str] = set()
    answered: set[str] = set()
    for number, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in open_calls | answered:
                raise problem(
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
                raise problem(
                    f"messages[{number}].content", "Invalid value for 'content': expected a string, got null."
                )
    if open_calls:
        raise problem(
            "messages",
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'.",
        )
