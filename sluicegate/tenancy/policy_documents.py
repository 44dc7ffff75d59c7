"""What a policy and a blocklist look like as JSON: ARM's ``properties`` of ``raiPolicies`` and of blocklist items.

Two properties of a policy are ours: ``failOpen`` and ``wholeRequest``, see :class:`~sluicegate.policies.Policy`. Names of
filters and other words are read in any case, as ARM does. Source: api-version 2025-09-01.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, TypeAlias, TypeVar

import regex
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from sluicegate.errors import InvalidRequest
from sluicegate.expressions import BadExpression, compile_all, compile_one
from sluicegate.policies import (
    CATEGORIES,
    DEFAULT_V2,
    Blocklist,
    BlocklistItem,
    BlocklistUse,
    ContentFilter,
    Mode,
    Policy,
    Source,
    Threshold,
)

MAX_ITEMS = 10_000
MAX_PATTERN = 1_000
"""Characters of an item's pattern."""
MAX_LISTS = 20
"""Blocklists that one policy may use."""
_HAS_TEXT = regex.compile(r"[^\p{C}\p{Z}\p{M}\p{Default_Ignorable_Code_Point}]")
_CATEGORIES = {category.name.casefold(): category for category in CATEGORIES.values()}
_NAMES = {name: category.name for name, category in _CATEGORIES.items()} | {
    "personally identifiable information": CATEGORIES["personally_identifiable_information"].name,
    "indirect attack spotlighting": "Indirect Attack Spotlighting",
    "task adherence": "Task Adherence",
}
"""Names of filters as they may be written; the last two are Azure's, which templates for Azure switch off by name."""

E = TypeVar("E", bound=StrEnum)
S = TypeVar("S", bound="_Shape")


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A policy as it is written, before it is resolved.

    Attributes:
        base: The name of the policy that says what this one does not.
        filters: Those it says itself.
        uses: The blocklists it uses, by name.
        properties: As read, in ARM's spelling.
    """

    base: str
    mode: Mode | None
    filters: tuple[ContentFilter, ...]
    uses: tuple[tuple[str, Source, bool], ...]
    fail_open: bool
    whole_request: bool
    properties: Mapping[str, Any]

    @property
    def list_names(self) -> frozenset[str]:
        """The names of the blocklists it uses."""
        return frozenset(name for name, _, _ in self.uses)

    def resolved(self, name: str, base: Policy, lists: Mapping[str, Blocklist]) -> Policy:
        """Return the policy.

        Args:
            lists: By name, all of :attr:`list_names`.
        """
        return replace(
            base.replacing(*self.filters),
            name=name,
            mode=self.mode or base.mode,
            blocklists=tuple(BlocklistUse(lists[used], source, blocking) for used, source, blocking in self.uses),
            fail_open=self.fail_open,
            whole_request=self.whole_request,
        )


def read_policy(properties: object, where: str = "properties") -> PolicyDocument:
    """Read a policy's ``properties``.

    Args:
        where: What the error calls them.

    Raises:
        InvalidRequest: The message and ``param`` name what to change, such as ``properties.contentFilters[0].name``.
    """
    shape = _read(_Policy, properties, where)
    written = shape.model_dump(mode="json", by_alias=True, exclude_none=True)
    return PolicyDocument(
        base=shape.base_policy_name or DEFAULT_V2.name,
        mode=shape.mode,
        filters=tuple(
            ContentFilter(
                each.name, each.source, each.enabled, each.blocking, each.severity_threshold or Threshold.MEDIUM
            )
            for each in shape.content_filters or ()
        ),
        uses=tuple((each.blocklist_name, each.source, each.blocking) for each in shape.custom_blocklists or ()),
        fail_open=shape.fail_open,
        whole_request=shape.whole_request,
        properties={**written, "type": "UserManaged"},
    )


def read_item(properties: object, where: str = "properties") -> BlocklistItem:
    """Read a blocklist item's ``properties``: ``pattern`` and ``isRegex``.

    Raises:
        InvalidRequest: As for ``read_policy``.
    """
    shape = _read(_Item, properties, where)
    item = BlocklistItem(shape.pattern, shape.is_regex)
    if problem := _problem(item):
        raise _invalid(f"{where}.pattern", problem)
    return item


def item_properties(item: BlocklistItem) -> dict[str, Any]:
    """Return an item's ``properties``."""
    return {"pattern": item.pattern, "isRegex": item.is_regex}


def check_items(items: Collection[BlocklistItem], where: str) -> None:
    """Check what holds for the items of one list together.

    Raises:
        InvalidRequest: There are more than :data:`MAX_ITEMS`, or their expressions are too large together.
    """
    if len(items) > MAX_ITEMS:
        raise _invalid(where, f"a blocklist has at most {MAX_ITEMS:,} items")
    try:
        compile_all(item.pattern for item in items if item.is_regex)
    except BadExpression as error:
        raise _invalid(where, f"the regular expressions cannot be used together: {error}") from None


# --- shapes ----------------------------------------------------------------------------------------------------------


class _Shape(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, alias_generator=to_camel
    )


def _word(kind: type[E]) -> Callable[[object], object]:
    """Return what reads a word of an enumeration in any case."""
    words = {word.value.casefold(): word for word in kind}

    def read(value: object) -> object:
        word = words.get(value.casefold()) if isinstance(value, str) else None
        if word is None:
            raise _rule(f"must be one of {', '.join(each.value for each in kind)}")
        return word

    return read


def _filter_name(value: str) -> str:
    if value.casefold() not in _NAMES:
        raise _rule(f"must be one of {', '.join(category.name for category in CATEGORIES.values())}")
    return _NAMES[value.casefold()]


_Source: TypeAlias = Annotated[Source, BeforeValidator(_word(Source))]


class _Filter(_Shape):
    name: Annotated[str, AfterValidator(_filter_name)]
    source: _Source
    enabled: bool = True
    blocking: bool = True
    severity_threshold: Annotated[Threshold, BeforeValidator(_word(Threshold))] | None = None


class _Use(_Shape):
    blocklist_name: str
    source: _Source
    blocking: bool = True


def _consistent(filters: list[_Filter] | None) -> list[_Filter] | None:
    seen: set[tuple[str, Source]] = set()
    for each in filters or ():
        if (each.name, each.source) in seen:
            raise _rule(f"names {each.name} for {each.source} twice")
        seen.add((each.name, each.source))
        category = _CATEGORIES.get(each.name.casefold())
        if each.enabled and category is None:
            raise _rule(f"enables {each.name}, which is not supported")
        if each.enabled and category and each.source not in category.sources:
            raise _rule(f"enables {each.name} for {each.source}, where it cannot be looked for")
    return filters


def _few_lists(uses: list[_Use]) -> list[_Use]:
    names = [(use.blocklist_name.casefold(), use.source) for use in uses]
    if len(set(names)) < len(names):
        raise _rule("names a blocklist twice for the same source")
    if len({name for name, _ in names}) > MAX_LISTS:
        raise _rule(f"a policy uses at most {MAX_LISTS} blocklists")
    return uses


def _no_topics(topics: list[Any]) -> list[Any]:
    if topics:
        raise _rule("custom topics are not supported")
    return topics


class _Policy(_Shape):
    type: Any = Field(default=None, exclude=True)
    mode: Annotated[Mode, BeforeValidator(_word(Mode))] | None = None
    base_policy_name: str | None = None
    content_filters: Annotated[list[_Filter], Field(max_length=100), AfterValidator(_consistent)] | None = None
    custom_blocklists: Annotated[list[_Use], AfterValidator(_few_lists)] | None = None
    custom_topics: Annotated[list[Any], AfterValidator(_no_topics)] | None = None
    fail_open: bool = False
    whole_request: bool = False


class _Item(_Shape):
    pattern: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)]
    is_regex: bool = False


def _problem(item: BlocklistItem) -> str | None:
    if not _HAS_TEXT.search(item.pattern):
        return "it holds no visible character"
    if not item.is_regex:
        return None
    try:
        compile_one(item.pattern)
    except BadExpression as error:
        return f"not a regular expression of RE2: {error}"
    return None


# --- errors ----------------------------------------------------------------------------------------------------------


def _rule(message: str) -> PydanticCustomError:
    return PydanticCustomError("sluicegate", "{message}", {"message": message})


def _read(kind: type[S], value: object, where: str) -> S:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        problem = _invalid(where + path, _SAID.get(first["type"]) or first["msg"])
    raise problem


_SAID = {
    "extra_forbidden": "no such property",
    "missing": "it is missing",
    "model_type": "must be an object",
    "list_type": "must be an array",
    "bool_type": "must be true or false",
}


def _invalid(param: str, problem: str) -> InvalidRequest:
    problem = problem[:1].lower() + problem[1:].rstrip(".")
    return InvalidRequest(f"Invalid '{param}': {problem}.", code="InvalidResourceProperties", param=param)
