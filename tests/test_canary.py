"""What callers send and models say is found in no log, no temporary file, no file in plain text, and no answer to another.

One server plays every outcome with a unique string in every place that takes one; then everything it left is searched.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from sluicegate.monitoring.questions import Kind
from tests.monitoring.customers import answers
from tests.wire.cues import Cues, user
from tests.wire.serving import Server, records

LAUNCH = """
import logging, runpy
logging.basicConfig(level=logging.INFO)
for name in ("sluicegate", "plugins", "rehearsal", "function_app"):
    logging.getLogger(name).setLevel(logging.DEBUG)
runpy.run_module("sluicegate", run_name="__main__", alter_sys=True)
"""
"""Ours at DEBUG, all others at INFO."""
LOUD = "azure azure.functions aiohttp aiohttp.access uvicorn uvicorn.error uvicorn.access asyncio fastapi httpx openai"
"""Loggers that are set to INFO again when the server has started, because whoever starts it may have set them."""


@dataclass
class Run:
    """Everything that was said in one run, and who said it.

    Attributes:
        canaries: Where each was put.
        bugs: Those that no caller may see.
        answers: What each caller got, with the canaries that are its own.
        jobs: The fine-tuning jobs that were made.
        statuses: What became of them.
    """

    server: Server
    temporary: Path
    canaries: dict[str, str] = field(default_factory=dict)
    bugs: set[str] = field(default_factory=set)
    answers: list[tuple[set[str], str]] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    statuses: set[str | None] = field(default_factory=set)

    def canary(self, place: str) -> str:
        """Return a string that is put into one place only."""
        canary = f"canary{secrets.token_hex(8)}"
        self.canaries[canary] = place
        return canary

    def bug(self, place: str) -> str:
        """Return a canary for what a bug says, which is nobody's business."""
        canary = self.canary(place)
        self.bugs.add(canary)
        return canary

    def send(self, method: str, where: str, **options: Any) -> httpx.Response:
        """Send a request and note whose canaries the answer may hold."""
        known = set(self.canaries) - self.bugs - set().union(*(own for own, _ in self.answers))
        headers = {"api-key": self.server.credentials["api_key"], **options.pop("headers", {})}
        response = httpx.request(method, self.server.endpoint + where, headers=headers, timeout=60, **options)
        self.answers.append((known, f"{response.headers}{response.text}"))
        return response

    def post(self, operation: str, body: dict[str, Any], **options: Any) -> httpx.Response:
        """Call an operation on v1."""
        model = "embedding" if operation == "embeddings" else "chat"
        return self.send("POST", f"/openai/v1/{operation}", json={"model": model, **body}, **options)

    def found(self, text: bytes) -> list[str]:
        """Return the places whose canaries are in a text, in one of several spellings."""
        return [place for canary, place in self.canaries.items() if any(each in text for each in spellings(canary))]


def spellings(canary: str) -> Iterator[bytes]:
    """Yield a string as it is, as UTF-16, as hexadecimal digits, and as base64 at each of its three places in a group."""
    raw = canary.encode()
    yield from (raw, canary.encode("utf-16-le"), raw.hex().encode())
    for place in range(3):
        coded = base64.b64encode(b"\0" * place + raw)
        yield coded[4 if place else 0 : -4]


@pytest.fixture(scope="module", params=["full", None], ids=["every outcome", "the embedded models"])
def run(request, tmp_path_factory) -> Iterator[Run]:
    """A server that has seen everything and is stopped."""
    folder = tmp_path_factory.mktemp("canary")
    temporary = folder / "temporary"
    temporary.mkdir()
    cues = Cues(folder / "cues")
    options = {"REHEARSAL_CUES": str(cues.path), "REHEARSAL_LOUD": LOUD, "TMPDIR": str(temporary)}
    try:
        with Server(folder / "data", request.param, launch=("-c", LAUNCH), **options) as server:
            run = Run(server, temporary)
            for play in (what_any_deployment_sees, *([what_scripts_do] if request.param else [])):
                play(run, cues)
        yield run
    finally:
        cues.close()


def what_any_deployment_sees(run: Run, _: Cues) -> None:
    canary = run.canary
    short = {"max_tokens": 8, "temperature": 0}
    for stream in (False, True):
        run.post("chat/completions", {"messages": [says(canary("a prompt"))], "stream": stream, **short})
        run.post(
            "chat/completions", {"messages": [says(f"Project Nightjar {canary('a blocked prompt')}")], "stream": stream}
        )
    run.post("chat/completions", everything(run) | short)
    run.post(
        "completions", {"prompt": [canary("a prompt of a list"), canary("another")], "user": canary("a user"), **short}
    )
    run.post("completions", {"prompt": list(canary("token ids").encode()), **short})
    run.post("embeddings", {"input": [canary("an input"), canary("another input")]})
    run.post("embeddings", {"input": f"{canary('a blocked input')} Project Nightjar"})
    run.post("chat/completions", {"messages": [says(f"{canary('a prompt that is too long')} " * 9000)]})
    run.post("chat/completions", {"messages": [says("hello")], canary("a field's name"): canary("a field's value")})
    run.post("chat/completions", {"messages": [says("hello")], "temperature": canary("a mistyped value")})
    run.post("chat/completions", {"messages": [says("hello")], "model": canary("an unknown deployment")})
    run.send("POST", "/openai/v1/chat/completions", content=f'{{"messages": "{canary("malformed JSON")}'.encode())
    run.send("POST", f"/openai/deployments/{canary('a path')}/embeddings?api-version={canary('a version')}", json={})
    run.send("GET", f"/openai/v1/models/{canary('a model')}?{canary('a query')}={canary('a value of a query')}")
    run.send("GET", f"/{canary('a path of nothing')}")
    for name in ("x-ms-client-request-id", "x-custom", "user-agent", "cookie", "traceparent"):
        run.send("GET", "/openai/v1/models", headers={name: canary(f"header {name}")})
    for headers in (
        {"api-key": canary("a wrong key")},
        {"api-key": "", "authorization": f"Bearer {canary('a token')}"},
    ):
        run.send("GET", "/openai/v1/models", headers=headers)
    upload = {"file": (f"{canary('the name of a file')}.jsonl", canary("a file").encode())}
    run.send("POST", "/openai/v1/files", files=upload, data={"purpose": canary("a purpose")})
    files_that_are_taken(run)
    jobs_that_fail(run)
    officer = {"api-key": run.server.credentials["officer_key"]}
    forgotten = canary("a user who is forgotten")
    run.post("chat/completions", {"messages": [says(canary("what is forgotten"))], "user": forgotten, **short})
    run.send("DELETE", "/governance/retained", headers=officer, params={"user": forgotten, "reason": "ticket 17"})
    run.send("GET", "/governance/receipts", headers=officer)
    run.send("GET", "/governance/checkpoint", headers=officer)
    what_customers_ask(run)
    run.send("GET", "/healthz")
    run.send(
        "POST", "/admin/functions/purge", headers={"prefer": "wait"}, content=json.dumps({"input": canary("a timer")})
    )


def what_customers_ask(run: Run) -> None:
    canary = run.canary
    texts = {"use_case": f"{canary('a use case')} of ours", "justification": f"{canary('a justification')} for it"}
    filed = run.send("POST", "/governance/applications", json=answers(Kind.CONTENT_FILTERS, **texts))
    assert filed.status_code == 201
    operator = {"api-key": run.server.credentials["operator_key"]}
    # The operator may read it, who is another caller, so this answer is looked at here.
    read = httpx.get(f"{run.server.endpoint}/governance/applications/{filed.json()['id']}", headers=operator)
    assert read.json()["use_case"] == texts["use_case"]
    wrong = {canary("a field of an application"): canary("its value"), "kind": canary("a kind")}
    run.send("POST", "/governance/applications", json=wrong)
    answer = {"case": canary("a case"), "kind": "appeal", "text": canary("an answer")}
    run.send("POST", "/governance/appeals", json=answer)
    run.send("POST", "/governance/appeals", json=answer | {"kind": canary("an answer's kind")})
    for path in ("/governance/ledger", "/governance/ledger/receipts", "/governance/notices"):
        run.send("GET", path)
    run.send("PUT", "/governance/ledger/retention", json={"retention_days": canary("days")})


def files_that_are_taken(run: Run) -> None:
    def form(which: str) -> dict[str, Any]:
        file = (f"{run.canary(f'the name of {which}')}.jsonl", run.canary(which).encode())
        return {"files": {"file": file}, "data": {"purpose": "fine-tune"}}

    kept, deleted = (
        run.send("POST", "/openai/v1/files", **form(which)).json()["id"] for which in ("a kept file", "a deleted file")
    )
    refused = form("a file beside another")
    refused["files"]["more"] = refused["files"]["file"]
    run.send("POST", "/openai/v1/files", **refused)
    headers = {"api-key": run.server.credentials["api_key"]}
    for path in ("", f"/{kept}", f"/{kept}/content"):
        httpx.get(f"{run.server.endpoint}/openai/v1/files{path}", headers=headers, timeout=60).raise_for_status()
    run.send("DELETE", f"/openai/v1/files/{deleted}")


def jobs_that_fail(run: Run) -> None:
    """Have jobs made of data that nobody may train on, where the model can be trained at all."""
    headers = {"api-key": run.server.credentials["api_key"]}
    asked = {"what is no example": {run.canary("a field of no example"): run.canary("what is no example")}}
    words = f"I will kill you and your family with a knife {run.canary('an example that does harm')}"
    asked["an example that does harm"] = {"messages": [says(words), {"role": "assistant", "content": words}]}
    for which, row in asked.items():
        rows = "".join(json.dumps(row).replace("kill", f"kill {number}") + "\n" for number in range(12))
        form = {"files": {"file": ("train.jsonl", rows.encode())}, "data": {"purpose": "fine-tune"}}
        file = run.send("POST", "/openai/v1/files", **form).json()["id"]
        body = {
            "model": "smollm2-135m-instruct",
            "training_file": file,
            "metadata": {"team": run.canary(f"metadata, {which}")},
        }
        job = run.send("POST", "/openai/v1/fine_tuning/jobs", json=body).json()
        if "id" not in job:
            assert job["error"]["param"] == "model"
            continue
        run.jobs.append(job["id"])
        run.send("POST", "/admin/functions/fine_tune", headers={"prefer": "wait"}, json={"input": ""})
        for path in ("", f"/{job['id']}", f"/{job['id']}/events"):
            url = f"{run.server.endpoint}/openai/v1/fine_tuning/jobs{path}"
            answer = httpx.get(url, headers=headers, timeout=60).raise_for_status().text
            told = set(run.found(answer.encode()))
            assert told <= {f"metadata, {each}" for each in asked}
            run.statuses.add(json.loads(answer).get("status"))
        run.send("DELETE", f"/openai/v1/fine_tuning/jobs/{run.jobs[0]}")


def what_scripts_do(run: Run, cues: Cues) -> None:
    canary = run.canary
    for stream in (False, True):
        for hook in ("pre_filter", "post_filter", "retain"):
            run.post(
                "chat/completions",
                {"messages": [says(f"fail in {hook}: {canary(f'a prompt that fails in {hook}')}")], "stream": stream},
            )
        for kind, says_so in (("ValueError", run.bug), ("InvalidRequest", canary)):
            script = [canary(f"what precedes {kind}"), {"raise": kind, "message": says_so(f"the message of {kind}")}]
            run.post("chat/completions", {"messages": user(*script), "stream": stream})
        calls = [
            {
                "index": 0,
                "id": "1",
                "name": canary("a tool's name"),
                "arguments": json.dumps(canary("a tool's arguments")),
            }
        ]
        script = [canary("an answer"), {"tool_calls": calls}, {"refusal": canary("a refusal")}]
        run.post("chat/completions", {"messages": user(*script), "stream": stream})
        run.post(
            "chat/completions",
            {"messages": user("ok Project ", f"Nightjar {canary('what is withheld')}"), "stream": stream},
        )
    run.post("embeddings", {"input": f"fail in pre_filter: {canary('an input that fails')}"})
    run.send(
        "GET", "/openai/v1/models", headers={"x-rehearsal": f"fail in authenticate: {canary('a header that fails')}"}
    )
    leave(run, cues)


def leave(run: Run, cues: Cues) -> None:
    """Go away in the middle of an answer."""
    body = {"model": "chat", "messages": user(run.canary("an abandoned answer"), {"cue": "never"}), "stream": True}
    headers = {"api-key": run.server.credentials["api_key"]}
    with httpx.stream(
        "POST", f"{run.server.endpoint}/openai/v1/chat/completions", json=body, headers=headers
    ) as response:
        next(response.iter_raw())
    cues.told(f"kept abandoned {response.headers['x-request-id']}")


def says(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def everything(run: Run) -> dict[str, Any]:
    """Return a chat with a canary in every place for text."""
    canary = run.canary
    arguments = json.dumps({"x": canary("arguments of a tool's call")})
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    parameters = {
        "type": "object",
        "properties": {canary("a schema"): {"description": canary("a schema's description")}},
    }
    function = {"name": "f", "description": canary("a tool's description"), "parameters": parameters}
    return {
        "messages": [
            {"role": "system", "content": canary("a system message")},
            {"role": "user", "content": [{"type": "text", "text": canary("a part")}], "name": canary("a name")},
            {"role": "assistant", "content": canary("an earlier answer"), "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": canary("a tool's result")},
            says("go on"),
        ],
        "tools": [{"type": "function", "function": function}],
        "stop": [canary("a stop")],
        "safety_identifier": canary("a safety identifier"),
        "user_security_context": {
            "end_user_id": canary("an end user"),
            "application_name": canary("an application"),
            "end_user_tenant_id": canary("a tenant"),
            "source_ip": canary("an address"),
        },
    }


def test_the_run_was_not_in_vain(run):
    statuses = run.server.log.read_text()

    assert len(run.canaries) > 30
    assert "INFO" in statuses
    assert "signals {" in statuses
    assert [path for path in (run.server.data / "storage" / "signals").rglob("*") if path.is_file()]


def test_nobody_trained_on_what_is_no_data_or_does_harm(run):
    assert run.statuses <= {"failed", None}
    assert ("failed" in run.statuses) == bool(run.jobs)


async def test_what_was_kept_holds_them(run):
    kept = json.dumps(await records(run.server.data))

    places = run.found(kept.encode())
    assert {"a prompt", "a blocked prompt", "a system message", "a tool's result", "an input"} <= set(places)


async def test_what_was_kept_does_not_name_the_end_user(run):
    kept = json.dumps(await records(run.server.data))

    assert not {"a user", "a safety identifier", "an end user", "an application", "a tenant", "an address"} & set(
        run.found(kept.encode())
    )


def test_no_log_quotes_anything(run):
    said = run.server.printed.encode() + run.server.log.read_bytes()

    assert run.found(said) == []


def test_no_log_holds_a_key(run):
    said = run.server.printed + run.server.log.read_text()

    assert not [key for key in keys(run.server) if key in said]


def test_no_file_is_in_plain_text(run):
    files = [path for path in run.server.data.rglob("*") if path.is_file() and path.name != "credentials.json"]

    assert len(files) > 5
    for path in files:
        content = str(path).encode() + path.read_bytes()
        assert run.found(content) == []
        assert not [key for key in keys(run.server) if key.encode() in content]


def test_no_temporary_file_holds_anything(run):
    left = [str(path).encode() + path.read_bytes() for path in run.temporary.rglob("*") if path.is_file()]

    assert run.found(b"".join(left)) == []


def test_no_answer_quotes_another_caller(run):
    for own, text in run.answers:
        assert not [place for canary, place in run.canaries.items() if canary in text and canary not in own]


def test_no_answer_holds_a_key(run):
    assert not [key for key in keys(run.server) for _, text in run.answers if key in text]


def keys(server: Server) -> list[str]:
    credentials = server.credentials
    return [
        credentials["api_key"],
        credentials["operator_key"],
        credentials["officer_key"],
        *credentials["reviewer_keys"],
    ]
