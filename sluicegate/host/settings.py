"""What the host reads from host.json, local.settings.json and the environment.

``functionTimeout`` and everything else in host.json that is not named here is left to Azure's host: this one neither ends
nor restarts a function that runs for long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sluicegate.errors import StartupError

DEFAULT_MAX_BODY_BYTES = 100 * 1024 * 1024

_SETTING = re.compile(r"%([^%]+)%")


@dataclass(frozen=True)
class HostSettings:
    """The host's own settings; every other setting is the app's."""

    route_prefix: str = "api"
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    time_zone: tzinfo = UTC


def read_host_settings(app_dir: Path, environ: Mapping[str, str]) -> HostSettings:
    """Read host.json, ``FUNCTIONS_REQUEST_BODY_SIZE_LIMIT`` (bytes) and ``WEBSITE_TIME_ZONE``.

    Raises:
        StartupError: A file or value cannot be used.
    """
    host_json = _read_json(app_dir / "host.json")
    if host_json.get("version") != "2.0":
        raise StartupError(f'{app_dir / "host.json"}: "version" must be "2.0"')
    http = host_json.get("extensions", {}).get("http", {})
    return HostSettings(
        route_prefix=str(http.get("routePrefix", "api")),
        max_body_bytes=_max_body_bytes(environ.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT")),
        time_zone=_time_zone(environ.get("WEBSITE_TIME_ZONE")),
    )


def apply_local_settings(app_dir: Path, environ: MutableMapping[str, str]) -> None:
    """Put the values of local.settings.json, if there is one, where the environment has none.

    Raises:
        StartupError: The file is encrypted or a value is not a string.
    """
    path = app_dir / "local.settings.json"
    if not path.exists():
        return
    settings = _read_json(path)
    if settings.get("IsEncrypted"):
        raise StartupError(f"{path}: encrypted settings can only be read by the Core Tools")
    for name, value in settings.get("Values", {}).items():
        if not isinstance(value, str):
            raise StartupError(f"{path}: the value of {name} must be a string")
        environ.setdefault(name, value)


def substitute(text: str, environ: Mapping[str, str], *, used_by: str) -> str:
    """Replace each ``%SETTING%``.

    Raises:
        StartupError: A setting is missing.
    """

    def value(setting: re.Match[str]) -> str:
        if setting[1] not in environ:
            raise StartupError(f"{used_by}: the setting {setting[1]} is missing")
        return environ[setting[1]]

    return _SETTING.sub(value, text)


def is_disabled(function: str, environ: Mapping[str, str]) -> bool:
    """Tell whether ``AzureWebJobs.<function>.Disabled`` is set; underscores may stand for the dots."""
    names = (f"AzureWebJobs.{function}.Disabled", f"AzureWebJobs_{function}_Disabled")
    return any(environ.get(name, "").lower() in ("1", "true") for name in names)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise StartupError(f"{path} is missing") from None
    except ValueError as error:
        raise StartupError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise StartupError(f"{path} must hold an object")
    return content


def _max_body_bytes(value: str | None) -> int:
    if value is None:
        return DEFAULT_MAX_BODY_BYTES
    if not value.isdecimal():
        raise StartupError(f"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT must be a number of bytes, not {value!r}")
    return int(value)


def _time_zone(value: str | None) -> tzinfo:
    try:
        return ZoneInfo(value) if value else UTC
    except (KeyError, ValueError):
        raise StartupError(f"WEBSITE_TIME_ZONE: {value!r} is not a time zone in the tz database") from None
