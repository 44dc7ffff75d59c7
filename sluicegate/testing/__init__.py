"""What plugin authors test with: checks of plugins, storage and keys, the whole pipeline in memory, and fakes."""

from sluicegate.testing.fakes import FrozenClock, MemoryKeys, MemoryStorage
from sluicegate.testing.harness import (
    Answered,
    Assembly,
    Use,
    answered,
    chat_request,
    check_chunking,
    check_plugin,
    plugin_of,
    post_filtered,
    pre_filtered,
)
from sluicegate.testing.keys import check_keys
from sluicegate.testing.models import FakeModel
from sluicegate.testing.storage import check_storage

__all__ = [
    "Answered",
    "Assembly",
    "FakeModel",
    "FrozenClock",
    "MemoryKeys",
    "MemoryStorage",
    "Use",
    "answered",
    "chat_request",
    "check_chunking",
    "check_keys",
    "check_plugin",
    "check_storage",
    "plugin_of",
    "post_filtered",
    "pre_filtered",
]
