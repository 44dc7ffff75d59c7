"""One call of a function, made the way the worker makes it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sluicegate.host.functions import Function

INVOCATION_ID_HEADER = b"x-ms-invocation-id"


@dataclass(frozen=True)
class TraceContext:
    """As ``azure.functions.TraceContext``; nothing is traced here."""

    trace_parent: str = ""
    trace_state: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InvocationContext:
    """As ``azure.functions.Context``, for handlers with a parameter named ``context``."""

    invocation_id: str
    function_name: str
    function_directory: str
    trace_context: TraceContext = field(default_factory=TraceContext)
    retry_context: None = None
    thread_local_storage: threading.local = field(default_factory=threading.local)


def new_invocation_id() -> str:
    """Return a random id in the host's form."""
    return str(uuid.uuid4())


async def invoke(function: Function, value: object, *, invocation_id: str, app_dir: Path, threads: Executor) -> Any:
    """Call the handler and return what it returns, or raise what it raises.

    Args:
        value: The request or the timer.
        threads: Where handlers that are not coroutine functions run.
    """
    arguments = {function.parameter: value}
    if function.takes_context:
        arguments["context"] = InvocationContext(invocation_id, function.name, str(app_dir))
    if not inspect.iscoroutinefunction(function.handler):
        call = functools.partial(function.handler, **arguments)
        return await asyncio.get_running_loop().run_in_executor(threads, call)
    # A task of its own, as in the worker: what the handler sets in context variables is not seen by the response's body.
    return await asyncio.create_task(function.handler(**arguments))
