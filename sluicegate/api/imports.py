"""Import a file from a URL: from hosts that the operator has named, and from nowhere else.

Whoever may have a server fetch what they like may have it read what only the server can. So the hosts are a list in the
deployment file, empty unless somebody fills it; redirects are not followed; and what goes wrong is told without the URL, which
may carry a signature.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Collection
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import StringConstraints
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sluicegate.api import body
from sluicegate.api.data_plane import MAX_BODY_BYTES, Incoming, read_body
from sluicegate.api.files import MAX_FILE_BYTES, as_json, check_details, file_fields, served
from sluicegate.app import Sluicegate
from sluicegate.errors import InvalidRequest, PayloadTooLarge
from sluicegate.regions import Region
from sluicegate.requests import Part
from sluicegate.storage.uploaded_files import Details

CONNECT_S, READ_S, TOTAL_S = 10, 60, 180
"""Longest wait for a connection, for the next piece, and for all of it: Azure gives up on an answer after 230 seconds."""
_LOOPBACK = ("127.0.0.1", "localhost")


class ImportBody(Part):
    """What is imported."""

    filename: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    purpose: str
    content_url: Annotated[str, StringConstraints(min_length=1, max_length=8192)]


async def create(gate: Sluicegate, http: HttpRequest) -> Response:
    """Import a file; it is there when this answers."""

    async def work(incoming: Incoming, account: str, region: Region) -> Response:
        await gate.admission.check_access(account)
        await region.data_keys.check(account)
        asked = body.parse(ImportBody, await read_body(http, MAX_BODY_BYTES))
        check_details(asked.filename, asked.purpose, incoming.version.surface)
        _check(asked.content_url, gate.deployment.import_hosts)
        file = await region.files.examine(account, await region.files.create(account, _Import(asked)))
        path = http.url.path.rstrip("/").removesuffix("/import")
        return as_json(file_fields(file), 201, {"location": f"{path}/{file.id}?api-version={incoming.version.name}"})

    return await served(gate, http, "files.import", work)


def _check(url: str, hosts: Collection[str]) -> None:
    """Refuse a URL of a host that the operator has not named; ``host:port`` where the port is not the usual one."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "") if parts.port in (None, 443) else f"{parts.hostname}:{parts.port}"
        is_secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        is_known = is_secure and "@" not in parts.netloc and host in {each.lower() for each in hosts}
    except ValueError:
        is_known = False
    if not is_known:
        raise InvalidRequest(
            "Files are imported by https from the hosts that this deployment's operator has named ('import_hosts'), and this is none.",
            code="invalid_value",
            param="content_url",
        )


class _Import:
    """A file on its way in from a URL."""

    def __init__(self, asked: ImportBody) -> None:
        self._asked = asked

    async def content(self) -> AsyncIterator[bytes]:
        # Slow to import, and few requests need it.
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=TOTAL_S, connect=CONNECT_S, sock_read=READ_S)
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
        size = 0
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
                session.get(self._asked.content_url, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise _failed(f"answered {response.status}")
                async for piece in response.content.iter_any():
                    size += len(piece)
                    if size > MAX_FILE_BYTES:
                        raise PayloadTooLarge(f"The file exceeds {MAX_FILE_BYTES >> 20} MiB.")
                    yield piece
        except TimeoutError:
            raise _failed(f"takes too long: more than {TOTAL_S} s, or {READ_S} s for a piece of it") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failed(f"cannot be read ({type(error).__name__})") from None

    def details(self) -> Details:
        return Details(self._asked.filename, self._asked.purpose, None)


def _failed(why: str) -> InvalidRequest:
    return InvalidRequest(f"The URL in 'content_url' {why}.", code="fileImportFailed", param="content_url")
