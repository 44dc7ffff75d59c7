"""A request of the control plane that was authenticated: its scope, its body, its conditions, and how answers name resources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import from_json
from starlette.requests import Request as HttpRequest

from sluicegate.api.data_plane import read_body
from sluicegate.api.encoding import encode
from sluicegate.app import Sluicegate
from sluicegate.audit.entries import Event
from sluicegate.errors import InvalidRequest, NotFound, PreconditionFailed
from sluicegate.tenancy.deployments import NAME
from sluicegate.tenancy.tenants import Scope, Tenant
from sluicegate.types import Principal

PROVIDER = "Microsoft.CognitiveServices"
MAX_BODY_BYTES = 4 << 20
"""Of a request to the control plane."""
PAGE = 100
_SUBSCRIPTION = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_GROUP = re.compile(r"[\w.()-]{0,89}[\w()-]", re.ASCII)
_ACCOUNT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])")

B = TypeVar("B", bound="Body")
Tags: TypeAlias = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=512)], Annotated[str, Field(max_length=256)]],
    Field(max_length=50),
]
"""What a caller notes beside a resource, within ARM's bounds."""


class Body(BaseModel):
    """Base of what callers send, in ARM's camel case. What answers hold and requests may not set is left out before."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, alias_generator=to_camel
    )


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request.

    Attributes:
        params: What the path says, in its own case: ``subscription``, ``group``, ``location``, ``account``, …
        api_version: As given, for links to what follows.
    """

    gate: Sluicegate
    http: HttpRequest
    principal: Principal
    params: Mapping[str, str]
    api_version: str

    @property
    def scope(self) -> Scope:
        """The subscription, or the resource group in it, that the path names."""
        return Scope(self.params["subscription"].lower(), self.params.get("group", "").lower())

    async def tenant(self) -> Tenant:
        """Return the account that the path names.

        Raises:
            NotFound: There is none in this resource group, or it is deleted.
        """
        found = await self.gate.tenants.get(self.params["account"])
        if found is None or found.deleted or found.is_purged or found.scope != self.scope:
            raise self.not_found()
        return found

    def not_found(self, what: str = "accounts", name: str | None = None) -> NotFound:
        """Return the error that says which resource is not there."""
        resource = f"{PROVIDER}/{what}/{name if name is not None else self.params['account']}"
        where = f" under resource group '{self.params['group']}'" if "group" in self.params else ""
        return NotFound(f"The Resource '{resource}'{where} was not found.", code="ResourceNotFound")

    async def json(self) -> dict[str, Any]:
        """Return the body, a JSON object."""
        raw = await read_body(self.http, MAX_BODY_BYTES)
        try:
            document = from_json(raw, allow_inf_nan=False)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise InvalidRequest("The request content must be a JSON object.", code="InvalidRequestContent")
        return document

    def check_condition(self, etag: str | None) -> None:
        """Refuse a change of a resource that is not the one the caller knows.

        Args:
            etag: The resource's as it is stored, or None when there is none.

        Raises:
            PreconditionFailed: ``If-Match`` or ``If-None-Match`` does not hold.
        """
        wanted, unwanted = self.http.headers.get("if-match"), self.http.headers.get("if-none-match")
        if wanted is not None and (etag is None or wanted not in ("*", shown_etag(etag))):
            raise PreconditionFailed("The resource is not the one of the given ETag: read it again, then change it.")
        if unwanted is not None and etag is not None and unwanted in ("*", shown_etag(etag)):
            raise PreconditionFailed("The resource exists.")

    @property
    def is_conditional(self) -> bool:
        """Whether the change is of one version of the resource only."""
        return "if-match" in self.http.headers or "if-none-match" in self.http.headers

    @property
    def actor(self) -> str:
        """Who is calling, as the audit log has it."""
        return f"{self.principal.account or 'deployment'}/{self.principal.name}"

    async def note(self, action: str, subject: str, *, at: str) -> None:
        """Write into the audit log who changed what.

        Args:
            at: The account's location.
        """
        region = await self.gate.region(at)
        await region.audit.append(Event(self.actor, action, account=subject.partition("/")[0], subject=subject))

    # --- answers -----------------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """Where this app is, as the caller reached it, with a slash at its end."""
        return str(self.http.base_url)

    def account_id(self, tenant: Tenant) -> str:
        """Return an account's resource id."""
        resource = tenant.resource
        return (
            f"/subscriptions/{resource['subscription']}/resourceGroups/{resource['group']}"
            f"/providers/{PROVIDER}/accounts/{resource['name']}"
        )

    def page(self, values: list[dict[str, Any]], cursor: str) -> dict[str, Any]:
        """Return a page of a list, with the link to the next one unless ``cursor`` is empty."""
        answer: dict[str, Any] = {"value": values}
        if cursor:
            query = urlencode({"api-version": self.api_version, "$skiptoken": cursor})
            answer["nextLink"] = f"{self.base_url.rstrip('/')}{quote(self.http.url.path)}?{query}"
        return answer

    @property
    def cursor(self) -> str:
        """Where the page begins that is asked for."""
        cursor = self.http.query_params.get("$skiptoken", "")
        if len(cursor) > 512 or not re.fullmatch(r"[\w.()/-]*", cursor, re.ASCII):
            raise InvalidRequest("The $skiptoken is not one of a nextLink.", code="InvalidSkipToken")
        return cursor


def validated(kind: type[B], document: object) -> B:
    """Return what a caller sent.

    Raises:
        InvalidRequest: Something of it cannot be used; the message names each property and quotes no value.
    """
    try:
        return kind.model_validate_json(encode(document))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'body'}: {_worded(each['type'], each['msg'])}"
            for each in error.errors(include_url=False, include_input=False)[:10]
        )
        raise InvalidRequest(f"The request content was invalid: {problems}.", code="InvalidRequestContent") from None


def merged(old: Any, new: Any) -> Any:
    """Return ``old`` with the changes of ``new``: objects member by member, null takes away. Source: RFC 7396."""
    if not isinstance(new, dict):
        return new
    found = dict(old) if isinstance(old, dict) else {}
    for name, value in new.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def check_names(params: Mapping[str, str]) -> None:
    """Refuse a path whose names are outside ARM's patterns.

    Raises:
        InvalidRequest: It names the part.
    """
    if not _SUBSCRIPTION.fullmatch(params["subscription"].lower()):
        raise InvalidRequest(
            "The provided subscription identifier is malformed or invalid.", code="InvalidSubscriptionId"
        )
    if "group" in params and not _GROUP.fullmatch(params["group"]):
        raise InvalidRequest(
            "The resource group name is invalid: use at most 90 letters, digits and ._()-, and no dot at the end.",
            code="InvalidResourceGroup",
        )
    if "account" in params and not _ACCOUNT.fullmatch(params["account"]):
        raise InvalidRequest(
            "The account name is invalid: use 2 to 64 letters, digits and _.-, a letter or digit first, and no dot at the end.",
            code="InvalidResourceName",
        )
    for part in ("policy", "blocklist", "item"):
        if part in params and not NAME.fullmatch(params[part]):
            raise InvalidRequest(
                f"The {part} name is invalid: use 1 to 64 letters, digits and _.-, a letter or digit first, and no dot at the end.",
                code="InvalidResourceName",
            )


def shown_etag(etag: str) -> str:
    """Return a stored ETag in the form that answers have."""
    return f'"{etag.strip(chr(34))}"'


def _worded(kind: str, message: str) -> str:
    return "unknown property" if kind == "extra_forbidden" else message[:1].lower() + message[1:]
