"""``kill -9`` in the middle of an upload: nothing of it can be read, nothing is listed, nothing is on disk in plain text."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from tests.wire.serving import Server

MIB = 1 << 20
BOUNDARY = "7f3a"
MARK = b"plaintext-mark "
PIECE = MARK * (MIB // len(MARK))


def form(pieces):
    """Yield a form whose file is made of pieces."""
    yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'.encode()
    yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{MARK.decode()}.txt"\r\n\r\n'.encode()
    yield from pieces
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def post(server: Server, pieces) -> httpx.Response:
    headers = {
        "api-key": server.credentials["api_key"],
        "content-type": f"multipart/form-data; boundary={BOUNDARY}",
    }
    return httpx.post(f"{server.endpoint}/openai/v1/files", headers=headers, content=form(pieces), timeout=120)


def in_plain_text(*folders: Path) -> list[Path]:
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in paths if MARK in path.read_bytes() or MARK.decode() in str(path)]


def peak_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def test_an_upload_that_was_cut_by_a_kill_leaves_nothing_that_can_be_read(tmp_path):
    data, temporary = tmp_path / "data", tmp_path / "temporary"
    temporary.mkdir()

    with Server(data, "plain", TMPDIR=str(temporary)) as server:

        def pieces():
            for _ in range(64):
                yield PIECE
            # What was sent and is in no buffer any more has been sealed and written.
            os.kill(server.process.pid, signal.SIGKILL)
            for _ in range(64):
                yield PIECE

        with pytest.raises(httpx.TransportError):
            post(server, pieces())

    storage = data / "storage"
    assert [path for path in (storage / "file-segments").rglob("*") if path.is_file()]
    assert not [path for path in (storage / "file-heads").rglob("*") if path.is_file()]
    assert in_plain_text(data, temporary) == []
    with Server(data, "plain", TMPDIR=str(temporary)) as server:
        headers = {"api-key": server.credentials["api_key"]}
        assert httpx.get(f"{server.endpoint}/openai/v1/files", headers=headers).json()["data"] == []


def test_a_large_upload_and_its_download_take_little_memory_and_no_temporary_file(tmp_path):
    data, temporary = tmp_path / "data", tmp_path / "temporary"
    temporary.mkdir()
    with Server(data, "plain", TMPDIR=str(temporary)) as server:
        post(server, [PIECE])
        before = peak_bytes(server)

        file = post(server, (PIECE for _ in range(512))).json()
        headers = {"api-key": server.credentials["api_key"]}
        received = 0
        with httpx.stream("GET", f"{server.endpoint}/openai/v1/files/{file['id']}/content", headers=headers) as answer:
            for piece in answer.iter_raw():
                received += len(piece)

        assert received == file["bytes"] == 512 * len(PIECE)
        assert peak_bytes(server) - before < 128 * MIB
        assert in_plain_text(temporary) == []
