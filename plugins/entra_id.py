"""Authenticate by Microsoft Entra ID: ``Authorization: Bearer`` with a token that was issued for this app.

A token says who it is, and what the directory lets it do in the whole deployment (``roles``, the app roles of the app
registration). What somebody may do in one account is the account's to say (``Accounts.assign_role``), by object id or by
group. A token that is good for several accounts names one in the header ``x-sluicegate-account``.

Only RS256 under the tenant's own signing keys counts, so neither ``alg: none`` nor a public key used as a secret gets in.

Source: Microsoft Learn, "Access tokens in the Microsoft identity platform" (claims, issuers of versions 1.0 and 2.0), and
"Signing key rollover in the Microsoft identity platform".
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
from pydantic import Field, PrivateAttr, field_validator

from sluicegate import CredentialsUnavailable, InvalidRequest, PluginConfig, Principal, Role, Unauthorized, hookimpl
from sluicegate.accounts import Accounts

ACCOUNT_HEADER = "x-sluicegate-account"
MAX_LENGTH = 16 * 1024
"""Characters of a token; Entra ID keeps its own below that, with 200 groups at most."""
MAX_GROUPS = 200
LEEWAY_S = 60
REFRESH_S = 3600.0
"""How old signing keys are when they are fetched anew."""
KEEP_S = 24 * 3600.0
"""How long they are used while they cannot be fetched."""
PAUSE_S = 30.0
"""Between two fetches, so that tokens with invented key ids cause none."""
TIMEOUT_S = 5.0
KNOWN_S = 300.0
"""How long a token is not checked again; a signing key that the tenant withdraws counts that much longer."""
KNOWN_TOKENS = 10_000
MAX_BYTES = 1 << 20
_REASONS = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.MissingRequiredClaimError: "a claim is missing: exp, iss, aud and oid are needed",
    jwt.InvalidSignatureError: "it is not signed by the tenant's keys",
    jwt.InvalidAlgorithmError: "it is not signed with RS256",
}
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Config(PluginConfig):
    tenant: str = Field(pattern=r"^[0-9A-Za-z.-]{1,64}$")
    """The directory's id."""
    audiences: tuple[str, ...] = Field(min_length=1)
    """Whom tokens must be for: the app registration's id or its application id URI."""
    authority: str = "https://login.microsoftonline.com"
    """Where tokens are issued: another one for a sovereign cloud."""
    issuers: tuple[str, ...] = ()
    """Who issues tokens, as they say in ``iss``; by default this tenant of Entra ID, versions 1.0 and 2.0."""
    app_roles: dict[str, Role] = Field(
        default_factory=lambda: {f"Sluicegate.{role.value.capitalize()}": role for role in Role}
    )
    """App role, as in a token's ``roles`` -> what it lets its holder do in every account."""

    _keys: SigningKeys = PrivateAttr()
    _tokens: KnownTokens = PrivateAttr(default_factory=lambda: KnownTokens())

    @field_validator("authority")
    @classmethod
    def _is_secure(cls, authority: str) -> str:
        parts = urlsplit(authority)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ValueError("must be an https URL")
        return authority.rstrip("/")

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._keys = SigningKeys(f"{self.authority}/{self.tenant}/discovery/v2.0/keys")

    @property
    def expected_issuers(self) -> Sequence[str]:
        """Whose tokens are accepted."""
        return self.issuers or (
            f"{self.authority}/{self.tenant}/v2.0",
            f"https://sts.windows.net/{self.tenant}/",
        )


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def shutdown(config: Config) -> None:
    await config._keys.close()


@hookimpl
async def authenticate(headers: Mapping[str, str], role: Role, accounts: Accounts, config: Config) -> Principal | None:
    token = _bearer(headers.get("authorization", ""))
    if token is None:
        return None
    claims = config._tokens.claims(token)
    if claims is None:
        claims = await _verified(token, config)
        config._tokens.remember(token, claims)
    held = [grant async for grant in _grants(claims, headers.get(ACCOUNT_HEADER), accounts, config)]
    # With a role too little the app names the one that is missing, so any grant will do then.
    fitting = [principal for principal in held if principal.role is role] or held[:1]
    if not fitting:
        raise Unauthorized("The principal of this token has no role here.", code="PermissionDenied")
    if len({principal.account for principal in fitting}) > 1:
        raise InvalidRequest(
            f"This token is good for several accounts: name one in the header {ACCOUNT_HEADER}.", param=ACCOUNT_HEADER
        )
    return fitting[0]


async def _grants(
    claims: Mapping[str, Any], wanted: str | None, accounts: Accounts, config: Config
) -> AsyncIterator[Principal]:
    """Yield what the token lets its holder do: in the accounts that say so, then in the whole deployment."""
    name = f"entra:{claims['oid']}"
    for identity in dict.fromkeys([claims["oid"], *_strings(claims.get("groups"))[:MAX_GROUPS]]):
        for account, roles in (await accounts.roles_of(identity)).items():
            if wanted in (None, account):
                for held in roles:
                    yield Principal(account, held, name)
    for app_role in _strings(claims.get("roles")):
        if app_role in config.app_roles:
            yield Principal(wanted or "", config.app_roles[app_role], name)


async def _verified(token: str, config: Config) -> Mapping[str, Any]:
    """Return a token's claims.

    Raises:
        Unauthorized: It is not one of ours, or no longer.
        CredentialsUnavailable: The signing keys cannot be had.
    """
    try:
        if len(token) > MAX_LENGTH:
            raise jwt.DecodeError
        key_id = jwt.get_unverified_header(token).get("kid")
        key = await config._keys.get(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise jwt.InvalidSignatureError
        return _claims(token, key, config)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        reason = next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), "it is malformed")
    raise Unauthorized(f"Access denied: the token is not accepted, because {reason}.", code="unauthorized")


def _claims(token: str, key: jwt.PyJWK, config: Config) -> Mapping[str, Any]:
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        algorithms=["RS256"],
        audience=config.audiences,
        issuer=config.expected_issuers,
        leeway=LEEWAY_S,
        options={"require": ["exp", "iss", "aud", "oid"]},
    )
    if claims.get("tid", config.tenant) != config.tenant:
        raise jwt.InvalidIssuerError
    if not isinstance(claims["oid"], str):
        raise jwt.MissingRequiredClaimError("oid")
    return claims


def _bearer(authorization: str) -> str | None:
    """Return the token; None for what is no JSON Web Token, such as an API key."""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    return value if scheme.lower() == "bearer" and value.count(".") == 2 else None


def _strings(claim: object) -> list[str]:
    return [value for value in claim if isinstance(value, str)] if isinstance(claim, list) else []


class KnownTokens:
    """Tokens that were found good a moment ago, by their hashes, because checking a signature costs as much as all the rest."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Mapping[str, Any]]] = OrderedDict()

    def claims(self, token: str) -> Mapping[str, Any] | None:
        """Return the claims of a token that is known and has not expired."""
        until, claims = self._known.get(_digest(token), (0.0, None))
        return claims if self._clock() < until else None

    def remember(self, token: str, claims: Mapping[str, Any]) -> None:
        """Know a token until it expires, but for :data:`KNOWN_S` at most."""
        now = self._clock()
        self._known[_digest(token)] = (min(now + KNOWN_S, float(claims["exp"])), claims)
        if len(self._known) > KNOWN_TOKENS:
            self._known.popitem(last=False)


def _digest(token: str) -> bytes:
    return sha256(token.encode(errors="surrogatepass")).digest()


class SigningKeys:
    """The tenant's public keys: fetched when needed, kept through an outage of their source."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def get(self, key_id: str) -> jwt.PyJWK | None:
        """Return the key of that id, or None when the tenant has no such key.

        Raises:
            CredentialsUnavailable: No keys were fetched for a day, or ever, and none can be now.
        """
        if key_id not in self._keys or self._older_than(REFRESH_S):
            async with self._fetching:
                # Whoever waited here finds what was fetched meanwhile.
                if (key_id not in self._keys or self._older_than(REFRESH_S)) and not self._just_tried():
                    await self._fetch()
        if self._older_than(KEEP_S):
            raise CredentialsUnavailable(
                "Tokens cannot be checked now, because the signing keys of the issuer cannot be fetched.",
                retry_after_s=PAUSE_S,
            )
        return self._keys.get(key_id)

    async def close(self) -> None:
        """Close the connections to the source."""
        if self._session is not None:
            await self._session.close()

    def _older_than(self, age_s: float) -> bool:
        return self._fetched is None or self._clock() - self._fetched > age_s

    def _just_tried(self) -> bool:
        return self._tried is not None and self._clock() - self._tried < PAUSE_S

    async def _fetch(self) -> None:
        self._tried = self._clock()
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        with suppress(aiohttp.ClientError, TimeoutError, ValueError, jwt.PyJWTError):
            async with self._session.get(self._url, allow_redirects=False) as response:
                response.raise_for_status()
                fetched = _signing(jwt.PyJWKSet.from_json(await _body(response)).keys)
            self._keys, self._fetched = fetched, self._clock()


async def _body(response: aiohttp.ClientResponse) -> str:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_BYTES:
            raise ValueError("too large for a set of keys")
    return body.decode()


def _signing(keys: Iterable[jwt.PyJWK]) -> Mapping[str, jwt.PyJWK]:
    return {
        key.key_id: key for key in keys if key.key_id and key.key_type == "RSA" and key.public_key_use in (None, "sig")
    }
