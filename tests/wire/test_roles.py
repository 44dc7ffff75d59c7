"""Each operation with each role's credential, of its own account and of another: only the role that is named gets in."""

from __future__ import annotations

import httpx
import pytest

from sluicegate.api.arm.routing import OPERATIONS
from sluicegate.monitoring.questions import ATTESTATIONS, Kind
from sluicegate.roles import ROLES
from sluicegate.tenancy.first_run import SUBSCRIPTION
from sluicegate.types import Role

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
WHY = "reason=ticket%204711"
EXCHANGE = "0123456789abcdef" * 2
ANSWERS = {
    "kind": "modified_content_filters",
    "criteria": ["own_filters"],
    "use_case": "A clinic's assistant for its own staff.",
    "justification": "The clinic filters by rules of its own.",
    "attestations": dict.fromkeys(ATTESTATIONS[Kind.CONTENT_FILTERS], True),
}
UPLOAD = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 10, "mime_type": "application/jsonl"}
REFUSAL = {"decision": "refuse", "reason": "ticket 4711"}
REQUESTS = {
    "chat.completions": ("POST", "/openai/v1/chat/completions", CHAT),
    "completions": ("POST", "/openai/v1/completions", {"model": "chat", "prompt": "hello"}),
    "embeddings": ("POST", "/openai/v1/embeddings", {"model": "embedding", "input": "hello"}),
    "models.list": ("GET", "/openai/v1/models", None),
    "models.read": ("GET", "/openai/v1/models/rehearsal-chat", None),
    "models.delete": ("DELETE", "/openai/v1/models/unknown", None),
    "files.create": ("POST", "/openai/v1/files", None),
    "files.list": ("GET", "/openai/v1/files", None),
    "files.read": ("GET", "/openai/v1/files/{file}", None),
    "files.content": ("GET", "/openai/v1/files/{file}/content", None),
    "files.import": (
        "POST",
        "/openai/files/import?api-version=2024-10-21",
        {"filename": "a.jsonl", "purpose": "fine-tune", "content_url": "https://example.com/a.jsonl"},
    ),
    "files.report": ("GET", "/openai/v1/files/{file}/report", None),
    "files.delete": ("DELETE", "/openai/v1/files/{file}", None),
    "uploads.create": ("POST", "/openai/v1/uploads", UPLOAD),
    "uploads.add": ("POST", "/openai/v1/uploads/unknown/parts", None),
    "uploads.complete": ("POST", "/openai/v1/uploads/unknown/complete", {"part_ids": ["part_1"]}),
    "uploads.cancel": ("POST", "/openai/v1/uploads/unknown/cancel", None),
    "fine_tuning.jobs.create": ("POST", "/openai/v1/fine_tuning/jobs", {"model": "unknown", "training_file": "file-1"}),
    "fine_tuning.jobs.list": ("GET", "/openai/v1/fine_tuning/jobs", None),
    "fine_tuning.jobs.read": ("GET", "/openai/v1/fine_tuning/jobs/{job}", None),
    "fine_tuning.jobs.cancel": ("POST", "/openai/v1/fine_tuning/jobs/{job}/cancel", None),
    "fine_tuning.jobs.pause": ("POST", "/openai/v1/fine_tuning/jobs/{job}/pause", None),
    "fine_tuning.jobs.resume": ("POST", "/openai/v1/fine_tuning/jobs/{job}/resume", None),
    "fine_tuning.jobs.delete": ("DELETE", "/openai/v1/fine_tuning/jobs/{job}", None),
    "fine_tuning.jobs.events": ("GET", "/openai/v1/fine_tuning/jobs/{job}/events", None),
    "fine_tuning.jobs.checkpoints": ("GET", "/openai/v1/fine_tuning/jobs/{job}/checkpoints", None),
    "retained.list": ("GET", f"/governance/retained?{WHY}", None),
    "retained.read": ("GET", f"/governance/retained/{{id}}?{WHY}", None),
    "retained.delete": ("DELETE", f"/governance/retained/{{id}}?{WHY}", None),
    "retained.export": ("GET", f"/governance/export?{WHY}", None),
    "receipts.list": ("GET", f"/governance/receipts?{WHY}", None),
    "receipts.read": ("GET", f"/governance/receipts/unknown?{WHY}", None),
    "checkpoint.read": ("GET", f"/governance/checkpoint?{WHY}", None),
    "audit.list": ("GET", f"/governance/audit?{WHY}", None),
    "applications.create": ("POST", "/governance/applications", ANSWERS),
    "applications.withdraw": ("DELETE", "/governance/applications/unknown", None),
    "cases.list": ("GET", "/governance/cases", None),
    "cases.read": ("GET", "/governance/cases/unknown", None),
    "cases.decide": ("POST", "/governance/cases/unknown/decision", {"decision": "dismiss", "reason": "ticket 4711"}),
    "cases.content": ("GET", "/governance/cases/unknown/content", None),
    "access.ask": ("POST", "/governance/cases/unknown/access", {"reason": "ticket 4711"}),
    "access.approve": ("POST", "/governance/cases/unknown/access/unknown/approve", None),
    "access.revoke": ("DELETE", "/governance/cases/unknown/access/unknown", None),
    "debug.ask": (
        "POST",
        "/governance/debug-access",
        {"account": "unknown", "exchange": EXCHANGE, "reason": "ticket 4711"},
    ),
    "debug.accept": ("POST", "/governance/debug-access/unknown/accept", None),
    "debug.content": ("GET", "/governance/debug-access/unknown/content", None),
    "debug.invite": ("POST", "/governance/debug-access/invitations", {"exchange": EXCHANGE, "reason": "ticket 4711"}),
    "debug.list": ("GET", "/governance/debug-access", None),
    "debug.approve": ("POST", "/governance/debug-access/unknown/approve", None),
    "debug.revoke": ("DELETE", "/governance/debug-access/unknown", None),
    "applications.list": ("GET", "/governance/applications", None),
    "applications.read": ("GET", "/governance/applications/unknown", None),
    "notices.list": ("GET", "/governance/notices", None),
    "appeals.create": ("POST", "/governance/appeals", {"case": "unknown", "kind": "appeal", "text": "It was a novel."}),
    "appeals.list": ("GET", "/governance/appeals", None),
    "appeals.read": ("GET", "/governance/appeals/unknown", None),
    "appeals.rule": ("POST", "/governance/appeals/unknown/ruling", {"ruling": "lift", "reason": "ticket 4711"}),
    "ledger.read": ("GET", "/governance/ledger", None),
    "ledger.export": ("GET", f"/governance/ledger/export?{WHY}", None),
    "ledger.delete": ("DELETE", f"/governance/ledger/retained/{{id}}?{WHY}", None),
    "ledger.receipts": ("GET", "/governance/ledger/receipts", None),
    "ledger.receipt": ("GET", "/governance/ledger/receipts/unknown", None),
    "ledger.retention": ("PUT", "/governance/ledger/retention", {"retention_days": 30}),
    "applications.decide": ("POST", "/governance/applications/unknown/decision", REFUSAL),
}
"""Operation -> a request for it; those of the control plane are walked in ``tests/arm``."""
FORMS = {
    "files.create": {"files": {"file": ("train.jsonl", b"{}")}, "data": {"purpose": "fine-tune"}},
    "uploads.add": {"files": {"data": b"{}"}},
}
ANSWERED = {200, 201, 404}
JOB = "ftjob-" + "0" * 32


@pytest.fixture(scope="module")
def keys(server) -> dict[Role, str]:
    found = server.credentials
    return {
        Role.CALLER: found["api_key"],
        Role.OPERATOR: found["operator_key"],
        Role.REVIEWER: found["reviewer_keys"][0],
        Role.OFFICER: found["officer_key"],
    }


@pytest.fixture(scope="module")
def record(server, keys) -> str:
    """The id of something that the account has said."""
    response = httpx.post(
        f"{server.endpoint}/openai/v1/chat/completions", json=CHAT, headers={"api-key": keys[Role.CALLER]}
    )
    return response.headers["x-request-id"]


@pytest.fixture(scope="module")
def foreigner(server, keys) -> str:
    """A key of another account's."""
    base = f"{server.endpoint}/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts"
    headers, version = {"authorization": f"Bearer {keys[Role.OPERATOR]}"}, {"api-version": "2025-09-01"}
    body = {"location": "local", "kind": "OpenAI", "sku": {"name": "S0"}}
    httpx.put(f"{base}/foreign", json=body, headers=headers, params=version).raise_for_status()
    return httpx.post(f"{base}/foreign/listKeys", headers=headers, params=version).json()["key1"]


@pytest.fixture(scope="module")
def file(server, keys) -> str:
    """The id of a file of the account."""
    return send(server, "files.create", keys[Role.CALLER]).json()["id"]


def send(server, operation: str, key: str, record: str = "unknown", file: str = "unknown") -> httpx.Response:
    method, path, body = REQUESTS[operation]
    options = FORMS.get(operation, {"json": body})
    url = server.endpoint + path.format(id=record, file=file, job=JOB)
    return httpx.request(method, url, headers={"api-key": key}, timeout=60, **options)


def test_every_operation_of_the_table_is_walked():
    assert REQUESTS.keys() | {operation.name for operation in OPERATIONS} == ROLES.keys()


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("operation", REQUESTS)
def test_only_the_role_that_an_operation_names_gets_in(server, keys, operation, role):
    response = send(server, operation, keys[role])

    if role is ROLES[operation]:
        # What it asks for is refused only once it is in.
        assert response.status_code in (
            ANSWERED | {400} if operation in ("fine_tuning.jobs.create", "files.import") else ANSWERED
        )
    else:
        assert (response.status_code, response.json()["error"]["code"]) == (401, "PermissionDenied")


@pytest.mark.parametrize("operation", REQUESTS)
def test_another_accounts_caller_reaches_nothing_of_this_one(server, foreigner, record, file, operation):
    response = send(server, operation, foreigner, record, file)

    if ROLES[operation] is not Role.CALLER:
        assert response.status_code == 401
    elif operation == "files.list":
        assert file not in response.text
    elif operation in ("models.list", "models.read", "files.create", "uploads.create"):
        assert response.status_code == 200
    elif operation in ("notices.list", "fine_tuning.jobs.list"):
        assert response.json()["data"] == []
    elif operation == "debug.list":
        assert all(grant["account"] == "foreign" for grant in response.json()["data"])
    elif operation == "ledger.read":
        assert (response.json()["account"], response.json()["held"]["records"]) == ("foreign", 0)
    elif operation == "ledger.export":
        assert (response.status_code, response.content) == (200, b"")
    elif operation.startswith("ledger."):
        assert response.status_code in ANSWERED
        assert "default" not in response.text
    elif operation == "fine_tuning.jobs.create":
        assert (response.status_code, response.json()["error"]["code"]) == (400, "model_not_found")
    elif operation == "files.import":
        assert (response.status_code, response.json()["error"]["param"]) == (400, "content_url")
    elif operation == "debug.invite":
        assert (response.status_code, response.json()["account"]) == (201, "foreign")
    elif operation == "applications.create":
        # It is in the same subscription, whose application the other account has filed.
        assert response.status_code in (201, 409)
    else:
        codes = {
            "files": "notFound",
            "uploads": "notFound",
            "models": "model_not_found",
            "fine_tuning": "notFound",
            "applications": "404",
            "appeals": "404",
            "debug": "404",
        }
        code = codes.get(operation.partition(".")[0], "DeploymentNotFound")
        assert (response.status_code, response.json()["error"]["code"]) == (404, code)
