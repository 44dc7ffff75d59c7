"""What an officer can do with what is retained, over the wire; every step is an entry in the audit log."""

from __future__ import annotations

import json
import uuid
from base64 import b64decode
from collections.abc import Iterator

import httpx
import pytest

from sluicegate.audit.checkpoints import check_signature, read_checkpoint
from sluicegate.audit.merkle import is_consistent
from sluicegate.retention.receipt_check import verify_receipt
from tests.wire.conftest import raw

REASON = {"reason": "ticket 4711"}


@pytest.fixture
def officer(server) -> Iterator[httpx.Client]:
    headers = {"api-key": server.credentials["officer_key"]}
    with httpx.Client(base_url=server.endpoint, headers=headers, params=REASON, timeout=60) as client:
        yield client


@pytest.fixture
def say(server):
    """Have a chat as some end user, and return its id."""

    def say(words: str, end_user: str) -> str:
        body = {"model": "chat", "messages": [{"role": "user", "content": words}], "user": end_user}
        with raw(server) as caller:
            response = caller.post("/openai/v1/chat/completions", json=body)
        return response.headers["x-request-id"]

    return say


@pytest.fixture
def end_user() -> str:
    """An end user whom no other test knows."""
    return f"user-{uuid.uuid4().hex}"


def newest_entry(officer: httpx.Client) -> dict:
    return officer.get("/governance/audit", params={**REASON, "limit": 1}).json()["data"][0]


def test_an_officer_reads_what_an_end_user_said(officer, say, end_user):
    first, second = say("good morning", end_user), say("good night", end_user)
    say("something else", f"other-{end_user}")

    response = officer.get("/governance/retained", params={**REASON, "user": end_user, "limit": 100})

    assert response.status_code == 200
    assert {record["id"] for record in response.json()["data"]} == {first, second}
    assert end_user not in response.text
    assert newest_entry(officer)["action"] == "retained.list"


def test_pages_repeat_nothing_and_leave_nothing_out(officer, say, end_user):
    said = {say(f"number {number}", end_user) for number in range(5)}
    seen: list[str] = []
    query = {**REASON, "user": end_user, "limit": 2}
    page = {"has_more": True, "last_id": None}

    while page["has_more"]:
        page = officer.get("/governance/retained", params={**query, "after": page["last_id"] or ""}).json()
        seen += [record["id"] for record in page["data"]]

    assert len(seen) == 5
    assert set(seen) == said


def test_one_record_is_read_with_its_words_and_the_reading_is_audited(officer, say, end_user):
    record = say("good morning", end_user)

    response = officer.get(f"/governance/retained/{record}")

    assert response.json()["record"]["request"]["messages"] == [{"role": "user", "content": "good morning"}]
    entry = newest_entry(officer)
    assert (entry["action"], entry["subject"], entry["reason"]) == ("retained.read", record, "ticket 4711")
    assert entry["actor"] == "default/officer"


def test_a_deleted_record_is_gone_at_once(officer, say, end_user):
    gone, kept = say("good morning", end_user), say("good night", end_user)

    response = officer.delete(f"/governance/retained/{gone}")

    assert response.json()["plugins"]["keep_encrypted"]["records"] == 1
    assert officer.get(f"/governance/retained/{gone}").status_code == 404
    assert officer.get(f"/governance/retained/{kept}").status_code == 200


def test_deleting_an_end_user_leaves_others_alone(officer, say, end_user):
    gone, kept = say("good morning", end_user), say("good morning", f"other-{end_user}")

    officer.delete("/governance/retained", params={**REASON, "user": end_user})

    assert officer.get(f"/governance/retained/{gone}").status_code == 404
    assert officer.get(f"/governance/retained/{kept}").status_code == 200


def test_an_export_has_a_line_for_each_record(officer, say, end_user):
    said = {say("good morning", end_user), say("good night", end_user)}

    response = officer.get("/governance/export", params={**REASON, "user": end_user})

    assert response.headers["content-type"] == "application/x-ndjson"
    assert {json.loads(line)["id"] for line in response.text.splitlines()} == said
    assert newest_entry(officer)["action"] == "retained.export"


def test_a_deletion_returns_a_receipt_that_verifies_offline(officer, say, end_user):
    say("good morning", end_user), say("good night", end_user)

    answer = officer.delete("/governance/retained", params={**REASON, "user": end_user}).json()

    receipt = officer.get(f"/governance/receipts/{answer['receipt']}")
    checkpoint = officer.get("/governance/checkpoint").json()
    verified = verify_receipt(receipt.content, checkpoint["public_key"])
    assert (verified.statement["kind"], verified.statement["removed"][0]["records"]) == ("delete.user", 2)
    assert (verified.entry["actor"], verified.entry["reason"]) == ("default/officer", "ticket 4711")
    assert end_user not in receipt.text
    check_signature(read_checkpoint(checkpoint["checkpoint"]), checkpoint["public_key"])


def test_the_log_is_proven_to_continue_an_earlier_checkpoint(officer, say, end_user):
    old = read_checkpoint(officer.get("/governance/checkpoint").json()["checkpoint"])
    for _ in range(3):
        officer.get(f"/governance/retained/{say('hello', end_user)}")

    answer = officer.get("/governance/checkpoint", params={"since": old.size}).json()

    new, path = read_checkpoint(answer["checkpoint"]), [b64decode(each) for each in answer["consistency"]]
    assert new.size == old.size + 3
    assert is_consistent(old.size, old.root, new.size, new.root, path)


@pytest.mark.parametrize(("param", "value"), [("day", "2026"), ("day", "20260230"), ("after", "x"), ("limit", "0")])
def test_a_page_that_cannot_be_is_refused_by_the_name_of_what_is_wrong(officer, param, value):
    response = officer.get("/governance/retained", params={**REASON, param: value})

    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("since", ["0", "-1", "x", "99999999"])
def test_a_size_that_the_log_never_had_is_refused(officer, since):
    response = officer.get("/governance/checkpoint", params={"since": since})

    assert (response.status_code, response.json()["error"]["param"]) == (400, "since")


def test_a_deletion_that_a_plugin_does_not_finish_is_said_and_gets_its_receipt_when_it_does(officer):
    record = f"stubborn-{uuid.uuid4().hex}"

    failed = officer.delete(f"/governance/retained/{record}")

    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "DeletionIncomplete")
    done = officer.delete(f"/governance/retained/{record}").json()
    assert officer.get(f"/governance/receipts/{done['receipt']}").json()["subject"] == record


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_no_record_can_be_called_is_refused_and_nothing_is_begun(officer, method):
    for _ in range(2):
        response = officer.request(method, "/governance/retained/no:record")

        assert (response.status_code, response.json()["error"]["param"]) == (400, "record")


def test_deletions_are_listed_by_their_receipts_newest_first(officer, say, end_user):
    deleted = [officer.delete(f"/governance/retained/{say('hello', end_user)}").json()["receipt"] for _ in range(3)]

    first = officer.get("/governance/receipts", params={"limit": 2}).json()
    rest = officer.get("/governance/receipts", params={"limit": 2, "after": first["last_id"]}).json()

    assert first["has_more"]
    assert [receipt["id"] for receipt in (first["data"] + rest["data"])[:3]] == deleted[::-1]


@pytest.mark.parametrize("receipt", ["0123456789abc", "8232731199999-204570a80b6256543d0babac138e90ff", "..%2Faudit"])
def test_a_receipt_that_never_was_is_not_found(officer, receipt):
    assert officer.get(f"/governance/receipts/{receipt}").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/governance/retained"),
        ("GET", "/governance/retained/abc"),
        ("DELETE", "/governance/retained/abc"),
        ("DELETE", "/governance/retained?all=true"),
        ("GET", "/governance/export"),
    ],
)
def test_nothing_is_done_without_a_reason(server, method, path):
    with httpx.Client(base_url=server.endpoint, headers={"api-key": server.credentials["officer_key"]}) as officer:
        response = officer.request(method, path)

    assert (response.status_code, response.json()["error"]["param"]) == (400, "reason")


@pytest.mark.parametrize("key", ["api_key", "operator_key", None])
@pytest.mark.parametrize(
    "path",
    [
        "/governance/retained",
        "/governance/export",
        "/governance/audit",
        "/governance/receipts",
        "/governance/receipts/8232731199999-204570a80b6256543d0babac138e90ff",
        "/governance/checkpoint",
    ],
)
def test_only_officers_may(server, path, key):
    headers = {"api-key": server.credentials[key]} if key else {}

    response = httpx.get(server.endpoint + path, params=REASON, headers=headers)

    assert response.status_code == 401


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "x"}, {"after": "nonsense"}, {"day": "yesterday"}, {"plugin": "no"}]
)
def test_what_cannot_be_listed_is_refused_by_name(officer, query):
    response = officer.get("/governance/retained", params={**REASON, **query})

    assert response.status_code == 400


@pytest.mark.parametrize("query", [{"usr": "somebody"}, {"user": ""}, {"user": ["somebody", "another"]}])
@pytest.mark.parametrize("path", ["retained", "export"])
def test_an_end_user_who_is_not_named_as_it_must_be_does_not_mean_everybody(officer, path, query):
    response = officer.get(f"/governance/{path}", params={**REASON, **query})

    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(query)))


def test_an_officer_must_say_what_to_delete(officer):
    response = officer.delete("/governance/retained")

    assert (response.status_code, response.json()["error"]["param"]) == (400, "user")


@pytest.mark.parametrize(
    ("path", "query"),
    [("", {"user": "somebody", "all": "true"}), ("/abc", {"user": "somebody"}), ("/abc", {"all": "true"})],
)
def test_a_deletion_that_could_mean_two_things_is_refused(officer, path, query):
    response = officer.delete(f"/governance/retained{path}", params={**REASON, **query})

    assert (response.status_code, response.json()["error"]["param"]) == (400, "user")


def test_a_record_that_never_was_is_not_found(officer):
    assert officer.get("/governance/retained/0123456789abcdef").status_code == 404
