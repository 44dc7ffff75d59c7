"""What tools a row offers, and whether a call fits them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from sluicegate.training_data.findings import Path, Say

MOST_ENUM = 1000
"""Values of an enumeration that arguments are held against: a row may have as many calls as it has values."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_TOOL = frozenset({"type", "function"})
_FUNCTION = frozenset({"name", "description", "parameters", "strict"})
_CALLED = frozenset({"name", "arguments"})

Functions = Mapping[str, Mapping[str, Any]]
"""Name -> JSON schema of its parameters; empty for one that has none, or a wrong one."""


def check_fields(found: Mapping[str, Any], known: frozenset[str], path: Path, say: Say) -> None:
    """Report a field that is not known, without its name, which may be anything."""
    if not known.issuperset(found):
        say("field_unknown", (*path, "*"))


def offered(row: Mapping[str, Any], path: Path, say: Say) -> Functions:
    """Check ``tools`` and ``functions`` of a row, or of a preference's input, and return what they offer."""
    functions: dict[str, Mapping[str, Any]] = {}
    for field in ("tools", "functions"):
        listed = row.get(field)
        at = (*path, field)
        if listed is None:
            continue
        if not isinstance(listed, list):
            say("type_wrong", at)
        elif not listed:
            say("list_empty", at)
        else:
            for place, each in enumerate(listed):
                if field == "tools":
                    _tool(each, (*at, place), functions, say)
                else:
                    _function(each, (*at, place), functions, say)
    if "parallel_tool_calls" in row and not isinstance(row["parallel_tool_calls"], bool):
        say("type_wrong", (*path, "parallel_tool_calls"))
    return functions


def check_called(found: Any, path: Path, functions: Functions, say: Say) -> None:
    """Check ``{"name", "arguments"}`` of a call."""
    if not isinstance(found, dict):
        say("type_wrong" if found is not None else "field_missing", path)
        return
    check_fields(found, _CALLED, path, say)
    name, arguments = found.get("name"), found.get("arguments")
    parameters: Mapping[str, Any] = {}
    if not isinstance(name, str):
        say("field_missing" if name is None else "type_wrong", (*path, "name"))
    elif name not in functions:
        say("tool_unknown", (*path, "name"))
    else:
        parameters = functions[name]
    at = (*path, "arguments")
    if not isinstance(arguments, str):
        say("field_missing" if arguments is None else "type_wrong", at)
        return
    try:
        given = from_json(arguments, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        say("arguments_invalid", at)
    elif not _fits(given, parameters):
        say("arguments_mismatch", at)


def _tool(tool: Any, path: Path, functions: dict[str, Mapping[str, Any]], say: Say) -> None:
    if not isinstance(tool, dict):
        say("type_wrong", path)
        return
    check_fields(tool, _TOOL, path, say)
    if tool.get("type") != "function":
        say("tool_type" if "type" in tool else "field_missing", (*path, "type"))
        return
    _function(tool.get("function"), (*path, "function"), functions, say)


def _function(function: Any, path: Path, functions: dict[str, Mapping[str, Any]], say: Say) -> None:
    if not isinstance(function, dict):
        say("field_missing" if function is None else "type_wrong", path)
        return
    check_fields(function, _FUNCTION, path, say)
    for field, kind in (("description", str), ("strict", bool)):
        if not isinstance(function.get(field), (kind, type(None))):
            say("type_wrong", (*path, field))
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {}
    elif not (isinstance(parameters, dict) and parameters.get("type") == "object" and _is_schema(parameters)):
        say("tool_schema", (*path, "parameters"))
        parameters = {}
    name = function.get("name")
    if not isinstance(name, str):
        say("field_missing" if name is None else "type_wrong", (*path, "name"))
    elif NAME.fullmatch(name) is None:
        say("name_invalid", (*path, "name"))
    elif name in functions:
        say("tool_repeated", (*path, "name"))
    else:
        functions[name] = parameters


def _is_schema(schema: Any) -> bool:
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, dict):
        return False
    kinds = schema.get("type", [])
    properties, required = schema.get("properties", {}), schema.get("required", [])
    alternatives = [schema[key] for key in ("anyOf", "oneOf", "allOf") if key in schema]
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return (
        len(kinds) <= len(_TYPES)
        and all(isinstance(kind, str) and kind in _TYPES for kind in kinds)
        and isinstance(properties, dict)
        and all(map(_is_schema, properties.values()))
        and isinstance(required, list)
        and all(isinstance(name, str) and (name in properties or not properties) for name in required)
        and isinstance(schema.get("enum", []), list)
        and all(_is_schema(schema[key]) for key in ("items", "additionalProperties") if key in schema)
        and all(isinstance(arms, list) and all(map(_is_schema, arms)) for arms in alternatives)
    )


def _fits(given: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Return whether the arguments have what is required, nothing that is forbidden, and the types of the top level."""
    properties = parameters.get("properties", {})
    if not all(name in given for name in parameters.get("required", [])):
        return False
    if parameters.get("additionalProperties") is False and not all(name in properties for name in given):
        return False
    return all(_is_of(value, properties[name]) for name, value in given.items() if name in properties)


def _is_of(value: Any, schema: Any) -> bool:
    if not isinstance(schema, dict):
        return schema is True
    if "enum" in schema and len(schema["enum"]) < MOST_ENUM and value not in schema["enum"]:
        return False
    kinds = schema.get("type", [])
    if not kinds:
        return True
    return any(
        isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        for kind in (kinds if isinstance(kinds, list) else [kinds])
    )
