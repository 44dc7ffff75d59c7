"""Who counts as a caller on this machine."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host")


def is_loopback(host: str) -> bool:
    """Tell whether binding to ``host`` keeps the server reachable from this machine only.

    Args:
        host: An IP address, brackets allowed, or a name. No name but ``localhost`` is trusted to stay on this machine,
            and nothing is resolved.
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def is_local_request(scope: Scope) -> bool:
    """Tell whether a request was made on this machine, and not by a web page of somebody else's.

    The peer must be on this machine, without a proxy that says otherwise; ``Host`` must name this machine, or a foreign
    name may have been rebound to it; ``Origin``, which browsers add, must be the very origin that is called.
    """
    headers = Headers(scope=scope)
    own_address = scope["server"][0] if scope.get("server") else ""
    peer = scope["client"][0] if scope.get("client") else ""
    if any(name in headers for name in _FORWARDED) or not _is_here(peer, own_address):
        return False
    called = headers.get("host", "")
    if not _is_here(_host_name(called), own_address):
        return False
    origin = headers.get("origin")
    return origin is None or origin.lower() == f"{scope.get('scheme', 'http')}://{called}".lower()


def _is_here(host: str, own_address: str) -> bool:
    return is_loopback(host) or (host == own_address and _is_address(host))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _host_name(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""
