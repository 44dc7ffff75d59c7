"""Give back what Azure's worker library never does: an entry of about 2 KiB for each HTTP request it ever served.

Version 1.3.0 keeps every invocation's record in ``http_coordinator._context_references``. Entries whose response was collected hold no
request and no response any more, and nothing reads them. Where the library is another or looks different, nothing happens.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

EVERY = 256
"""Requests between two sweeps."""
_MODULES = ("azure_functions_runtime.http_v2", "azure_functions_worker.http_v2")
_requests = itertools.count(1)


def forget_finished_requests() -> None:
    """Sweep now and then; called once for each request."""
    if next(_requests) % EVERY:
        return
    for name in _MODULES:
        references = getattr(getattr(sys.modules.get(name), "http_coordinator", None), "_context_references", None)
        if isinstance(references, dict):
            for key in [key for key, entry in references.items() if _is_finished(entry)]:
                del references[key]


def _is_finished(entry: Any) -> bool:
    available = getattr(entry, "http_response_available_event", None)
    return available is not None and available.is_set() and getattr(entry, "http_response", entry) is None
