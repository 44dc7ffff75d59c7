"""The control plane's paths, versions, bodies and roles, without a client in between."""

from __future__ import annotations

import re

import httpx
import pytest

from sluicegate.api.arm.routing import OPERATIONS
from tests.arm.conftest import SUBSCRIPTION

BASE = f"/subscriptions/{SUBSCRIPTION}"
ACCOUNTS = f"{BASE}/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts"
VERSION = {"api-version": "2025-09-01"}


@pytest.fixture(scope="module")
def http(server):
    headers = {"authorization": f"Bearer {server.credentials['operator_key']}"}
    with httpx.Client(base_url=server.endpoint, headers=headers, params=VERSION) as client:
        yield client


def code_of(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert error["message"]
    return error["code"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each.method} {each.template}")
@pytest.mark.parametrize("role", ["api_key", "reviewer_keys", "officer_key", None])
def test_nobody_but_an_operator_gets_in(http, server, operation, role):
    values = {"subscription": SUBSCRIPTION, "location": "local"}
    path = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], "some"), operation.template)
    held = server.credentials.get(role, "unknown")
    key = held[0] if isinstance(held, list) else held

    response = http.request(operation.method, path, headers={"authorization": f"Bearer {key}"}, json={})

    assert response.status_code == 401
    assert code_of(response) in ("PermissionDenied", "AuthenticationFailed")


def test_a_path_is_found_whatever_its_case(http):
    assert http.get(ACCOUNTS.upper().replace("/SUBSCRIPTIONS", "/Subscriptions")).json() == {"value": []}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"{BASE}/providers/Microsoft.Storage/storageAccounts", 404, "InvalidResourceType"),
        ("POST", ACCOUNTS, 405, "MethodNotAllowed"),
        ("GET", ACCOUNTS.replace(SUBSCRIPTION, "mine"), 400, "InvalidSubscriptionId"),
        ("GET", ACCOUNTS.replace("/g/", "/g./"), 400, "InvalidResourceGroup"),
        ("GET", f"{ACCOUNTS}/-a", 400, "InvalidResourceName"),
        ("GET", f"{ACCOUNTS}/a.", 400, "InvalidResourceName"),
        ("GET", f"{ACCOUNTS}/{'a' * 65}", 400, "InvalidResourceName"),
        ("GET", f"{ACCOUNTS}/absent", 404, "ResourceNotFound"),
        ("GET", f"{ACCOUNTS}?api-version=2019-01-01", 400, "InvalidApiVersionParameter"),
        ("GET", f"{ACCOUNTS}?api-version=2025-09-01&$skiptoken=a'b", 400, "InvalidSkipToken"),
    ],
)
def test_what_cannot_be_served_is_said_in_arms_form(http, method, path, status, code):
    path, _, query = path.partition("?")
    response = http.request(method, path, params=httpx.QueryParams(query) if query else VERSION)

    assert (response.status_code, code_of(response)) == (status, code)


def test_the_version_is_asked_for(http, server):
    response = httpx.get(server.endpoint + ACCOUNTS, headers=http.headers)

    assert (response.status_code, code_of(response)) == (400, "MissingApiVersionParameter")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'"text"', b'{"a": NaN}', b"\xff", b"[" * 100_000, b'{"location": "a\\ud800"}']
)
def test_a_body_that_is_no_object_or_cannot_be_used_is_refused(http, content):
    response = http.put(f"{ACCOUNTS}/some", content=content)

    assert (response.status_code, code_of(response)) == (400, "InvalidRequestContent")


def test_an_unknown_property_is_named_and_its_value_is_not(http):
    body = {"location": "local", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {"colour": "canary-blue"}}

    response = http.put(f"{ACCOUNTS}/some", json=body)

    assert response.status_code == 400
    assert "properties.colour: unknown property" in response.text
    assert "canary-blue" not in response.text


def test_a_body_that_is_too_large_is_refused(http):
    response = http.put(f"{ACCOUNTS}/some", json={"tags": {"a": "x" * (4 << 20)}})

    assert (response.status_code, code_of(response)) == (413, "RequestEntityTooLarge")


def test_lists_come_in_pages_that_follow_one_another(http):
    body = {"location": "local", "kind": "OpenAI", "sku": {"name": "S0"}}
    names = [f"paged-{number:03}" for number in range(103)]
    group = ACCOUNTS.replace("/g/", "/pages/")
    for name in names:
        assert http.put(f"{group}/{name}", json=body).status_code == 201

    first = http.get(group).json()
    second = httpx.get(first["nextLink"], headers=http.headers).json()

    assert [each["name"] for each in first["value"] + second["value"]] == names
    assert len(first["value"]) == 100
    assert "nextLink" not in second
