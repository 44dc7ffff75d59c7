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

from sluicegate.requests.chat import ChatRequest
from sluicegate.requests.messages import (
    AssistantContent,
    AssistantMessage,
    AssistantPart,
    AudioPart,
    AudioReference,
    CacheBreakpoint,
    CustomCall,
    CustomToolCall,
    DeveloperMessage,
    FilePart,
    FileReference,
    FunctionCall,
    FunctionMessage,
    FunctionToolCall,
    ImagePart,
    ImageUrl,
    InputAudio,
    Message,
    RefusalPart,
    SystemMessage,
    TextContent,
    TextPart,
    ToolCall,
    ToolMessage,
    UserContent,
    UserMessage,
    UserPart,
)
from sluicegate.requests.options import (
    AllowedTools,
    AllowedToolsChoice,
    CustomTool,
    Function,
    FunctionTool,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    NamedCustomTool,
    NamedFunction,
    NamedTool,
    Prediction,
    ResponseFormat,
    StreamOptions,
    TextFormat,
    Tool,
    ToolChoice,
    UserSecurityContext,
)
from sluicegate.requests.parts import Part
from sluicegate.requests.prompts import CompletionRequest, EmbeddingRequest
from sluicegate.requests.request import FEATURES, GenerationRequest, Request
from sluicegate.requests.texts import Text

__all__ = [
    "FEATURES",
    "AllowedTools",
    "AllowedToolsChoice",
    "AssistantContent",
    "AssistantMessage",
    "AssistantPart",
    "AudioPart",
    "AudioReference",
    "CacheBreakpoint",
    "ChatRequest",
    "CompletionRequest",
    "CustomCall",
    "CustomTool",
    "CustomToolCall",
    "DeveloperMessage",
    "EmbeddingRequest",
    "FilePart",
    "FileReference",
    "Function",
    "FunctionCall",
    "FunctionMessage",
    "FunctionTool",
    "FunctionToolCall",
    "GenerationRequest",
    "ImagePart",
    "ImageUrl",
    "InputAudio",
    "JsonObjectFormat",
    "JsonSchema",
    "JsonSchemaFormat",
    "Message",
    "NamedCustomTool",
    "NamedFunction",
    "NamedTool",
    "Part",
    "Prediction",
    "RefusalPart",
    "Request",
    "ResponseFormat",
    "StreamOptions",
    "SystemMessage",
    "Text",
    "TextContent",
    "TextFormat",
    "TextPart",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolMessage",
    "UserContent",
    "UserMessage",
    "UserPart",
    "UserSecurityContext",
]
