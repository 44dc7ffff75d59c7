"""Who is calling, by a token of Microsoft Entra ID: against an issuer on this machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from plugins import entra_id
from sluicegate import CredentialsUnavailable, InvalidRequest, Principal, Role, Unauthorized
from sluicegate.accounts import Accounts
from sluicegate.testing import MemoryKeys, MemoryStorage, check_plugin

TENANT = "11111111-2222-3333-4444-555555555555"
AUDIENCE = "api://sluicegate"
USER = "aaaaaaaa-0000-0000-0000-000000000001"
GROUP = "bbbbbbbb-0000-0000-0000-000000000002"
KEYS = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in ("first", "second", "foreign")}


class Issuer:
    """Publishes the public halves of some keys, and counts how often they are fetched."""

    def __init__(self) -> None:
        self.published = ["first"]
        self.extra = []
        self.fetched = 0
        self.status = 200
        self.padding = 0
        self.url = ""

    async def keys(self, _: web.Request) -> web.Response:
        self.fetched += 1
        if self.status == 302:
            raise web.HTTPFound(f"{self.url}/elsewhere")
        keys = [public_jwk(name) for name in self.published] + self.extra
        return web.json_response({"keys": keys, "padding": "x" * self.padding}, status=self.status)

    async def elsewhere(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [public_jwk("foreign")]})

    def token(self, key: str = "first", *, headers=None, algorithm: str = "RS256", without=(), **claims) -> str:
        now = int(time.time())
        given = {
            "iss": f"{self.url}/{TENANT}/v2.0",
            "aud": AUDIENCE,
            "exp": now + 3600,
            "nbf": now - 10,
            "oid": USER,
            "tid": TENANT,
            **claims,
        }
        payload = {name: value for name, value in given.items() if name not in without}
        return jwt.encode(payload, KEYS[key], algorithm, headers={"kid": key, **(headers or {})})


def public_jwk(name: str) -> dict:
    return {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEYS[name].public_key())), "kid": name, "use": "sig"}


@pytest.fixture
async def issuer():
    issuer = Issuer()
    app = web.Application()
    app.router.add_get(f"/{TENANT}/discovery/v2.0/keys", issuer.keys)
    app.router.add_get("/elsewhere", issuer.elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield issuer
    await runner.cleanup()


@pytest.fixture
async def accounts():
    accounts = Accounts(MemoryStorage(), MemoryKeys())
    await accounts.assign_role("contoso", USER, Role.CALLER)
    return accounts


@pytest.fixture
async def config(issuer):
    config = entra_id.Config(tenant=TENANT, audiences=(AUDIENCE,), authority=issuer.url)
    yield config
    await entra_id.shutdown(config)


@pytest.fixture
def ask(accounts, config):
    async def asked(token: str, role: Role = Role.CALLER, **headers: str) -> Principal | None:
        given = {"authorization": f"Bearer {token}", **{name.replace("_", "-"): each for name, each in headers.items()}}
        return await entra_id.authenticate(given, role, accounts, config)

    return asked


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_obeys_the_rules():
    check_plugin(entra_id, tenant=TENANT, audiences=[AUDIENCE])


def test_keys_are_not_fetched_in_the_clear():
    with pytest.raises(ValueError, match="must be an https URL"):
        entra_id.Config(tenant=TENANT, audiences=(AUDIENCE,), authority="http://issuer.example")


# --- what somebody may do --------------------------------------------------------------------------------------------


async def test_a_token_is_good_for_what_the_account_says(issuer, ask):
    assert await ask(issuer.token()) == Principal("contoso", Role.CALLER, f"entra:{USER}")


async def test_both_versions_of_tokens_are_known(issuer, ask):
    assert await ask(issuer.token(iss=f"https://sts.windows.net/{TENANT}/")) is not None


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer key"}, {"authorization": "Basic a.b.c"}])
async def test_what_is_no_token_is_left_to_other_plugins(accounts, config, headers):
    assert await entra_id.authenticate(headers, Role.CALLER, accounts, config) is None


async def test_a_group_is_as_good_as_its_members(issuer, accounts, ask):
    await accounts.assign_role("fabrikam", GROUP, Role.OFFICER)

    found = await ask(issuer.token(groups=[GROUP, 7]), Role.OFFICER)

    assert found == Principal("fabrikam", Role.OFFICER, f"entra:{USER}")


async def test_an_app_role_counts_in_the_whole_deployment(issuer, ask):
    token = issuer.token(roles=["Sluicegate.Operator", "Other"], oid=GROUP)

    assert await ask(token, Role.OPERATOR) == Principal("", Role.OPERATOR, f"entra:{GROUP}")


async def test_who_lacks_the_role_is_known_all_the_same_so_that_the_app_can_name_it(issuer, ask):
    found = await ask(issuer.token(), Role.OPERATOR)

    assert found is not None
    assert found.role is Role.CALLER


async def test_who_has_no_role_at_all_is_refused(issuer, ask):
    with pytest.raises(Unauthorized, match="no role here") as refused:
        await ask(issuer.token(oid=GROUP))

    assert refused.value.code == "PermissionDenied"


async def test_who_may_act_in_several_accounts_names_one(issuer, accounts, ask):
    await accounts.assign_role("fabrikam", USER, Role.CALLER)

    with pytest.raises(InvalidRequest, match="name one in the header x-sluicegate-account"):
        await ask(issuer.token())
    found = await ask(issuer.token(), x_sluicegate_account="fabrikam")

    assert found is not None
    assert found.account == "fabrikam"


async def test_naming_an_account_gives_no_access_to_it(issuer, ask):
    with pytest.raises(Unauthorized, match="no role here"):
        await ask(issuer.token(), x_sluicegate_account="fabrikam")


async def test_a_role_that_was_withdrawn_is_gone(issuer, accounts, ask):
    await accounts.withdraw_role("contoso", USER, Role.CALLER)

    with pytest.raises(Unauthorized, match="no role here"):
        await ask(issuer.token())


# --- tokens that are not accepted ------------------------------------------------------------------------------------


def unsigned(issuer: Issuer) -> str:
    _, payload, _ = issuer.token().split(".")
    return f"{encoded({'alg': 'none', 'typ': 'JWT', 'kid': 'first'})}.{payload}."


def signed_with_the_public_key_as_a_secret(issuer: Issuer) -> str:
    public = KEYS["first"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _, payload, _ = issuer.token().split(".")
    begun = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'first'})}.{payload}"
    tag = hmac.new(public, begun.encode(), hashlib.sha256).digest()
    return f"{begun}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}"


def tampered(issuer: Issuer) -> str:
    header, _, signature = issuer.token().split(".")
    _, other, _ = issuer.token("foreign", oid=GROUP).split(".")
    return f"{header}.{other}.{signature}"


def encoded(part: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


BAD = {
    "no signature": (unsigned, "not signed with RS256"),
    "a public key as a secret": (signed_with_the_public_key_as_a_secret, "not signed with RS256"),
    "another algorithm": (lambda issuer: issuer.token(algorithm="PS256"), "not signed with RS256"),
    "other claims under a signature": (tampered, "not signed by"),
    "a key of nobody's": (lambda issuer: issuer.token("foreign"), "not signed by"),
    "a key of nobody's under a known id": (
        lambda issuer: issuer.token("foreign", headers={"kid": "first"}),
        "not signed by",
    ),
    "no key id": (lambda issuer: f"{encoded({'alg': 'RS256'})}.e30.AAAA", "not signed by"),
    "expired": (lambda issuer: issuer.token(exp=int(time.time()) - 3600), "expired"),
    "no expiry": (lambda issuer: issuer.token(without=["exp"]), "a claim is missing"),
    "not valid yet": (lambda issuer: issuer.token(nbf=int(time.time()) + 3600), "not valid yet"),
    "another audience": (lambda issuer: issuer.token(aud="api://other"), "another audience"),
    "another issuer": (lambda issuer: issuer.token(iss="https://issuer.example/"), "another issuer"),
    "another tenant": (lambda issuer: issuer.token(tid=GROUP), "another issuer"),
    "no identity": (lambda issuer: issuer.token(without=["oid"]), "a claim is missing"),
    "an identity that is a number": (lambda issuer: issuer.token(oid=7), "a claim is missing"),
    "no token": (lambda issuer: "a.b.c", "malformed"),
    "too long": (lambda issuer: issuer.token(more="x" * entra_id.MAX_LENGTH), "malformed"),
    "deeply nested": (lambda issuer: f"{base64.urlsafe_b64encode(b'[' * 8000).decode()}.b.c", "malformed"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_token_is_refused_and_the_caller_told_why(issuer, ask, bad):
    make, reason = BAD[bad]
    token = make(issuer)

    with pytest.raises(Unauthorized, match=reason) as refused:
        await ask(token)

    assert token not in refused.value.message


async def test_a_token_that_was_good_is_checked_again_when_it_expires(issuer, ask, config):
    token = issuer.token(exp=int(time.time()) + 100)
    await ask(token)
    known = config._tokens.claims(token)
    config._tokens._clock = lambda: time.time() + 100

    assert known is not None
    assert config._tokens.claims(token) is None


async def test_a_known_token_is_forgotten_in_time_and_never_kept_in_plain():
    clock = Clock()
    tokens = entra_id.KnownTokens(clock)
    tokens.remember("a.b.c", {"exp": 10_000})

    assert tokens.claims("a.b.c") == {"exp": 10_000}
    assert "a.b.c" not in repr(vars(tokens))
    clock.now += entra_id.KNOWN_S
    assert tokens.claims("a.b.c") is None


async def test_so_many_tokens_are_known_and_no_more(monkeypatch):
    monkeypatch.setattr(entra_id, "KNOWN_TOKENS", 2)
    tokens = entra_id.KnownTokens(Clock())
    for token in "abc":
        tokens.remember(token, {"exp": 10_000})

    assert [tokens.claims(token) is not None for token in "abc"] == [False, True, True]


# --- signing keys ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def keys(issuer, clock):
    keys = entra_id.SigningKeys(f"{issuer.url}/{TENANT}/discovery/v2.0/keys", clock)
    yield keys
    await keys.close()


async def test_keys_are_fetched_once(issuer, ask):
    for _ in range(5):
        await ask(issuer.token())

    assert issuer.fetched == 1


async def test_a_new_signing_key_is_fetched_when_a_token_names_it(issuer, keys, clock):
    assert await keys.get("second") is None
    issuer.published = ["second"]
    clock.now += entra_id.PAUSE_S + 1

    assert await keys.get("second") is not None


async def test_invented_key_ids_cause_no_storm(issuer, keys, clock):
    for number in range(50):
        assert await keys.get(f"invented-{number}") is None
        clock.now += 0.1

    assert issuer.fetched == 1


async def test_a_key_that_is_withdrawn_is_forgotten_within_the_hour(issuer, keys, clock):
    assert await keys.get("first") is not None
    issuer.published = ["second"]
    clock.now += entra_id.REFRESH_S + 1

    assert await keys.get("first") is None


@pytest.mark.parametrize("failure", ["status", "redirect", "size", "empty"])
async def test_keys_are_kept_through_an_outage_of_their_source_but_not_for_good(issuer, keys, clock, failure):
    assert await keys.get("first") is not None
    issuer.status = {"status": 503, "redirect": 302}.get(failure, 200)
    issuer.padding = 2 * entra_id.MAX_BYTES if failure == "size" else 0
    issuer.published = [] if failure == "empty" else ["foreign"]

    clock.now += entra_id.KEEP_S - 1
    assert await keys.get("first") is not None
    assert await keys.get("foreign") is None
    clock.now += entra_id.PAUSE_S + 1
    with pytest.raises(CredentialsUnavailable) as refused:
        await keys.get("first")

    assert refused.value.status == 503
    assert refused.value.retry_after_s == entra_id.PAUSE_S


async def test_only_rsa_keys_for_signing_count(issuer, keys):
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    issuer.extra = [
        {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(curve)), "kid": "curve"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {**public_jwk("second"), "use": "enc"},
    ]

    assert [await keys.get(each) for each in ("curve", "secret", "second")] == [None, None, None]
    assert await keys.get("first") is not None
