"""Read a request's body; whatever is wrong with it becomes one :class:`InvalidRequest` in OpenAI's wording.

No message quotes a value: the path of a field, the rule it broke and the kind of JSON found there are all a caller needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from sluicegate.api.paths import Path, found, place, shown
from sluicegate.errors import InvalidRequest
from sluicegate.requests import Part

R = TypeVar("R", bound=Part)


def parse(kind: type[R], raw: bytes) -> R:
    """Return the request that ``raw`` holds.

    Of duplicate keys the last counts, for filters and the model alike.

    Raises:
        InvalidRequest: ``param`` is the path of the field to change, such as ``messages[0].content``.
    """
    try:
        if b"NaN" in raw or b"Infinity" in raw:
            from_json(raw, allow_inf_nan=False)
        return kind.model_validate_json(raw)
    except ValidationError as error:
        problem = _problem(kind, raw, error.errors(include_url=False, include_input=False))
    except ValueError as error:
        problem = _malformed(str(error))
    raise problem


def _problem(kind: type[Part], raw: bytes, errors: list[ErrorDetails]) -> InvalidRequest:
    context = errors[0].get("ctx", {})
    if errors[0]["type"] == "json_invalid":
        return _malformed(context["error"])
    if errors[0]["type"] == "sluicegate":
        return InvalidRequest(context["message"], param=context["param"])
    document = from_json(raw)
    findings = [_finding(kind, document, error) for error in errors]
    return _first(findings)


def _malformed(reason: str) -> InvalidRequest:
    return InvalidRequest(f"We could not parse the JSON body of your request: {reason}.", code="invalid_json")


# --- which of several problems ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Finding:
    """One of pydantic's errors; ``value`` is what stands at ``path``, or None where nothing does."""

    rule: str
    path: Path
    union: Path | None
    context: Mapping[str, Any]
    value: Any

    @property
    def is_of_wrong_type(self) -> bool:
        return self.rule in _TYPES or (self.rule == "literal_error" and not isinstance(self.value, str))

    @property
    def progress(self) -> tuple[int, int, bool]:
        """How far validation came in one arm of a union."""
        last = self.path[-1]
        return len(self.path), last if isinstance(last, int) else 0, not self.is_of_wrong_type


def _finding(kind: type[Part], document: Any, error: ErrorDetails) -> _Finding:
    rule, context = error["type"], error.get("ctx", {})
    where = place(kind, error["loc"])
    path = where.path
    if rule in ("union_tag_invalid", "union_tag_not_found"):
        path = (*path, context["discriminator"].strip("'"))
        context = {"expected": context.get("expected_tags")}
        rule = "missing" if rule == "union_tag_not_found" else "literal_error"
    return _Finding(rule, path, where.union, context, None if rule == "missing" else found(document, path))


def _first(findings: list[_Finding]) -> InvalidRequest:
    """Return the first problem; where a value may be of several kinds, that of the kind it comes closest to.

    A list whose element failed is reported as too short as well, but later and less deep than the element.
    """
    finding = findings[0]
    if finding.union is None:
        return _worded(finding, [finding])
    arms = [other for other in findings if other.union == finding.union]
    finding = max(arms, key=lambda arm: arm.progress)
    return _worded(finding, [arm for arm in arms if arm.path == finding.path])


# --- wording ---------------------------------------------------------------------------------------------------------

_TYPES = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "tuple_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}

_RULES = {
    "missing": ("missing_required_parameter", "Missing required parameter: '{param}'."),
    "extra_forbidden": ("unknown_parameter", "Unknown parameter: '{param}'."),
    "literal_error": ("invalid_value", "Invalid value: supported values are: {limit}."),
    "greater_than_equal": (
        "{noun}_below_min_value",
        "Invalid '{param}': {noun} below minimum value. Expected a value >= {limit}.",
    ),
    "less_than_equal": (
        "{noun}_above_max_value",
        "Invalid '{param}': {noun} above maximum value. Expected a value <= {limit}.",
    ),
    "too_short": (
        "empty_array",
        "Invalid '{param}': empty array. "
        "Expected an array with minimum length {limit}, but got an empty array instead.",
    ),
    "too_long": (
        "array_above_max_length",
        "Invalid '{param}': array too long. "
        "Expected an array with maximum length {limit}, but got an array with length {length} instead.",
    ),
    "string_too_short": (
        "empty_string",
        "Invalid '{param}': empty string. "
        "Expected a string with minimum length {limit}, but got an empty string instead.",
    ),
    "string_too_long": (
        "string_above_max_length",
        "Invalid '{param}': string too long. "
        "Expected a string with maximum length {limit}, but got a string with length {length} instead.",
    ),
    "string_pattern_mismatch": (
        "invalid_value",
        "Invalid '{param}': string does not match pattern. Expected a string that matches the pattern '{limit}'.",
    ),
}
"""Rule -> code and message."""


def _worded(finding: _Finding, arms: list[_Finding]) -> InvalidRequest:
    param = shown(finding.path)
    if finding.is_of_wrong_type:
        return _wrong_type(finding, param, [arm for arm in arms if arm.is_of_wrong_type])
    if finding.rule == "extra_forbidden" and len(finding.path) == 1:
        return InvalidRequest(f"Unrecognized request argument supplied: {param}", code="unknown_parameter", param=param)
    code, message = _RULES.get(finding.rule, ("invalid_value", "Invalid value for '{param}'."))
    limit = next((finding.context[key] for key in _LIMITS if key in finding.context), None)
    noun = "integer" if isinstance(limit, int) else "decimal"
    length = len(finding.value) if isinstance(finding.value, str | list) else 0
    shown_limit = f"{limit:g}" if isinstance(limit, float) else limit
    words = {"param": param, "limit": shown_limit, "noun": noun, "length": length}
    return InvalidRequest(message.format_map(words), code=code.format_map(words), param=param)


_LIMITS = ("ge", "le", "min_length", "max_length", "pattern", "expected")


def _wrong_type(finding: _Finding, param: str | None, arms: list[_Finding]) -> InvalidRequest:
    expected = list(dict.fromkeys(_TYPES.get(arm.rule, "a string") for arm in arms))
    wanted = expected[0] if len(expected) == 1 else f"one of {', '.join(expected[:-1])} or {expected[-1]}"
    where = f"'{param}'" if param else "the request body"
    message = f"Invalid type for {where}: expected {wanted}, but got {_kind_of(finding.value)} instead."
    return InvalidRequest(message, code="invalid_type", param=param)


def _kind_of(value: object) -> str:
    kinds = {bool: "a boolean", int: "an integer", float: "a decimal number", str: "a string", list: "an array"}
    return "null" if value is None else kinds.get(type(value), "an object")
