"""An upstream that fine-tunes, on loopback: files, jobs, events, checkpoints and models of OpenAI's and Azure's APIs.

It trains nothing: a test moves its jobs on. What it is sent, it keeps, so that a test can look whether it is gone.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.plugins.loopback import served

RESULTS = (
    "step,train_loss,train_accuracy,valid_loss,validation_mean_token_accuracy,full_valid_loss,full_valid_mean_token_accuracy\n"
    "1,3.5,0.25,3.75,0.2,,\n2,2.5,0.5,2.75,0.45,2.8,0.44\n3,1.5,0.75,,,,\n4,0.5,1.0,0.75,0.9,0.8,0.88\n"
)
"""Two epochs of two steps."""
_PREFIX = re.compile(r"/(openai/v1|openai|v1)/(.*)")


@dataclass
class TrainingUpstream:
    """What the upstream has.

    Attributes:
        fault: Called with the number of each request, from 0, and its method and path, once it has had its effect; True
            breaks the connection instead of answering.
        refusals: Answers by ``METHOD resource``, such as ``POST fine_tuning/jobs``, in place of doing anything.
        page: How many items a listing has at most.
    """

    root: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    checkpoints: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    asked: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    fault: Callable[[int, str], bool] = lambda _number, _what: False
    refusals: dict[str, tuple[int, Any]] = field(default_factory=dict)
    file_status: str = "processed"
    page: int = 100

    # --- what a test does ------------------------------------------------------------------------------------------

    @property
    def job(self) -> dict[str, Any]:
        """The only job there is."""
        [job] = self.jobs.values()
        return job

    def happened(self, step: int | None, message: str = "", *, at: int = 0) -> None:
        """Let the only job report; ``step`` None is a message alone."""
        data = {} if step is None else {"step": step, "train_loss": 4.5 - step, "train_mean_token_accuracy": step / 4}
        events = self.events.setdefault(self.job["id"], [])
        kind = "message" if step is None else "metrics"
        number = len(events)
        fields = {"object": "fine_tuning.job.event", "id": f"ftevent-{number}", "created_at": at or number}
        events.insert(0, {**fields, "level": "info", "message": message, "type": kind, "data": data})

    def succeed(self, *, in_base64: bool = False) -> None:
        """Let the only job end with a model, a checkpoint for each epoch, and results."""
        content = RESULTS.encode()
        file = self._add_file("results.csv", "fine-tune-results", base64.b64encode(content) if in_base64 else content)
        model = f"ft:{self.job['model']}:org::abc"
        for step in (2, 4):
            metrics = {"full_valid_loss": 0.125 * step, "full_valid_mean_token_accuracy": 0.25}
            name = model if step == 4 else f"{model}:ckpt-step-{step}"
            fields = {"id": f"ftckpt-{step}", "fine_tuned_model_checkpoint": name, "step_number": step}
            self.checkpoints.setdefault(self.job["id"], []).insert(0, {**fields, "metrics": metrics})
            self.models.add(name)
        used = {"n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 1.5}
        kind = (self.job.get("method") or {}).get("type")
        method = {"method": {"type": kind, kind: {"hyperparameters": used}}} if kind else {}
        self.job.update(
            status="succeeded",
            fine_tuned_model=model,
            result_files=[file["id"]],
            trained_tokens=1234,
            hyperparameters=used,
            **method,
        )

    # --- what it does -------------------------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        found = _PREFIX.fullmatch(request.path)
        what = f"{request.method} {found[2] if found else request.path}"
        self.queries.append(dict(request.query))
        number = len(self.requests)
        self.requests.append(what)
        refusal = self.refusals.get(what)
        answer = web.json_response(refusal[1], status=refusal[0]) if refusal else await self._answer(request, what)
        if self.fault(number, what):
            request.transport.abort()
        return answer

    async def _answer(self, request: web.Request, what: str) -> web.StreamResponse:
        match what.replace("/", " ").split():
            case ["POST", "files"]:
                form = await request.post()
                upload = form["file"]
                file = self._add_file(upload.filename, form["purpose"], upload.file.read())
                return web.json_response(file, status=201)
            case ["GET", "files"]:
                return self._listing(list(self.files.values()), request)
            case ["GET", "files", id] if id in self.files:
                return web.json_response(self.files[id])
            case ["GET", "files", id, "content"] if id in self.contents:
                return web.Response(body=self.contents[id])
            case ["DELETE", "files", id] if id in self.files:
                del self.files[id], self.contents[id]
                return web.json_response({"object": "file", "id": id, "deleted": True})
            case ["POST", "fine_tuning", "jobs"]:
                body = await request.json()
                self.created.append(body)
                id = f"ftjob-remote{len(self.created)}"
                given = {"id": id, "object": "fine_tuning.job", "status": "queued", "fine_tuned_model": None}
                self.jobs[id] = {**body, **given, "result_files": [], "trained_tokens": None, "error": None}
                return web.json_response(self.jobs[id], status=201)
            case ["GET", "fine_tuning", "jobs"]:
                return self._listing(list(self.jobs.values())[::-1], request)
            case ["GET", "fine_tuning", "jobs", id] if id in self.jobs:
                return web.json_response(self.jobs[id])
            case ["GET", "fine_tuning", "jobs", id, "events"]:
                return self._listing(self.events.get(id, []), request)
            case ["GET", "fine_tuning", "jobs", id, "checkpoints"]:
                return self._listing(self.checkpoints.get(id, []), request)
            case ["POST", "fine_tuning", "jobs", id, "cancel"] if id in self.jobs:
                if self.jobs[id]["status"] in ("succeeded", "failed", "cancelled"):
                    return _error(400, "invalidPayload")
                self.jobs[id]["status"] = "cancelled"
                return web.json_response(self.jobs[id])
            case ["GET", "models", name] if name in self.models:
                return web.json_response({"id": name, "object": "model"})
            case ["DELETE", "models", name] if name in self.models:
                self.models.remove(name)
                return web.json_response({"id": name, "object": "model", "deleted": True})
            case ["POST", "chat", "completions"]:
                self.asked.append(await request.json())
        return _error(404, "notFound")

    def _add_file(self, name: str, purpose: str, content: bytes) -> dict[str, Any]:
        id = f"file-{len(self.requests)}-{len(self.files)}"
        fields = {"object": "file", "created_at": 1732000000, "status": self.file_status, "bytes": len(content)}
        self.files[id] = {"id": id, "filename": name, "purpose": purpose, **fields}
        self.contents[id] = content
        return self.files[id]

    def _listing(self, items: list[dict[str, Any]], request: web.Request) -> web.Response:
        ids = [item["id"] for item in items]
        begin = ids.index(request.query["after"]) + 1 if "after" in request.query else 0
        page = items[begin : begin + self.page]
        return web.json_response({"object": "list", "data": page, "has_more": begin + len(page) < len(items)})


def _error(status: int, code: str, message: str = "no") -> web.Response:
    return web.json_response({"error": {"code": code, "message": message, "param": None, "type": None}}, status=status)


@asynccontextmanager
async def training_upstream() -> AsyncIterator[TrainingUpstream]:
    """Yields an upstream that listens."""
    upstream = TrainingUpstream()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    async with served(app) as upstream.root:
        yield upstream
