"""A stand-in for Azure Key Vault over HTTPS, for tests with the real clients; and what points them at it.

The URL of a vault is the one that a deployment has, ``https://NAME.vault.azure.net``, and nothing in the code under test
knows about tests: ``environment`` holds what a process on Azure behind a proxy would have::

    HTTPS_PROXY                        leads to the stand-in, and nowhere else
    SSL_CERT_FILE                      the stand-in's own certificate authority
    IDENTITY_ENDPOINT, IDENTITY_HEADER a managed identity, as App Service and Functions give it to an app

In a test::

    with running() as key_vault:
        vault = key_vault.vault("contoso")
        vault.purge_protection = True

Or beside a whole server: ``python -m tests.key_vault.server`` prints the environment and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import trustme
import uvicorn
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sluicegate.types import utc_now
from tests.key_vault.network import Gateway
from tests.key_vault.vault import Failure, Vault

DOMAIN = "vault.azure.net"
LONGEST_WAIT_S = 60
CASES = {"wrapkey": "wrapKey", "unwrapkey": "unwrapKey"}
TENANT = "00000000-0000-0000-0000-000000000000"


@dataclass
class Fault:
    """Something that happens to the next calls of one operation, or of any.

    Attributes:
        before: Answer this instead of working.
        lost: Work, but break the connection instead of answering.
        held: Wait for ``release`` before working.
    """

    operation: str | None
    times: int
    before: Failure | None = None
    lost: bool = False
    held: bool = False
    arrived: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    async def arrival(self) -> None:
        """Return when a call waits."""
        if not await asyncio.to_thread(self.arrived.wait, LONGEST_WAIT_S):
            raise AssertionError(f"nobody called {self.operation or 'anything'}")

    def release(self) -> None:
        """Let the calls that wait go on."""
        self.released.set()

    def refuse(self, status: int, code: str) -> None:
        """Answer the calls that wait with a failure."""
        self.before = Failure(status, code)
        self.release()


class StandIn:
    """Any number of vaults behind one certificate authority, one proxy and one identity.

    Attributes:
        clock: Returns the present, aware.
        environment: What leads a process here.
        gateway: The proxy and the identity endpoint.
        requests: How many requests arrived, those without a token included.
        resource: What the vaults want tokens for.
    """

    def __init__(self, clock: Callable[[], datetime], rsa_key: Callable[[int], rsa.RSAPrivateKey], port: int) -> None:
        self.clock = self._first_clock = clock
        self.environment: dict[str, str] = {}
        self.gateway = Gateway(self._knows, port)
        self.requests = 0
        self.resource = f"https://{DOMAIN}"
        self._rsa_key = rsa_key
        self._vaults: dict[str, Vault] = {}
        self._faults: list[Fault] = []
        self._held: list[Fault] = []
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def vault(self, name: str) -> Vault:
        """Return a vault, making an empty one when there is none of that name."""
        host = f"{name}.{DOMAIN}"
        if host not in self._vaults:
            self._vaults[host] = Vault(host, lambda: self.clock().timestamp(), self._rsa_key)
        return self._vaults[host]

    def fail(self, status: int, *, operation: str | None = None, times: int = 1, **headers: str) -> None:
        """Answer the next calls with a status and no effect; header names with ``_`` for ``-``."""
        code = {404: "NotFound", 429: "Throttled", 503: "ServiceUnavailable"}.get(status, "InternalServerError")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._faults.append(Fault(operation, times, before=Failure(status, code, "The service failed.", **named)))

    def lose(self, operation: str, *, times: int = 1) -> None:
        """Do what the next calls ask for, and lose the answers."""
        self._faults.append(Fault(operation, times, lost=True))

    def hold(self, operation: str | None = None, *, times: int = 1) -> Fault:
        """Keep the next calls waiting until the returned fault is released."""
        fault = Fault(operation, times, held=True)
        self._faults.append(fault)
        self._held.append(fault)
        return fault

    def mend(self) -> None:
        """Let no fault happen any more, and nobody wait."""
        self._faults.clear()
        for fault in self._held:
            fault.release()
        self._held.clear()

    def reset(self) -> None:
        """Forget all vaults, and every change to this object."""
        self.mend()
        self._vaults.clear()
        self.gateway.asked.clear()
        self.gateway.open = True
        self.clock, self.resource = self._first_clock, f"https://{DOMAIN}"

    def disconnect(self) -> None:
        """Be unreachable, for those who are connected too."""
        self.gateway.open = False
        self._loop.call_soon_threadsafe(self.gateway.cut)

    def reconnect(self) -> None:
        """Be reachable again."""
        self.gateway.open = True

    async def idle(self) -> None:
        """Return when no client is connected any more.

        Await it after closing clients: what they broke off takes the event loop a moment to close.
        """
        done = asyncio.run_coroutine_threadsafe(self.gateway.idle(), self._loop)
        await asyncio.wait_for(asyncio.wrap_future(done), LONGEST_WAIT_S)

    async def run(self, tls: socket.socket, plain: socket.socket, certificate: Path, started: threading.Event) -> None:
        """Serve until ``stop``."""
        self._loop = asyncio.get_running_loop()
        methods = ["DELETE", "GET", "PATCH", "POST"]
        app = Starlette(routes=[Route("/{path:path}", self._serve, methods=methods)])
        config = uvicorn.Config(
            app, ssl_certfile=certificate, lifespan="off", ws="none", log_config=None, access_log=False
        )
        vaults = uvicorn.Server(config)
        serving = asyncio.create_task(vaults.serve([tls]))
        gateway = await asyncio.start_server(self.gateway.serve, sock=plain)
        started.set()
        await self._stop.wait()
        gateway.close()
        await self.gateway.close()
        await gateway.wait_closed()
        vaults.should_exit = True
        await serving

    def stop(self) -> None:
        """End ``run``."""
        self.reset()
        self._loop.call_soon_threadsafe(self._stop.set)

    def _knows(self, host: str) -> bool:
        return host in self._vaults

    async def _serve(self, request: Request) -> Response:
        self.requests += 1
        try:
            self._authorize(request)
            vault = self._vaults[request.headers["host"].removesuffix(":443")]
            body = json.loads(await request.body() or b"{}")
            operation, name, version = _route(request.method, request.url.path)
            vault.calls.append((operation, name))
            fault = self._fault(operation)
            if fault is not None and fault.held:
                fault.arrived.set()
                await asyncio.to_thread(fault.released.wait)
            if fault is not None and fault.before is not None:
                raise fault.before
            result = await asyncio.to_thread(vault.answer, operation, name, version, body, request.query_params)
            if fault is not None and fault.lost:
                self.gateway.cut(request.client.port)
        except Failure as failure:
            return JSONResponse(failure.body, failure.status, failure.headers)
        return Response(status_code=204) if result is None else JSONResponse(result)

    def _authorize(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self.gateway.token}":
            challenge = f'Bearer authorization="https://login.windows.net/{TENANT}", resource="{self.resource}"'
            message = "Request is missing a Bearer or PoP token."
            raise Failure(401, "Unauthorized", message, **{"WWW-Authenticate": challenge})
        if "api-version" not in request.query_params:
            raise Failure(400, "BadParameter", "api-version must be specified")

    def _fault(self, operation: str) -> Fault | None:
        for fault in self._faults:
            if fault.operation in (None, operation):
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
                return fault
        return None


@contextmanager
def running(clock: Callable[[], datetime] = utc_now, *, rsa_keys: int = 0) -> Iterator[StandIn]:
    """Run a stand-in in a thread.

    Args:
        rsa_keys: Take turns with so many RSA keys of each size, because making one takes a while; 0 for new ones always.
            Two keys made one after the other are different ones if it is not 1.
    """
    with tempfile.TemporaryDirectory() as folder, _listening() as tls, _listening() as plain:
        stand_in = StandIn(clock, _rsa_keys(rsa_keys), tls.getsockname()[1])
        stand_in.environment = {
            "HTTPS_PROXY": f"http://127.0.0.1:{plain.getsockname()[1]}",
            "SSL_CERT_FILE": str(Path(folder) / "authority.pem"),
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{plain.getsockname()[1]}/msi/token",
            "IDENTITY_HEADER": stand_in.gateway.identity_header,
        }
        certificate = _certificate(Path(stand_in.environment["SSL_CERT_FILE"]))
        started = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(stand_in.run(tls, plain, certificate, started)))
        thread.start()
        try:
            started.wait()
            yield stand_in
        finally:
            stand_in.stop()
            thread.join()


@contextmanager
def _listening() -> Iterator[socket.socket]:
    # With the protocol left out, asyncio would not set TCP_NODELAY, and every call would take 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def _certificate(authority_file: Path) -> Path:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(authority_file)
    file = authority_file.with_name("vaults.pem")
    authority.issue_cert(f"*.{DOMAIN}").private_key_and_cert_chain_pem.write_to_path(file)
    return file


def _rsa_keys(number: int) -> Callable[[int], rsa.RSAPrivateKey]:
    made: dict[int, list[rsa.RSAPrivateKey]] = {}
    turns = itertools.count()
    lock = threading.Lock()

    def take(bits: int) -> rsa.RSAPrivateKey:
        if bits not in (2048, 3072, 4096):
            raise Failure(400, "BadParameter", f"Invalid key size {bits}")
        with lock:
            keys = made.setdefault(bits, [])
            if number and len(keys) == number:
                return keys[next(turns) % number]
            keys.append(rsa.generate_private_key(65537, bits))
            return keys[-1]

    return take


def _route(method: str, path: str) -> tuple[str, str, str]:
    """Return operation, key and version of a request."""
    match method, path.strip("/").split("/"):
        case "GET", ["keys"]:
            return "list", "", ""
        case "GET", ["keys", name, "versions"]:
            return "versions", name, ""
        case "GET", ["keys", name, *version]:
            return "get", name, "".join(version)
        case "POST", ["keys", name, ("create" | "rotate" | "backup") as operation]:
            return operation, name, ""
        case "POST", ["keys", name, version, operation]:
            return CASES.get(operation, operation), name, version
        case "PATCH", ["keys", name, *version]:
            return "update", name, "".join(version)
        case "DELETE", ["keys", name]:
            return "delete", name, ""
        case "GET", ["deletedkeys"]:
            return "list deleted", "", ""
        case "GET", ["deletedkeys", name]:
            return "get deleted", name, ""
        case "DELETE", ["deletedkeys", name]:
            return "purge", name, ""
        case "POST", ["deletedkeys", name, "recover"]:
            return "recover", name, ""
    raise Failure(404, "NotFound", "No such operation")


def main() -> None:
    """Print the environment that leads to an empty vault, and serve it until a signal comes."""
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with running() as stand_in:
        vault = stand_in.vault("standin")
        for name, value in {"SLUICEGATE_KEYS": f"https://{vault.host}", **stand_in.environment}.items():
            sys.stdout.write(f"{name}={value}\n")
        sys.stdout.flush()
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
