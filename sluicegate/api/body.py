"""Read a request's body; whatever is wrong with it becomes one :class:`InvalidRequest` in OpenAI's wording.

No message quotes a value: the path of a field, the rule it broke and the kind of JSON found there are all a caller needs.
"""

from __future__ import annotations

from typing import TypeVar

from sluicegate.requests import Request

R = TypeVar("R", bound=Request)


def parse(kind: type[R], raw: bytes) -> R:
    """Return the request that ``raw`` holds.

    Of duplicate keys the last counts, for filters and the model alike.

    Raises:
        InvalidRequest: ``param`` is the path of the field to change, such as ``messages[0].content``.
    """
    raise NotImplementedError
