"""The operations of the data plane, from an HTTP request to a response: what the HTTP triggers hand over to."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TypeAlias, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sluicegate import __version__
from sluicegate.api import body, embeddings, errors, models, versions
from sluicegate.api.encoding import encode
from sluicegate.api.generation import Envelope, Resumed
from sluicegate.api.sse import EventStream
from sluicegate.app import Sluicegate
from sluicegate.call import Call
from sluicegate.errors import (
    ApiError,
    HeadersTooLarge,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PurgeIncomplete,
    SluicegateError,
)
from sluicegate.plugins import log_failure
from sluicegate.requests import ChatRequest, EmbeddingRequest, Request
from sluicegate.types import Principal
from sluicegate.worker_memory import forget_finished_requests

MAX_CHAT_BYTES = 32 << 20
"""Of a chat request, images in it included."""
MAX_BODY_BYTES = 8 << 20
"""Of any other JSON request."""
MAX_HEADER_BYTES = 64 << 10
"""Of all headers of a request together."""
_MAX_CLIENT_ID = 128

R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request whose caller is known and whose api-version is served."""

    id: str
    http: HttpRequest
    principal: Principal
    version: versions.Version

    async def parse(self, kind: type[R]) -> R:
        return body.parse(kind, await read_body(self.http, MAX_CHAT_BYTES if kind is ChatRequest else MAX_BODY_BYTES))

    async def call(self, gate: Sluicegate, request: Request) -> Call:
        """Return the call of the deployment that is asked for; filters see it next."""
        call = await gate.admission.call(self.principal, self._deployment(request), request, self.id)
        self.http.state.limits = call.standing.headers if call.standing is not None else {}
        self.http.state.is_filtered = bool(gate.deployment.pipeline.pre_filter or gate.deployment.pipeline.post_filter)
        return call

    def _deployment(self, request: Request) -> str:
        """Return the deployment: of the path on the classic surface, of the body's ``model`` on v1."""
        name = self.http.path_params.get("deployment") or request.model
        if not name:
            raise InvalidRequest(
                "Missing required parameter: 'model'.", code="missing_required_parameter", param="model"
            )
        return name


_Work: TypeAlias = Callable[[Incoming], Awaitable[Response]]


async def generate(gate: Sluicegate, http: HttpRequest, kind: type[Request], renderer: ModuleType) -> Response:
    """Serve chat completions or completions.

    Args:
        kind: ``ChatRequest`` or ``CompletionRequest``.
        renderer: :mod:`sluicegate.api.chat` or :mod:`sluicegate.api.completions`.
    """

    async def work(incoming: Incoming) -> Response:
        request = await incoming.parse(kind)
        call = await incoming.call(gate, request)
        chunks = gate.chunks(call)
        # The first chunk decides the status: what fails before it is an error response, not an error event.
        first = await anext(chunks)
        envelope = Envelope(
            id=f"{'chatcmpl' if kind is ChatRequest else 'cmpl'}-{call.id}",
            created=int(call.started.timestamp()),
            model=call.model_name,
            annotations=incoming.version.annotations,
        )
        answer = Resumed(first, chunks)
        if getattr(request, "stream", False):
            return EventStream(renderer.events(answer, call.request, envelope))
        return Response(await renderer.collect(answer, call.request, envelope), media_type="application/json")

    return await handled(gate, http, kind.operation, work)


async def embed(gate: Sluicegate, http: HttpRequest) -> Response:
    """Serve embeddings."""

    async def work(incoming: Incoming) -> Response:
        request = await incoming.parse(EmbeddingRequest)
        call = await incoming.call(gate, request)
        vectors = await gate.embeddings(call)
        return Response(embeddings.render(vectors, request, call.model_name), media_type="application/json")

    return await handled(gate, http, "embeddings", work)


async def list_models(gate: Sluicegate, http: HttpRequest) -> Response:
    """Serve the list of models."""

    async def work(incoming: Incoming) -> Response:
        account = await gate.accounts.get(incoming.principal.account)
        own = [] if account is None else await gate.models.tuned(account.name, account.location)
        return Response(models.render_list([*gate.models.registered(), *own]), media_type="application/json")

    return await handled(gate, http, "models.list", work)


async def get_model(gate: Sluicegate, http: HttpRequest) -> Response:
    """Serve one model by its id."""

    async def work(incoming: Incoming) -> Response:
        account = await gate.accounts.get(incoming.principal.account)
        name = http.path_params["model"]
        found = None if account is None else await gate.models.read(account.name, account.location, name)
        if found is None:
            raise NotFound("The requested model does not exist.", code="model_not_found", param="model")
        return Response(models.render(found), media_type="application/json")

    return await handled(gate, http, "models.read", work)


async def delete_model(gate: Sluicegate, http: HttpRequest) -> Response:
    """Delete a fine-tuned model or checkpoint that is not deployed; no key is needed for that."""

    async def work(incoming: Incoming) -> Response:
        account = await gate.accounts.get(incoming.principal.account)
        if account is None:
            raise NotFound("The account does not exist.")
        name, actor = http.path_params["model"], f"{account.name}/{incoming.principal.name}"
        deletions = gate.fine_tuning[(await gate.region(account.location)).name].model_deletions
        try:
            receipt = await deletions.delete(account.name, account.location, name, actor=actor)
        except PurgeIncomplete:
            raise ApiError(
                "The deletion is not complete. The purge timer goes on with the rest and issues the receipt.",
                code="DeletionIncomplete",
            ) from None
        deleted = {"id": name, "object": "model", "deleted": True, "receipt": receipt.id}
        return Response(encode(deleted), media_type="application/json")

    return await handled(gate, http, "models.delete", work)


async def unknown(gate: Sluicegate, http: HttpRequest) -> Response:
    """Answer what no operation serves, in Azure's form."""
    rendered = errors.render(NotFound("Resource not found"))
    headers = _headers(gate, http, uuid.uuid4().hex)
    return Response(rendered.body, rendered.status, headers=headers, media_type="application/json")


async def healthz(gate: Sluicegate) -> Response:
    """Tell that the process serves, and whether something needs the operator: always 200, without authentication."""
    reasons = await gate.health()
    return JSONResponse(
        {"status": "degraded" if reasons else "ok", "version": __version__, "reasons": reasons},
        headers={"cache-control": "no-store"},
    )


async def handled(gate: Sluicegate, http: HttpRequest, operation: str, work: _Work) -> Response:
    """Authenticate whoever calls and do the work.

    Args:
        operation: As :data:`sluicegate.roles.ROLES` has it.
    """

    async def for_caller(call_id: str) -> Response:
        principal = await gate.authenticate(http.headers, operation)
        surface: versions.Surface = "v1" if http.url.path.lower().startswith("/openai/v1/") else "classic"
        version = versions.check(surface, http.query_params.get("api-version"))
        return await work(Incoming(call_id, http, principal, version))

    return await answered(gate, http, for_caller)


async def answered(
    gate: Sluicegate,
    http: HttpRequest,
    work: Callable[[str], Awaitable[Response]],
    render: Callable[[Exception], errors.Rendered] = errors.render,
) -> Response:
    """Do the work and answer whatever it raises, with the headers every answer has.

    Args:
        work: Gets the id that the answer carries as ``x-request-id``.
        render: Gives errors their form on the wire.
    """
    call_id = uuid.uuid4().hex
    forget_finished_requests()
    try:
        _check_headers(http)
        await gate.start()
        response = await work(call_id)
    except Exception as error:  # noqa: BLE001 - the edge: every failure is an answer in the wire's form
        if not isinstance(error, SluicegateError):
            log_failure("core", "request", error)
        rendered = render(error)
        response = Response(rendered.body, rendered.status, headers=rendered.headers, media_type="application/json")
    response.headers.update(_headers(gate, http, call_id))
    return response


def _check_headers(http: HttpRequest) -> None:
    if sum(len(name) + len(value) for name, value in http.headers.raw) > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"The request's headers exceed {MAX_HEADER_BYTES >> 10} KiB: send fewer or shorter ones.")


def _headers(gate: Sluicegate, http: HttpRequest, call_id: str) -> dict[str, str]:
    client_id = http.headers.get("x-ms-client-request-id", "")
    headers = {
        "apim-request-id": call_id,
        "x-request-id": call_id,
        "x-ms-client-request-id": client_id if 0 < len(client_id) <= _MAX_CLIENT_ID else call_id,
        "x-ms-region": gate.deployment.region,
        "x-content-type-options": "nosniff",
    }
    if getattr(http.state, "is_filtered", False):
        headers["x-ms-rai-invoked"] = "true"
    return headers | getattr(http.state, "limits", {})


async def read_body(http: HttpRequest, max_bytes: int) -> bytes:
    """Return the body, at most ``max_bytes`` of it."""
    pieces: list[bytes] = []
    size = 0
    async for piece in http.stream():
        size += len(piece)
        if size > max_bytes:
            raise PayloadTooLarge(f"The request body exceeds {max_bytes >> 20} MiB.")
        pieces.append(piece)
    return b"".join(pieces)
