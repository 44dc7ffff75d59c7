"""Who is calling, by API key."""

from __future__ import annotations

import pytest

from plugins import api_keys
from sluicegate import Forbidden, Principal, Role, Unauthorized
from sluicegate.accounts import Accounts
from sluicegate.testing import MemoryKeys, MemoryStorage, check_plugin


@pytest.fixture
def accounts():
    return Accounts(MemoryStorage(), MemoryKeys())


@pytest.fixture
async def api_key(accounts):
    return await accounts.issue_key("contoso", Role.CALLER, "key1")


def test_obeys_the_rules():
    check_plugin(api_keys)


@pytest.mark.parametrize(
    "headers",
    [
        {"api-key": "{}"},
        {"authorization": "Bearer {}"},
        {"authorization": "bearer  {} "},
        {"api-key": "{}", "authorization": "Bearer other"},
    ],
)
async def test_a_key_is_found_in_either_header(accounts, api_key, headers):
    given = {name: value.format(api_key) for name, value in headers.items()}

    assert await api_keys.authenticate(given, accounts) == Principal("contoso", Role.CALLER, "key1")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"api-key": ""},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"authorization": "Bearer eyJhbGciOi.eyJpc3MiOi.c2lnbmF0dXJl"},
    ],
)
async def test_headers_without_a_key_are_left_to_other_plugins(accounts, headers):
    assert await api_keys.authenticate(headers, accounts) is None


@pytest.mark.parametrize("headers", [{"api-key": "unknown"}, {"authorization": "Bearer unknown"}, {"api-key": "a.b.c"}])
async def test_a_key_nobody_issued_is_refused(accounts, headers):
    with pytest.raises(Unauthorized, match="invalid subscription key") as refused:
        await api_keys.authenticate(headers, accounts)

    assert refused.value.status == 401
    assert "unknown" not in refused.value.message


async def test_a_bad_key_is_refused_even_beside_a_good_one(accounts, api_key):
    with pytest.raises(Unauthorized):
        await api_keys.authenticate({"api-key": "unknown", "authorization": f"Bearer {api_key}"}, accounts)


async def test_an_absurdly_long_key_is_refused_without_being_looked_up():
    class NoAccounts:
        by_key = None

    with pytest.raises(Unauthorized):
        await api_keys.authenticate({"api-key": "x" * (api_keys.MAX_LENGTH + 1)}, NoAccounts())


async def test_a_key_with_letters_outside_ascii_is_refused(accounts):
    with pytest.raises(Unauthorized):
        await api_keys.authenticate({"api-key": "caf\u00e9"}, accounts)


async def test_keys_are_refused_where_the_account_wants_tokens_only(accounts):
    await accounts.create("fabrikam", location="local", resource={"properties": {"disableLocalAuth": True}})
    keys = await accounts.api_keys("fabrikam")

    with pytest.raises(Forbidden, match="Key based authentication is disabled") as refused:
        await api_keys.authenticate({"api-key": keys["key1"]}, accounts)

    assert refused.value.code == "AuthenticationTypeDisabled"
