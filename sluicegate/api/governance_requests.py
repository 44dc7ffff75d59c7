"""What the operations of abuse monitoring share: bodies, and requests of operators, who have no account of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sluicegate.api.data_plane import answered, read_body
from sluicegate.app import Sluicegate
from sluicegate.errors import InvalidRequest
from sluicegate.types import Principal

MAX_BODY_BYTES = 64 << 10
B = TypeVar("B", bound=BaseModel)


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time needs its offset, such as Z")
    return moment


Moment = Annotated[datetime, AfterValidator(_aware)]
"""A time with its offset."""
Reference = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""Why something is done, such as a ticket's number; the audit log says which characters it takes."""


class Body(BaseModel):
    """Base of what is sent to these operations."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


async def body_of(kind: type[B], http: HttpRequest) -> B:
    """Return the body of a request.

    Raises:
        InvalidRequest: The message names each field that is wrong, and quotes no value.
    """
    try:
        return kind.model_validate_json(await read_body(http, MAX_BODY_BYTES))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        told = [f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in problems[:10]]
        param = ".".join(map(str, problems[0]["loc"])) or None
        raise InvalidRequest(f"The request cannot be used: {'; '.join(told)}.", param=param) from None


async def by_operator(
    gate: Sluicegate, http: HttpRequest, operation: str, work: Callable[[Principal], Awaitable[Response]]
) -> Response:
    """Authenticate an operator, who is of the whole deployment, and do the work."""

    async def for_operator(_: str) -> Response:
        return await work(await gate.authenticate(http.headers, operation))

    return await answered(gate, http, for_operator)


def actor_of(principal: Principal) -> str:
    """Return who is calling, as the audit log has it."""
    return f"{principal.account or 'deployment'}/{principal.name}"
