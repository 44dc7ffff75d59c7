"""The embedded host answers as the official worker does, probe by probe."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

SAMPLE_APP = Path(__file__).parent / "sample_app"
GUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
COMPARED_HEADERS = (
    "content-type",
    "content-length",
    "content-range",
    "content-security-policy",
    "etag",
    "location",
    "retry-after",
    "x-a",
)

PROBES = [
    ("GET", "/api/dict"),
    ("POST", "/api/dict"),
    ("HEAD", "/api/dict"),
    ("OPTIONS", "/api/dict"),
    ("GET", "/api/dict/"),
    ("GET", "/API/Dict"),
    ("GET", "/api//dict"),
    ("GET", "/dict"),
    ("GET", "/api/model"),
    ("GET", "/api/list"),
    ("GET", "/api/string"),
    ("GET", "/api/number"),
    ("GET", "/api/nothing"),
    ("GET", "/api/empty"),
    ("DELETE", "/api/empty"),
    ("GET", "/api/error-json"),
    ("GET", "/api/http-exception"),
    ("GET", "/api/boom"),
    ("POST", "/api/boom"),
    ("GET", "/api/boom-sync"),
    ("GET", "/api/echo/x"),
    ("POST", "/api/echo/x"),
    ("PUT", "/api/echo/x/5"),
    ("PATCH", "/api/echo/x/5"),
    ("TRACE", "/api/echo/x"),
    ("PROPFIND", "/api/echo/x"),
    ("GET", "/api/echo/x/y"),
    ("GET", "/api/echo/x/5/6"),
    ("GET", "/api/echo/CaSe/-7"),
    ("GET", "/api/echo/a%2Fb"),
    ("GET", "/api/echo/a%2fb/1"),
    ("GET", "/api/echo/a%20b?q=1&q=2&empty=&plus=a+b"),
    ("GET", "/api/echo/%E2%82%AC?%E2%82%AC=%C3%A4"),
    ("GET", "/api/echo/a%3Fb%23c"),
    ("GET", "/api/sync/you"),
    ("GET", "/api/items/list"),
    ("GET", "/api/items/7"),
    ("GET", "/api/shadow/exact"),
    ("GET", "/api/rest"),
    ("GET", "/api/rest/a/b%2Fc/"),
    ("GET", f"/api/v1.22/{GUID}"),
    ("GET", "/api/v1.22/not-a-guid"),
    ("GET", f"/api/v1.x/{GUID}"),
    ("GET", "/api/unnamed_route"),
    ("GET", "/api/cookies"),
    ("GET", "/api/file"),
    ("HEAD", "/api/file"),
    ("GET", "/api/html"),
    ("GET", "/api/redirect"),
    ("OPTIONS", "/api/options"),
    ("PUT", "/api/options"),
    ("GET", "/api/options"),
    ("GET", "/api/invocation"),
    ("GET", "/api/context-variable"),
    ("GET", "/api/stream-sync"),
    ("GET", "/api/stream-breaks"),
    ("GET", "/api/download/1"),
    ("POST", "/api/unread-body"),
    ("GET", "/"),
    ("GET", "/api"),
    ("GET", "/docs"),
    ("GET", "/api/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/api/nowhere"),
    ("GET", "/admin/functions/tick"),
    ("POST", "/admin/functions/nowhere"),
    ("POST", "/admin/functions/dict"),
]


def answer(url: str, method: str, path: str) -> dict[str, object]:
    headers = [("cookie", "s=1"), ("x-repeated", "1"), ("x-repeated", "2")]
    if path.endswith("/file"):
        headers.append(("range", "bytes=2-9"))
    content = b'{"k": 1}' if method in ("POST", "PUT", "PATCH") else None
    body = b""
    broken = False
    with httpx.stream(method, url + path, headers=headers, content=content, timeout=60) as response:
        try:
            for piece in response.iter_raw():
                body += piece
        except httpx.RemoteProtocolError:
            broken = True
    compared = {name: response.headers.get(name) for name in COMPARED_HEADERS}
    return {
        "status": response.status_code,
        "body": body,
        "broken": broken,
        "cookies": response.headers.get_list("set-cookie"),
        **compared,
    }


@pytest.mark.parametrize(("method", "path"), PROBES)
def test_an_answer_is_the_workers(worker, embedded, method, path):
    env = {"TICK_SCHEDULE": "0 0 0 1 1 *"}

    expected = answer(worker(SAMPLE_APP, env), method, path)

    assert answer(embedded(SAMPLE_APP, env), method, path) == expected
