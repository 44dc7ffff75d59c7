"""The app inside the test's own process, called over HTTP without a socket: for tests that look at its storage meanwhile."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sluicegate.api import (
    chat,
    data_plane,
    files,
    fine_tuning,
    governance,
    governance_appeals,
    governance_applications,
    governance_cases,
    governance_debug,
    governance_ledger,
    governance_notices,
    imports,
    uploads,
)
from sluicegate.api.arm import routing
from sluicegate.app import Sluicegate
from sluicegate.requests import ChatRequest
from sluicegate.tenancy.deployments import Deployment
from sluicegate.types import Role, utc_now
from tests.conftest import ROOT
from tests.wire.serving import SITE

FILE = """
storage = {storage}
keys = {keys}
region = "local"
installed = ["scripted_model"]
{more}
{regions}
[pipeline]
authenticate = ["api_keys"]
pre_filter = ["blocklists"]
models = ["scripted_model"]
post_filter = ["blocklists"]
retain = ["keep_encrypted"]
{stages}
"""
SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/all/providers/Microsoft.CognitiveServices"
ARM = {"api-version": "2025-09-01"}
REASON = {"reason": "ticket 4711"}
APPEALS = "/governance/appeals"
APPLICATIONS = "/governance/applications"
CASES = "/governance/cases"
DEBUG = "/governance/debug-access"
LEDGER = "/governance/ledger"
COMPLETIONS = "/openai/v1/chat/completions"


def open_app(
    folder: Path,
    places: Mapping[str, tuple[str, str]],
    *,
    more: str = "",
    stages: str = "",
    now: Callable[[], Any] = utc_now,
) -> Sluicegate:
    """Return the app as one process has it.

    Args:
        folder: For the deployment file.
        places: Storage and keys by region, the home region ``local`` first.
        more: Further settings of the deployment file.
        stages: Further stages of its pipeline.
    """
    if str(SITE) not in sys.path:
        sys.path.append(str(SITE))
    home, *further = places.items()
    regions = "\n".join(
        f"[regions.{name}]\nstorage = {json.dumps(storage)}\nkeys = {json.dumps(keys)}"
        for name, (storage, keys) in further
    )
    storage, keys = map(json.dumps, home[1])
    path = folder / "deployment.toml"
    path.write_text(FILE.format(storage=storage, keys=keys, regions=regions, more=more, stages=stages))
    return Sluicegate(ROOT, {"SLUICEGATE_CONFIG": str(path)}, now=now)


def folders(folder: Path, *regions: str) -> dict[str, tuple[str, str]]:
    """Return places in folders, ``{region}/storage`` and ``{region}/keys``."""
    return {name: (f"folder:{folder / name / 'storage'}", f"folder:{folder / name / 'keys'}") for name in regions}


def group(subscription: str) -> str:
    """Return the resource group of a subscription that the tests use."""
    return GROUP.replace(SUBSCRIPTION, subscription)


def client(gate: Sluicegate, api_key: str = "") -> httpx.AsyncClient:
    """Return a client of the app, as httpx has it."""
    transport = httpx.ASGITransport(Starlette(routes=_routes(gate)))
    headers = {"api-key": api_key} if api_key else {}
    return httpx.AsyncClient(transport=transport, base_url="http://gate", headers=headers)


def _routes(gate: Sluicegate) -> list[Route]:
    def route(method: str, path: str, work: Callable[..., Awaitable[Response]], *more: Any) -> Route:
        async def endpoint(http: Request) -> Response:
            return await work(gate, http, *more)

        return Route(path, endpoint, methods=[method] if method else None)

    retained = "/governance/retained"
    return [
        route("POST", COMPLETIONS, data_plane.generate, ChatRequest, chat),
        route("POST", "/openai/deployments/{deployment}/chat/completions", data_plane.generate, ChatRequest, chat),
        route("GET", "/openai/v1/models", data_plane.list_models),
        route("GET", "/openai/v1/models/{model}", data_plane.get_model),
        route("DELETE", "/openai/v1/models/{model}", data_plane.delete_model),
        route("POST", "/openai/v1/files", files.create),
        route("POST", "/openai/files/import", imports.create),
        route("GET", "/openai/v1/files", files.list_files),
        route("GET", "/openai/v1/files/{file}", files.get),
        route("GET", "/openai/v1/files/{file}/content", files.content),
        route("GET", "/openai/v1/files/{file}/report", files.report),
        route("DELETE", "/openai/v1/files/{file}", files.delete),
        route("POST", "/openai/v1/uploads", uploads.create),
        route("POST", "/openai/v1/uploads/{upload}/parts", uploads.add),
        route("POST", "/openai/v1/uploads/{upload}/complete", uploads.complete),
        route("POST", "/openai/v1/uploads/{upload}/cancel", uploads.cancel),
        route("POST", "/openai/v1/fine_tuning/jobs", fine_tuning.create),
        route("GET", retained, governance.list_retained),
        route("DELETE", retained, governance.delete_retained),
        route("GET", retained + "/{record}", governance.get_retained),
        route("DELETE", retained + "/{record}", governance.delete_retained),
        route("GET", "/governance/export", governance.export),
        route("GET", "/governance/audit", governance.list_audit),
        route("GET", "/governance/checkpoint", governance.get_checkpoint),
        route("GET", "/governance/receipts", governance.list_receipts),
        route("GET", "/governance/receipts/{receipt}", governance.get_receipt),
        route("POST", APPEALS, governance_appeals.file),
        route("GET", APPEALS, governance_appeals.list_waiting),
        route("GET", APPEALS + "/{appeal}", governance_appeals.get),
        route("POST", APPEALS + "/{appeal}/ruling", governance_appeals.rule),
        route("GET", LEDGER, governance_ledger.read),
        route("GET", LEDGER + "/export", governance_ledger.export),
        route("DELETE", LEDGER + "/retained", governance_ledger.delete),
        route("DELETE", LEDGER + "/retained/{record}", governance_ledger.delete),
        route("GET", LEDGER + "/receipts", governance_ledger.list_receipts),
        route("GET", LEDGER + "/receipts/{receipt}", governance_ledger.get_receipt),
        route("PUT", LEDGER + "/retention", governance_ledger.shorten),
        route("GET", "/governance/notices", governance_notices.list_notices),
        route("GET", CASES, governance_cases.list_cases),
        route("GET", CASES + "/{case}", governance_cases.get),
        route("POST", CASES + "/{case}/access", governance_cases.ask),
        route("POST", CASES + "/{case}/access/{grant}/approve", governance_cases.approve),
        route("DELETE", CASES + "/{case}/access/{grant}", governance_cases.revoke),
        route("GET", CASES + "/{case}/content", governance_cases.content),
        route("POST", CASES + "/{case}/decision", governance_cases.decide),
        route("GET", DEBUG, governance_debug.list_grants),
        route("POST", DEBUG, governance_debug.ask),
        route("POST", DEBUG + "/invitations", governance_debug.invite),
        route("POST", DEBUG + "/{grant}/accept", governance_debug.accept),
        route("POST", DEBUG + "/{grant}/approve", governance_debug.approve),
        route("GET", DEBUG + "/{grant}/content", governance_debug.content),
        route("DELETE", DEBUG + "/{grant}", governance_debug.revoke),
        route("POST", APPLICATIONS, governance_applications.file),
        route("GET", APPLICATIONS, governance_applications.list_applications),
        route("GET", APPLICATIONS + "/{application}", governance_applications.get),
        route("DELETE", APPLICATIONS + "/{application}", governance_applications.withdraw),
        route("POST", APPLICATIONS + "/{application}/decision", governance_applications.decide),
        *(
            route(method, "/subscriptions/{path:path}", routing.serve)
            for method in ("GET", "PUT", "PATCH", "POST", "DELETE")
        ),
    ]


class Tenant:
    """An account with a deployment ``chat``, its caller, its officer and its operator; called through one process."""

    def __init__(self, gate: Sluicegate, name: str, keys: Mapping[Role, str], subscription: str = SUBSCRIPTION) -> None:
        self.gate = gate
        self.name = name
        self.keys = keys
        self.subscription = subscription
        self.caller, self.officer, self.operator = (client(gate, keys[role]) for role in keys)

    @classmethod
    async def create(cls, gate: Sluicegate, name: str, location: str, subscription: str = SUBSCRIPTION) -> Tenant:
        """Make it by the control plane."""
        operator = await gate.accounts.issue_key(name, Role.OPERATOR, "operator")
        body = {"location": location, "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {}}
        async with client(gate, operator) as http:
            made = await http.put(f"{group(subscription)}/accounts/{name}", params=ARM, json=body)
            assert made.status_code == 201, made.text
        await gate.deployments.create(name, Deployment("chat", "rehearsal-chat"))
        officer = await gate.accounts.issue_key(name, Role.OFFICER, "officer")
        api_keys = await gate.accounts.api_keys(name)
        return cls(
            gate, name, {Role.CALLER: api_keys["key1"], Role.OFFICER: officer, Role.OPERATOR: operator}, subscription
        )

    def by(self, gate: Sluicegate) -> Tenant:
        """Return the same account, called through another process."""
        return Tenant(gate, self.name, self.keys, self.subscription)

    @property
    def path(self) -> str:
        """The account in the control plane."""
        return f"{group(self.subscription)}/accounts/{self.name}"

    async def say(self, words: str, *, user: str = "someone", stream: bool = False) -> httpx.Response:
        """Have a chat; the model repeats what was said."""
        messages = [{"role": "user", "content": words}]
        body = {"model": "chat", "messages": messages, "user": user, "stream": stream}
        return await self.caller.post(COMPLETIONS, json=body)

    async def write_list(self, name: str, *terms: str) -> httpx.Response:
        """Write a blocklist of exact terms."""
        made = await self.operator.put(f"{self.path}/raiBlocklists/{name}", params=ARM, json={"properties": {}})
        assert made.status_code in (200, 201), made.text
        items = [
            {"name": f"item{n}", "properties": {"pattern": term, "isRegex": False}} for n, term in enumerate(terms)
        ]
        return await self.operator.post(
            f"{self.path}/raiBlocklists/{name}/addRaiBlocklistItems", params=ARM, json=items
        )

    async def write_policy(self, name: str, blocklist: str) -> httpx.Response:
        """Write a policy that blocks prompts by a blocklist."""
        lists = [{"blocklistName": blocklist, "source": "Prompt", "blocking": True}]
        properties = {"basePolicyName": "Microsoft.DefaultV2", "mode": "Blocking", "customBlocklists": lists}
        return await self.operator.put(f"{self.path}/raiPolicies/{name}", params=ARM, json={"properties": properties})

    async def use_policy(self, policy: str | None) -> httpx.Response:
        """Have the deployment go by a policy."""
        model = {"format": "OpenAI", "name": "rehearsal-chat", "version": "1"}
        body = {"sku": {"name": "Standard", "capacity": 1000}, "properties": {"model": model, "raiPolicyName": policy}}
        if policy is None:
            del body["properties"]["raiPolicyName"]
        return await self.operator.put(f"{self.path}/deployments/chat", params=ARM, json=body)


class Calls:
    """Counts the calls of a store, by method and container."""

    def __init__(self, blobs: Any, monkeypatch: Any) -> None:
        self.made: Counter[tuple[str, str]] = Counter()
        for method in ("get", "put", "delete", "list", "containers", "drop"):
            monkeypatch.setattr(blobs, method, self._counted(method, getattr(blobs, method)))

    def _counted(self, method: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.made[method, str(arguments[0]) if arguments else ""] += 1
            return call(*arguments, **named)

        return counted
