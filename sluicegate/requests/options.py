"""Tools, formats of answers, and other options of a request that are objects."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from sluicegate.requests.messages import TextContent
from sluicegate.requests.parts import Part

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
