"""The functions of an app: imported as the worker imports them, in the order in which the host tries their routes."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.functions import FunctionRegister

from sluicegate.errors import StartupError
from sluicegate.host.routes import Route, parse_route
from sluicegate.host.settings import is_disabled, substitute

log = logging.getLogger(__name__)

_NAME = re.compile(r"(?!host$)[a-z][a-z0-9_-]{0,127}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Function:
    """What both kinds of functions have."""

    name: str
    handler: Callable[..., Any]
    parameter: str
    """The handler's parameter that receives the request or the timer."""
    takes_context: bool
    disabled: bool


@dataclass(frozen=True, kw_only=True)
class HttpFunction(Function):
    """A function with an HTTP trigger; while disabled it keeps its route and answers 404."""

    route: Route


@dataclass(frozen=True, kw_only=True)
class TimerFunction(Function):
    """A function with a timer trigger; while disabled it runs only when it is asked to."""

    schedule: str
    run_on_startup: bool


def load_app(app_dir: Path, environ: Mapping[str, str]) -> FunctionRegister:
    """Import function_app.py, or the file that ``PYTHON_SCRIPT_FILE_NAME`` names.

    The app's folder goes to the end of ``sys.path``, where the worker puts it: a module of an installed package with
    the same name comes first here too.

    Raises:
        StartupError: The import fails, or there is not exactly one function app in the module.
    """
    file_name = environ.get("PYTHON_SCRIPT_FILE_NAME", "function_app.py")
    if not (app_dir / file_name).is_file():
        raise StartupError(f"{app_dir / file_name} is missing")
    if str(app_dir) not in sys.path:
        sys.path.append(str(app_dir))
    try:
        module = importlib.import_module(file_name.removesuffix(".py"))
    except StartupError:
        raise
    except Exception as error:
        raise StartupError(f"{file_name} cannot be imported: {type(error).__name__}: {error}") from error
    if Path(module.__file__ or "").resolve() != (app_dir / file_name).resolve():
        raise StartupError(f"{module.__file__} comes before {app_dir / file_name} on the module search path")
    apps = [value for value in vars(module).values() if isinstance(value, FunctionRegister)]
    if len(apps) != 1:
        raise StartupError(f"{file_name} must hold exactly one function app at top level, found {len(apps)}")
    return apps[0]


def index(app: FunctionRegister, environ: Mapping[str, str], *, route_prefix: str) -> list[Function]:
    """Return the app's functions in the host's order: by name, ignoring case.

    Of several HTTP functions whose routes match a request, the first in this order gets it; neither the order in the
    source nor how specific a route is counts.

    Raises:
        StartupError: A function would not load on Azure, or this host must not serve it.

    Source: azure-functions-host ``FunctionMetadataManager``. Its ``OrdinalIgnoreCase`` compares upper case, so that
    ``chat_list`` comes after ``chatter``.
    """
    functions = [_function(built, environ, route_prefix) for built in _built(app)]
    known = sorted((function for function in functions if function is not None), key=lambda each: each.name.upper())
    for previous, following in itertools.pairwise(known):
        if previous.name.upper() == following.name.upper():
            raise StartupError(f"two functions are named {following.name}")
    return known


def _built(app: FunctionRegister) -> list[Any]:
    # Left as it is, the library takes a second listing of the same app for duplicates.
    app.functions_bindings = {}
    try:
        return app.get_functions()
    except ValueError as error:
        raise StartupError(str(error)) from None


def _function(built: Any, environ: Mapping[str, str], route_prefix: str) -> Function | None:  # untyped
    name: str = built.get_function_name()
    if not _NAME.fullmatch(name):
        raise StartupError(f"function {name!r}: a name is a letter and then letters, digits, _ and -, at most 128")
    trigger = next(binding for binding in map(json.loads, built.get_raw_bindings()) if "rigger" in binding["type"])
    handler = built.get_user_function()
    common: dict[str, Any] = {
        "name": name,
        "handler": handler,
        "parameter": trigger["name"],
        "takes_context": "context" in inspect.signature(handler).parameters,
        "disabled": is_disabled(name, environ),
    }
    match trigger["type"]:
        case "httpTrigger":
            return HttpFunction(**common, route=_route(name, trigger, environ, route_prefix))
        case "timerTrigger":
            schedule = substitute(trigger["schedule"], environ, used_by=f"function {name}")
            return TimerFunction(**common, schedule=schedule, run_on_startup=bool(trigger.get("runOnStartup")))
    log.warning("function %s: a %s is not served here", name, trigger["type"])
    return None


def _route(name: str, trigger: Mapping[str, Any], environ: Mapping[str, str], route_prefix: str) -> Route:
    if str(trigger.get("authLevel", "FUNCTION")).upper() != "ANONYMOUS":
        raise StartupError(
            f"function {name}: its auth level is {trigger.get('authLevel', 'FUNCTION')}, but this host knows no function"
            " keys and would serve it to everyone; use AuthLevel.ANONYMOUS and check the caller in the app"
        )
    template = substitute(trigger.get("route") or name, environ, used_by=f"function {name}")
    if template.strip("/").lower().startswith(("admin", "runtime")):
        raise StartupError(f"function {name}: the route {template!r} belongs to the host")
    return parse_route(template, prefix=route_prefix, methods=trigger.get("methods"))
