"""Azure Functions' route templates: ASP.NET's syntax, compiled to patterns.

``{id}``, ``{id?}``, ``{id=all}``, ``{id:int}``, ``{id:length(3):alpha}``, ``v-{id}`` and, last, ``{*rest}``. Routes ignore
case and one trailing slash. Which of several matching routes is taken is decided by ``functions.index``.

Sources: ASP.NET Core's routing reference; azure-functions-host ``WebScriptHostHttpRoutesManager``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from sluicegate.errors import StartupError

Constraint = Callable[[str], bool]

_GUID = re.compile(r"\{?[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\}?", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"(\{[^{}]*\})")
_PARAMETER = re.compile(
    r"\{(?P<catch_all>\*{0,2})(?P<name>\w+)(?P<constraints>(?::\w+(?:\([^()]*\))?)*)(?:(?P<optional>\?)|=(?P<default>.*))?\}"
)
_CONSTRAINT = re.compile(r":(\w+)(?:\(([^()]*)\))?")


@dataclass(frozen=True)
class Route:
    """One function's route, prefix included."""

    template: str
    pattern: re.Pattern[str]
    methods: frozenset[str] | None
    """Upper case; ``None`` for any."""
    constraints: tuple[tuple[str, Constraint], ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """Return the route parameters, or ``None``.

        A wrong method is no match either, so that it ends in 404 and not in 405, as on Azure.

        Args:
            method: Upper case.
            path: As ``routing_path`` gives it.
        """
        if self.methods is not None and method not in self.methods:
            return None
        if (found := self.pattern.fullmatch(path)) is None:
            return None
        values = {name: value for name, value in found.groupdict().items() if value}
        if not all(check(values[name]) for name, check in self.constraints if name in values):
            return None
        return {**self.defaults, **values}


def parse_route(template: str, *, prefix: str = "", methods: Iterable[str] | None = None) -> Route:
    """Compile a template.

    Raises:
        StartupError: The template uses something that this host does not know.
    """
    full = "/".join(part for part in (prefix.strip("/"), template.strip("/")) if part)
    parser = _Parser(full)
    pattern = "".join(parser.segment(segment) for segment in full.split("/"))
    return Route(
        template=full,
        pattern=re.compile(pattern + "/?", re.IGNORECASE),
        methods=None if methods is None else frozenset(method.upper() for method in methods),
        constraints=tuple(parser.constraints),
        defaults=parser.defaults,
    )


def routing_path(raw_path: bytes) -> str:
    """Decode a request's path for routing: all percent escapes except ``%2F``, which stays inside its segment.

    Source: Kestrel's path decoding, dotnet/aspnetcore#11544.
    """
    return unquote(re.sub(r"%(2f)", r"%25\1", raw_path.decode("ascii", "replace"), flags=re.IGNORECASE))


class _Parser:
    """Collects what the segments of one template say about its parameters."""

    def __init__(self, template: str) -> None:
        self.template = template
        self.names: set[str] = set()
        self.constraints: list[tuple[str, Constraint]] = []
        self.defaults: dict[str, str] = {}
        self.may_end = False

    def segment(self, text: str) -> str:
        """Return one segment's pattern, its leading slash included."""
        pieces = [piece for piece in _PLACEHOLDER.split(text) if piece]
        if len(pieces) == 1 and (parameter := _PARAMETER.fullmatch(text)):
            return self._whole_segment(parameter)
        self._refuse_after_the_end()
        return "/" + "".join(self._piece(piece) for piece in pieces)

    def _whole_segment(self, parameter: re.Match[str]) -> str:
        name = self._declare(parameter)
        if parameter["catch_all"]:
            self._refuse_after_the_end()
            self.may_end = True
            return f"(?:/(?P<{name}>.*))?"
        if parameter["optional"] or parameter["default"] is not None:
            self.may_end = True
            if parameter["default"] is not None:
                self.defaults[name] = parameter["default"]
            return f"(?:/(?P<{name}>[^/]+))?"
        self._refuse_after_the_end()
        return f"/(?P<{name}>[^/]+)"

    def _piece(self, piece: str) -> str:
        if (parameter := _PARAMETER.fullmatch(piece)) is None:
            if "{" in piece or "}" in piece:
                raise self._unknown(piece)
            return re.escape(piece)
        if parameter["catch_all"] or parameter["optional"] or parameter["default"] is not None:
            raise self._unknown(piece)
        return f"(?P<{self._declare(parameter)}>[^/]+)"

    def _declare(self, parameter: re.Match[str]) -> str:
        name = parameter["name"]
        if name in self.names or not name.isidentifier():
            raise self._unknown(parameter[0])
        self.names.add(name)
        for kind, argument in _CONSTRAINT.findall(parameter["constraints"]):
            try:
                self.constraints.append((name, _CONSTRAINTS[kind](argument)))
            except (KeyError, ValueError, TypeError):
                raise self._unknown(parameter[0]) from None
        return name

    def _refuse_after_the_end(self) -> None:
        if self.may_end:
            raise StartupError(f"route {self.template!r}: only the last segments may be optional")

    def _unknown(self, piece: str) -> StartupError:
        return StartupError(f"route {self.template!r}: cannot use {piece!r} here")


def _integer(bits: int) -> Constraint:
    limit = 1 << (bits - 1)

    def check(value: str) -> bool:
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", value):
            return False
        return -limit <= int(value) < limit

    return check


def _between(low: float, high: float) -> Constraint:
    is_long = _integer(64)
    return lambda value: is_long(value) and low <= int(value) <= high


def _length(argument: str) -> Constraint:
    low, _, high = argument.partition(",")
    shortest, longest = int(low), int(high or low)
    return lambda value: shortest <= len(value) <= longest


def _range(argument: str) -> Constraint:
    low, high = argument.split(",")
    return _between(int(low), int(high))


_CONSTRAINTS: dict[str, Callable[[str], Constraint]] = {
    "alpha": lambda _: lambda value: re.fullmatch(r"[A-Za-z]+", value) is not None,
    "bool": lambda _: lambda value: value.lower() in ("true", "false"),
    "guid": lambda _: lambda value: _GUID.fullmatch(value) is not None,
    "int": lambda _: _integer(32),
    "length": _length,
    "long": lambda _: _integer(64),
    "max": lambda argument: _between(float("-inf"), int(argument)),
    "maxlength": lambda argument: _length(f"0,{int(argument)}"),
    "min": lambda argument: _between(int(argument), float("inf")),
    "minlength": lambda argument: _length(f"{int(argument)},{2**31}"),
    "range": _range,
}
