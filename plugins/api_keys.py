"""Authenticate by API key: the ``api-key`` header, or ``Authorization: Bearer`` as the OpenAI client sends it.

A bearer value that has the form of a JSON Web Token is left to other plugins.
"""

from __future__ import annotations

from collections.abc import Mapping

from sluicegate import Forbidden, Principal, Role, Unauthorized, hookimpl
from sluicegate.accounts import Accounts

MAX_LENGTH = 256
"""Characters; longer values are no keys of ours and are not even hashed."""


@hookimpl
async def authenticate(headers: Mapping[str, str], accounts: Accounts) -> Principal | None:
    api_key = headers.get("api-key") or _bearer(headers.get("authorization", ""))
    if not api_key:
        return None
    principal = await accounts.by_key(api_key) if len(api_key) <= MAX_LENGTH else None
    if principal is None:
        raise Unauthorized(
            "Access denied due to invalid subscription key or wrong API endpoint. "
            "Make sure to provide a valid key for an active account and use its own endpoint."
        )
    account = await accounts.get(principal.account) if principal.role is Role.CALLER else None
    if account is not None and not account.has_local_auth:
        raise Forbidden("Key based authentication is disabled for this resource.", code="AuthenticationTypeDisabled")
    return principal


def _bearer(authorization: str) -> str | None:
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    return value if scheme.lower() == "bearer" and value.count(".") != 2 else None
