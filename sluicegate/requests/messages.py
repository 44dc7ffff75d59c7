"""The messages of a chat, and the parts that their content may have."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from sluicegate.requests.parts import Part


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
