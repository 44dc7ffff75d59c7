"""A stand-in for Azure AI Content Safety over HTTPS on loopback, for tests with the real client.

It speaks the published REST interface, in versions 2024-09-01 and 2024-09-15-preview. What it finds in a text is what the text
says of itself: ``[Hate 4]`` a severity, ``[attack]`` an attack, ``[lyrics]`` and ``[code MIT]`` protected material, ``[made up]``
a claim without grounds; and the terms of the blocklists that a test has put into it.

In a test::

    with running() as stand_in:
        stand_in.fail(503, "ServerBusy", operation="text:analyze")
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

STABLE, PREVIEW = "2024-09-01", "2024-09-15-preview"
VERSIONS = {"text:detectProtectedMaterialForCode": {PREVIEW}, "text:detectGroundedness": {PREVIEW}}
"""Operations that are in previews only."""
CATEGORIES = {"Hate", "SelfHarm", "Sexual", "Violence"}
LONGEST_WAIT_S = 60


class Failure(Exception):
    """An answer that is an error, in the service's form."""

    def __init__(
        self, status: int, code: str, message: str = "It failed.", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.response = JSONResponse(
            {"error": {"code": code, "message": message}}, status, {"x-ms-error-code": code} | dict(headers or {})
        )


@dataclass
class Fault:
    """What happens to the next calls of an operation, or of any."""

    operation: str | None
    times: int
    response: Response | None = None
    held: threading.Event | None = None
    arrived: threading.Event = field(default_factory=threading.Event)


class StandIn:
    """One resource.

    Attributes:
        endpoint: Its URL.
        key: One of its keys.
        token: What its identity endpoint gives out.
        environment: What a process of an app with that identity has.
        calls: Operation and body of every call that was let in, in order.
        most_at_once: The most calls that were under way at a time.
        blocklists: Terms, by list.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.environment: dict[str, str] = {}
        self.key = secrets.token_hex(16)
        self.token = f"token-{secrets.token_hex(16)}"
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.most_at_once = 0
        self.blocklists: dict[str, dict[str, str]] = {}
        self._under_way = 0
        self._faults: list[Fault] = []
        self._held: list[Fault] = []

    def bodies(self, operation: str) -> list[dict[str, Any]]:
        """Return the bodies that an operation was called with."""
        return [body for called, body in self.calls if called == operation]

    def fail(
        self,
        status: int,
        code: str,
        *,
        operation: str | None = None,
        times: int = 1,
        message: str = "It failed.",
        **headers: str,
    ) -> None:
        """Answer the next calls with an error; header names with ``_`` for ``-``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._faults.append(Fault(operation, times, Failure(status, code, message, named).response))

    def answer(self, body: Any, *, operation: str, times: int = 1) -> None:
        """Answer the next calls with something else than was found."""
        response = JSONResponse(body) if not isinstance(body, str) else Response(body, media_type="text/html")
        self._faults.append(Fault(operation, times, response))

    def hold(self, operation: str | None = None, *, times: int = 1) -> Fault:
        """Keep the next calls waiting until ``mend``."""
        fault = Fault(operation, times, held=threading.Event())
        self._faults.append(fault)
        self._held.append(fault)
        return fault

    def mend(self) -> None:
        """Let no fault happen any more, and nobody wait."""
        self._faults.clear()
        for fault in self._held:
            fault.held.set()
        self._held.clear()

    def reset(self) -> None:
        """Forget everything."""
        self.mend()
        self.calls.clear()
        self.blocklists.clear()
        self.most_at_once = 0

    # --- serving -----------------------------------------------------------------------------------------------------

    async def serve(self, request: Request) -> Response:
        """Answer one call."""
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            self._authorize(request)
            operation = request.path_params["operation"]
            body = await self._body(request)
            self.calls.append((operation, body))
            fault = self._fault(operation)
            if fault is not None and fault.held is not None:
                fault.arrived.set()
                await asyncio.to_thread(fault.held.wait, LONGEST_WAIT_S)
            elif fault is not None:
                return fault.response
            _check_version(operation, request.query_params.get("api-version"))
            return self._answer(request.method, operation, body)
        except Failure as failure:
            return failure.response
        finally:
            self._under_way -= 1

    async def identity(self, request: Request) -> Response:
        """Answer what asks for a token as App Service does."""
        if request.headers.get("x-identity-header") != self.environment["IDENTITY_HEADER"]:
            return JSONResponse({"statusCode": 400, "message": "Unable to load the proper Managed Identity."}, 400)
        assert request.query_params["resource"] == "https://cognitiveservices.azure.com"
        return JSONResponse(
            {
                "access_token": self.token,
                "expires_on": "4102444800",
                "resource": request.query_params["resource"],
                "token_type": "Bearer",
            }
        )

    def _authorize(self, request: Request) -> None:
        key, bearer = request.headers.get("ocp-apim-subscription-key"), request.headers.get("authorization")
        if key != self.key and bearer != f"Bearer {self.token}":
            raise Failure(401, "401", "Access denied due to invalid subscription key or wrong API endpoint.")

    async def _body(self, request: Request) -> dict[str, Any]:
        raw = await request.body()
        if not raw:
            return {}
        try:
            return json.loads(raw)
        except ValueError:
            raise Failure(400, "InvalidRequestBody", "The request body is not JSON.") from None

    def _fault(self, operation: str) -> Fault | None:
        for fault in self._faults:
            if fault.operation in (None, operation):
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
                return fault
        return None

    def _answer(self, method: str, operation: str, body: dict[str, Any]) -> Response:
        match method, operation.split("/"):
            case "POST", ["text:analyze"]:
                return JSONResponse(self._analysed(body))
            case "POST", ["text:shieldPrompt"]:
                return JSONResponse(_shielded(body))
            case "POST", ["text:detectProtectedMaterial"]:
                _check_text(body.get("text"), 110, 10_000)
                return JSONResponse({"protectedMaterialAnalysis": {"detected": "[lyrics]" in body["text"]}})
            case "POST", ["text:detectProtectedMaterialForCode"]:
                return JSONResponse({"protectedMaterialAnalysis": _code(body)})
            case "POST", ["text:detectGroundedness"]:
                return JSONResponse(_grounded(body))
            case _, ["text", "blocklists", *rest]:
                return self._managed(method, rest, body)
        raise Failure(404, "NotFound", "No such operation.")

    def _analysed(self, body: dict[str, Any]) -> dict[str, Any]:
        text = _check_text(body.get("text"), 0, 10_000)
        categories = body.get("categories") or sorted(CATEGORIES)
        if not set(categories) <= CATEGORIES:
            raise Failure(400, "InvalidRequestBody", "A category is unknown.")
        step = {"FourSeverityLevels": 2, "EightSeverityLevels": 1}[body.get("outputType", "FourSeverityLevels")]
        found = {
            name: int(level) // step * step for name, level in re.findall(r"\[(\w+) (\d)\]", text) if name in CATEGORIES
        }
        matches = []
        for name in body.get("blocklistNames", ()):
            if name not in self.blocklists:
                raise Failure(404, "ResourceNotFound", "The blocklist does not exist.")
            matches += [
                {"blocklistName": name, "blocklistItemId": item, "blocklistItemText": term}
                for item, term in self.blocklists[name].items()
                if term in text
            ]
        analysis = [{"category": name, "severity": found.get(name, 0)} for name in categories]
        return {"blocklistsMatch": matches, "categoriesAnalysis": analysis}

    def _managed(self, method: str, rest: list[str], body: dict[str, Any]) -> Response:
        """Manage blocklists: made and filled by the service's own client."""
        name, _, action = (rest[0] if rest else "").partition(":")
        if method == "PATCH" and len(rest) == 1:
            is_new = name not in self.blocklists
            self.blocklists.setdefault(name, {})
            return JSONResponse({"blocklistName": name, "description": body.get("description")}, 201 if is_new else 200)
        if rest and name not in self.blocklists:
            raise Failure(404, "ResourceNotFound", "The blocklist does not exist.")
        match method, rest, action:
            case "GET", [], "":
                return JSONResponse({"value": [{"blocklistName": each} for each in sorted(self.blocklists)]})
            case "GET", [_], "":
                return JSONResponse({"blocklistName": name})
            case "DELETE", [_], "":
                del self.blocklists[name]
                return Response(status_code=204)
            case "GET", [_, "blocklistItems"], "":
                items = [{"blocklistItemId": item, "text": term} for item, term in self.blocklists[name].items()]
                return JSONResponse({"value": items})
            case "POST", [_], "addOrUpdateBlocklistItems":
                added = {secrets.token_hex(8): item["text"] for item in body["blocklistItems"]}
                self.blocklists[name] |= added
                items = [{"blocklistItemId": item, "text": term} for item, term in added.items()]
                return JSONResponse({"blocklistItems": items})
            case "POST", [_], "removeBlocklistItems":
                for item in body["blocklistItemIds"]:
                    self.blocklists[name].pop(item, None)
                return Response(status_code=204)
        raise Failure(404, "NotFound", "No such operation.")


# --- what is in a text -----------------------------------------------------------------------------------------------


def _check_version(operation: str, version: str | None) -> None:
    if version not in VERSIONS.get(operation, {STABLE, PREVIEW, "2023-10-01"}):
        raise Failure(400, "InvalidApiVersion", "The api-version is not supported.")


def _check_text(text: Any, least: int, most: int) -> str:
    if not isinstance(text, str) or any(0xD800 <= ord(char) < 0xE000 for char in text):
        raise Failure(400, "InvalidRequestBody", "The text is not valid.")
    if not least <= len(text) <= most:
        raise Failure(400, "InvalidRequestBody", f"The text has {len(text)} characters.")
    return text


def _shielded(body: dict[str, Any]) -> dict[str, Any]:
    documents = body.get("documents") or []
    if len(documents) > 5 or sum(map(len, documents)) > 10_000:
        raise Failure(400, "InvalidRequestBody", "Too many documents.")
    answer: dict[str, Any] = {
        "documentsAnalysis": [{"attackDetected": "[attack]" in _check_text(each, 1, 10_000)} for each in documents]
    }
    if "userPrompt" in body:
        answer["userPromptAnalysis"] = {"attackDetected": "[attack]" in _check_text(body["userPrompt"], 1, 10_000)}
    return answer


def _code(body: dict[str, Any]) -> dict[str, Any]:
    found = re.search(r"\[code (\w+)\]", _check_text(body.get("code"), 1, 10_000))
    citations = (
        [{"license": found[1], "sourceUrls": ["https://github.com/contoso/hello", "https://github.com/other"]}]
        if found
        else []
    )
    return {"detected": bool(found), "codeCitations": citations}


def _grounded(body: dict[str, Any]) -> dict[str, Any]:
    text = _check_text(body.get("text"), 1, 7_500)
    if not body.get("groundingSources") or sum(map(len, body["groundingSources"])) > 55_000:
        raise Failure(400, "InvalidRequestBody", "The grounding sources are missing or too long.")
    if body.get("task") == "QnA":
        _check_text(body["qna"]["query"], 1, 7_500)
    details = [
        {"text": match[0], "offset": _place(text[: match.start()]), "length": _place(match[0])}
        for match in re.finditer(r"\[made up\][^.]*\.", text)
    ]
    share = sum(len(each["text"]) for each in details) / len(text)
    return {"ungroundedDetected": bool(details), "ungroundedPercentage": share, "ungroundedDetails": details}


def _place(text: str) -> dict[str, int]:
    return {"utf8": len(text.encode()), "utf16": len(text.encode("utf-16-le")) // 2, "codePoint": len(text)}


# --- running ---------------------------------------------------------------------------------------------------------


@contextmanager
def running() -> Iterator[StandIn]:
    """Run a stand-in in a thread: the service over TLS, and the identity endpoint beside it."""
    stand_in = StandIn()
    with tempfile.TemporaryDirectory() as folder, _listening() as tls, _listening() as plain:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(Path(folder) / "authority.pem")
        certificate = Path(folder) / "server.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        stand_in.endpoint = f"https://127.0.0.1:{tls.getsockname()[1]}"
        stand_in.environment = {
            "SSL_CERT_FILE": str(Path(folder) / "authority.pem"),
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{plain.getsockname()[1]}/msi/token",
            "IDENTITY_HEADER": secrets.token_hex(16),
        }
        methods = ["DELETE", "GET", "PATCH", "POST"]
        service = Starlette(routes=[Route("/contentsafety/{operation:path}", stand_in.serve, methods=methods)])
        identity = Starlette(routes=[Route("/msi/token", stand_in.identity)])
        quiet: dict[str, Any] = {"lifespan": "off", "ws": "none", "log_config": None, "access_log": False}
        servers = [
            (uvicorn.Server(uvicorn.Config(service, ssl_certfile=certificate, **quiet)), tls),
            (uvicorn.Server(uvicorn.Config(identity, **quiet)), plain),
        ]
        threads = [
            threading.Thread(target=lambda server=server, sock=sock: asyncio.run(server.serve([sock])))
            for server, sock in servers
        ]
        for thread in threads:
            thread.start()
        try:
            yield stand_in
        finally:
            stand_in.reset()
            for server, _ in servers:
                server.should_exit = True
            for thread in threads:
                thread.join()


@contextmanager
def _listening() -> Iterator[socket.socket]:
    # With the protocol left out, asyncio would not set TCP_NODELAY, and every call would take 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener
