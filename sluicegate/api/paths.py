"""Where in a request an error is: pydantic's location without the names it gives to the arms of a union."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from sluicegate.requests import Part

Path: TypeAlias = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a request.

    Attributes:
        path: Keys and indices from the outside in.
        union: The path of the outermost value that may be of several kinds, such as text or a list; None without one.
    """

    path: Path
    union: Path | None


def place(kind: type[Part], loc: Sequence[int | str]) -> Place:
    """Return the place that ``loc``, the location of a validation error of ``kind``, stands for."""
    arms = [kind]
    path: Path = ()
    union: Path | None = None
    for item in loc:
        if len(arms) > 1:
            if union is None and not _is_tag(item, arms):
                union = path
            arms = [arm for arm in arms if _is_named(arm, item)][:1] or arms
        elif item != "[key]":
            path = (*path, item)
            arms = _arms(_child(arms[0], item))
    return Place(path, union)


def shown(path: Path) -> str | None:
    """Return ``path`` as in ``messages[0].content``; None for the body itself. Keys are cut at 64 characters."""
    text = ""
    for item in path:
        key = item if isinstance(item, int) or len(item) <= 64 else f"{item[:64]}…"
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".") or None


def found(document: Any, path: Iterable[int | str]) -> Any:
    """Return the value at ``path`` of parsed JSON."""
    for item in path:
        document = document[item]
    return document


def _arms(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _arms(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [arm for part in get_args(annotation) for arm in _arms(part) if arm is not NoneType]
    return [annotation]


def _child(arm: Any, item: int | str) -> Any:
    if _is_part(arm):
        fields = {info.alias or name: info.annotation for name, info in arm.model_fields.items()}
        return fields.get(str(item), Any)
    arguments = get_args(arm) or (Any,)
    return arguments[0] if get_origin(arm) is tuple else arguments[-1]


def _is_named(arm: Any, label: int | str) -> bool:
    if _is_part(arm):
        return label == arm.__name__ or label in _tags(arm)
    return get_origin(arm) is tuple and str(label).startswith("tuple[")


def _is_tag(label: int | str, arms: list[Any]) -> bool:
    return any(_is_part(arm) and label in _tags(arm) for arm in arms)


def _is_part(arm: Any) -> bool:
    return inspect.isclass(arm) and issubclass(arm, Part)


def _tags(arm: type[Part]) -> tuple[Any, ...]:
    field = arm.model_fields.get("role") or arm.model_fields.get("type")
    return get_args(field.annotation) if field else ()
