"""Everything that is retained of an account or of one of its end users, decrypted, as JSON lines."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator

from sluicegate.storage.vault import Vault
from sluicegate.store import Record

_CHUNK_BYTES = 256 << 10


async def export(vault: Vault, account: str, *, user: str | None = None) -> AsyncIterator[bytes]:
    """Yield whole lines, a record each, about 256 KiB of them at a time.

    ``{"day": "YYYYMMDD", "id": ..., "plugin": ..., "record": ...}``, where ``record`` is what the plugin kept; if that is not
    JSON, ``record_base64`` takes its place. Plugin by plugin, oldest day first. At most twice what is read at once (4 MiB, or
    one larger record) are in memory, whatever there is. Deletions count as for ``Store.records``.

    Args:
        user: Keyed hash of an end user, for their records only.

    Raises:
        SealBroken: Something was changed, or is not where it was written; what was yielded before is sound.
    """
    lines: list[bytes] = []
    size = 0
    for plugin in await vault.plugins(account):
        async for record in vault.store(account, plugin).records(user=user):
            lines.append(_line(plugin, record))
            size += len(lines[-1])
            if size >= _CHUNK_BYTES:
                yield b"".join(lines)
                lines.clear()
                size = 0
    if lines:
        yield b"".join(lines)


def _line(plugin: str, record: Record) -> bytes:
    head = json.dumps({"day": record.day, "id": record.id, "plugin": plugin})[:-1].encode()
    return b"%b, %b}\n" % (head, _content(record.data))


def _content(data: bytes) -> bytes:
    try:
        json.loads(data.decode(), parse_constant=_no_json)
        if b"\n" not in data and b"\r" not in data:
            return b'"record": %b' % data
    except (ValueError, RecursionError):
        pass
    return b'"record_base64": "%b"' % base64.b64encode(data)


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
