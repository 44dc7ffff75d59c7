"""A running server, and Azure's own management client that calls it."""

from __future__ import annotations

import time
import uuid

import pytest
from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient

from tests.wire.serving import Server

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"


class Credential:
    """Hands out the operator's key where a token is asked for."""

    def __init__(self, key: str) -> None:
        self._key = key

    def get_token(self, *_: str, **__: object) -> AccessToken:
        return AccessToken(self._key, int(time.time()) + 3600)


class OverHttp(SansIOHTTPPolicy):
    """Lets the client send its token over HTTP, which it does on loopback only when told so for each request."""

    def on_request(self, request) -> None:
        request.context.options["enforce_https"] = False


def management(server: Server, key: str, subscription: str = SUBSCRIPTION) -> CognitiveServicesManagementClient:
    """Return Azure's client for this server."""
    return CognitiveServicesManagementClient(
        Credential(key),
        subscription,
        base_url=server.endpoint,
        credential_scopes=["https://management.azure.com/.default"],
        per_call_policies=[OverHttp()],
        retry_total=0,
        polling_interval=0,
    )


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("arm") / "data", "full") as server:
        yield server


@pytest.fixture(scope="session")
def client(server):
    with management(server, server.credentials["operator_key"]) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A name nobody has used."""
    return f"Account-{uuid.uuid4().hex[:12]}"
