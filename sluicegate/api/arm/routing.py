"""Which operation a request of the control plane is: one table, read from top to bottom."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sluicegate.api.arm import accounts, blocklists, catalogue, deployments, errors, policies
from sluicegate.api.arm.incoming import PROVIDER, Incoming, check_names
from sluicegate.api.data_plane import answered
from sluicegate.api.encoding import encode
from sluicegate.app import Sluicegate
from sluicegate.errors import InvalidRequest, MethodNotAllowed, NotFound
from sluicegate.types import Principal

API_VERSIONS = (
    "2023-05-01",
    "2024-04-01-preview",
    "2024-06-01-preview",
    "2024-10-01",
    "2025-04-01-preview",
    "2025-06-01",
    "2025-07-01-preview",
    "2025-09-01",
)
Handler: TypeAlias = Callable[[Incoming], Awaitable[Response]]

_SUBSCRIPTION = f"/subscriptions/{{subscription}}/providers/{PROVIDER}"
_LOCATION = f"{_SUBSCRIPTION}/locations/{{location}}"
_DELETED = f"{_LOCATION}/resourceGroups/{{group}}/deletedAccounts/{{account}}"
_GROUP = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}"
_ACCOUNT = f"{_GROUP}/accounts/{{account}}"
_POLICY = f"{_ACCOUNT}/raiPolicies/{{policy}}"
_BLOCKLIST = f"{_ACCOUNT}/raiBlocklists/{{blocklist}}"
_ITEM = f"{_BLOCKLIST}/raiBlocklistItems/{{item}}"
_DEPLOYMENT = f"{_ACCOUNT}/deployments/{{deployment}}"


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of the control plane.

    Attributes:
        name: As :data:`sluicegate.roles.ROLES` has it.
    """

    method: str
    template: str
    name: str
    handler: Handler

    @property
    def pattern(self) -> re.Pattern[str]:
        """What paths look like, whatever their case."""
        return re.compile(
            re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.template).replace(".", r"\.") + "/?", re.IGNORECASE
        )


OPERATIONS = (
    Operation("GET", f"{_SUBSCRIPTION}/accounts", "accounts.list", accounts.list_accounts),
    Operation("GET", f"{_GROUP}/accounts", "accounts.list", accounts.list_accounts),
    Operation("PUT", _ACCOUNT, "accounts.write", accounts.put),
    Operation("PATCH", _ACCOUNT, "accounts.write", accounts.patch),
    Operation("GET", _ACCOUNT, "accounts.read", accounts.get),
    Operation("DELETE", _ACCOUNT, "accounts.delete", accounts.delete),
    Operation("POST", f"{_ACCOUNT}/listKeys", "keys.list", accounts.list_keys),
    Operation("POST", f"{_ACCOUNT}/regenerateKey", "keys.regenerate", accounts.regenerate_key),
    Operation("GET", f"{_SUBSCRIPTION}/deletedAccounts", "accounts.list", accounts.list_deleted),
    Operation("GET", _DELETED, "accounts.read", accounts.get_deleted),
    Operation("DELETE", _DELETED, "accounts.purge", accounts.purge),
    Operation("GET", f"{_ACCOUNT}/deployments", "deployments.read", deployments.list_deployments),
    Operation("PUT", _DEPLOYMENT, "deployments.write", deployments.put),
    Operation("PATCH", _DEPLOYMENT, "deployments.write", deployments.patch),
    Operation("GET", _DEPLOYMENT, "deployments.read", deployments.get),
    Operation("DELETE", _DEPLOYMENT, "deployments.delete", deployments.delete),
    Operation("GET", f"{_DEPLOYMENT}/skus", "deployments.read", deployments.list_skus),
    Operation("GET", f"{_ACCOUNT}/raiPolicies", "policies.read", policies.list_policies),
    Operation("PUT", _POLICY, "policies.write", policies.put),
    Operation("GET", _POLICY, "policies.read", policies.get),
    Operation("DELETE", _POLICY, "policies.delete", policies.delete),
    Operation("GET", f"{_ACCOUNT}/raiBlocklists", "blocklists.read", blocklists.list_blocklists),
    Operation("PUT", _BLOCKLIST, "blocklists.write", blocklists.put),
    Operation("GET", _BLOCKLIST, "blocklists.read", blocklists.get),
    Operation("DELETE", _BLOCKLIST, "blocklists.delete", blocklists.delete),
    Operation("GET", f"{_BLOCKLIST}/raiBlocklistItems", "blocklists.read", blocklists.list_items),
    Operation("PUT", _ITEM, "blocklists.write", blocklists.put_item),
    Operation("GET", _ITEM, "blocklists.read", blocklists.get_item),
    Operation("DELETE", _ITEM, "blocklists.write", blocklists.delete_item),
    Operation("POST", f"{_BLOCKLIST}/addRaiBlocklistItems", "blocklists.write", blocklists.add_items),
    Operation("POST", f"{_BLOCKLIST}/deleteRaiBlocklistItems", "blocklists.write", blocklists.delete_items),
    Operation("GET", f"{_ACCOUNT}/models", "catalogue.read", catalogue.list_account_models),
    Operation("GET", f"{_ACCOUNT}/skus", "catalogue.read", catalogue.list_account_skus),
    Operation("GET", f"{_ACCOUNT}/usages", "catalogue.read", catalogue.list_usages),
    Operation("GET", f"{_LOCATION}/models", "catalogue.read", catalogue.list_models),
    Operation("GET", f"{_LOCATION}/raiContentFilters", "catalogue.read", catalogue.list_content_filters),
    Operation("GET", f"{_LOCATION}/raiContentFilters/{{filter}}", "catalogue.read", catalogue.get_content_filter),
)
_PATTERNS = tuple((operation, operation.pattern) for operation in OPERATIONS)


async def serve(gate: Sluicegate, http: HttpRequest) -> Response:
    """Serve a request of the control plane."""

    async def work(_: str) -> Response:
        operation, params = _find(http.method, http.url.path)
        principal = await gate.authenticate(http.headers, operation.name)
        return await _handled(gate, http, operation, params, principal)

    return await answered(gate, http, work, errors.render)


async def ask(
    gate: Sluicegate, principal: Principal, method: str, path: str, body: object = None, cursor: str = ""
) -> Any:
    """Do an operation on behalf of somebody at this machine, and return the JSON that the answer holds.

    Args:
        cursor: Where the page of a list begins; see :func:`ask_all`.

    Raises:
        ApiError: What a caller over HTTP would be told.
    """
    query = urlencode({"api-version": API_VERSIONS[-1], **({"$skiptoken": cursor} if cursor else {})})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"" if body is None else encode(body), "more_body": False}

    scope = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "server": ("localhost", 80),
        "root_path": "",
        "path": path,
        "query_string": query.encode(),
        "headers": [],
    }
    operation, params = _find(method, path)
    response = await _handled(gate, HttpRequest(scope, receive), operation, params, principal)
    return json.loads(bytes(response.body)) if response.body else None


async def ask_all(gate: Sluicegate, principal: Principal, path: str) -> AsyncIterator[dict[str, Any]]:
    """Yield every resource of a list, page by page."""
    cursor = ""
    while True:
        page = await ask(gate, principal, "GET", path, cursor=cursor)
        for each in page["value"]:
            yield each
        if "nextLink" not in page:
            return
        cursor = parse_qs(urlsplit(page["nextLink"]).query)["$skiptoken"][0]


async def _handled(
    gate: Sluicegate, http: HttpRequest, operation: Operation, params: dict[str, str], principal: Principal
) -> Response:
    check_names(params)
    return await operation.handler(Incoming(gate, http, principal, params, _api_version(http)))


def _find(method: str, path: str) -> tuple[Operation, dict[str, str]]:
    known = False
    for operation, pattern in _PATTERNS:
        if match := pattern.fullmatch(path):
            if operation.method == method:
                return operation, match.groupdict()
            known = True
    if known:
        raise MethodNotAllowed("The resource does not support this HTTP method.")
    raise NotFound(
        f"The resource type could not be found in the namespace '{PROVIDER}': check the path.",
        code="InvalidResourceType",
    )


def _api_version(http: HttpRequest) -> str:
    given = http.query_params.get("api-version")
    if given is None:
        raise InvalidRequest(
            "The api-version query parameter (?api-version=) is required for all requests.",
            code="MissingApiVersionParameter",
        )
    if given.lower() not in API_VERSIONS:
        raise InvalidRequest(
            f"The api-version is invalid. The supported versions are '{','.join(API_VERSIONS)}'.",
            code="InvalidApiVersionParameter",
        )
    return given
