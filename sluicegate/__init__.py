"""Everything a plugin author imports."""

from sluicegate.errors import (
    Forbidden,
    InvalidRequest,
    ModelUnavailable,
    NotFound,
    Refused,
    TooManyRequests,
    Unauthorized,
    Unsupported,
    UpstreamError,
)
from sluicegate.hookspecs import hookimpl
from sluicegate.requests import ChatRequest, CompletionRequest, EmbeddingRequest, Text
from sluicegate.types import (
    Answer,
    Chunk,
    Embeddings,
    Exchange,
    Expired,
    FilterResults,
    Model,
    Outcome,
    PluginConfig,
    Principal,
    Purged,
    Role,
    ToolCall,
    Usage,
)

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "ChatRequest",
    "Chunk",
    "CompletionRequest",
    "EmbeddingRequest",
    "Embeddings",
    "Exchange",
    "Expired",
    "FilterResults",
    "Forbidden",
    "InvalidRequest",
    "Model",
    "ModelUnavailable",
    "NotFound",
    "Outcome",
    "PluginConfig",
    "Principal",
    "Purged",
    "Refused",
    "Role",
    "Text",
    "TooManyRequests",
    "ToolCall",
    "Unauthorized",
    "Unsupported",
    "UpstreamError",
    "Usage",
    "hookimpl",
]
