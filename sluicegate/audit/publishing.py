"""Publication of the audit log: once a day a signed checkpoint goes to places that hold the log to it.

Whoever can write to the app's storage can cut off the end of the log, or rewrite it, and nobody who looks at that storage
alone would know. So each day's checkpoint is logged, kept beside the log, and sent to every sink that the deployment file
names under ``checkpoints``; before that, the log is held to what the storage and the sinks have from earlier days. The
log gets an entry for each publication, so that it grows every day.

A sink is the URL of a blob store, such as ``folder:PATH`` or ``https://ACCOUNT.blob.core.windows.net``: a checkpoint is then
the blob ``{origin}/{YYYYMMDD}`` in the container ``checkpoints``, made once and never written again, so that the container
may be immutable. Or it is ``webhook:`` and a URL that takes ``{"day", "checkpoint", "public_key"}`` by POST.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from sluicegate.audit.checkpoints import Checkpoint, read_checkpoint
from sluicegate.audit.entries import Event, LogBroken, canonical
from sluicegate.audit.log import PUBLISHED, Audit
from sluicegate.audit.merkle import is_consistent
from sluicegate.errors import BlobExists, BlobNotFound, SealBroken, SluicegateError, StartupError
from sluicegate.retention.removals import TIMER
from sluicegate.services import BlobStore, check_names

CONTAINER = "checkpoints"
SENT = "checkpoints-sent"
"""Where it is noted which sink got the checkpoint of which day last."""
WEBHOOK = "webhook:"
SINK_S = 30


class Sink(Protocol):
    """A place that holds the log to what it was."""

    async def send(self, day: str, checkpoint: Checkpoint, public_key: Mapping[str, str]) -> None:
        """Publish the checkpoint of a day (``YYYYMMDD``); again, it changes nothing."""
        ...

    async def newest(self) -> Checkpoint | None:
        """Return the last one that was sent, or None where that cannot be read back."""
        ...

    async def close(self) -> None: ...


class NotPublished(SluicegateError):
    """The operator sees it: a sink did not take the checkpoint; the next run tries again."""


class StoreSink:
    """Keeps checkpoints in a blob store, which should be out of reach of whoever can write to the app's own.

    Raises:
        StartupError: The log's origin cannot be part of a blob's name.
    """

    def __init__(self, blobs: BlobStore, origin: str) -> None:
        try:
            check_names(CONTAINER, f"{origin}/20260101")
        except ValueError:
            raise StartupError(f"region: {origin!r} cannot name checkpoints; use letters, digits and hyphens") from None
        self._blobs = blobs
        self._prefix = f"{origin}/"

    async def send(self, day: str, checkpoint: Checkpoint, public_key: Mapping[str, str]) -> None:
        document = {"checkpoint": checkpoint.document, "public_key": dict(public_key)}
        with suppress(BlobExists):
            await self._blobs.put(CONTAINER, self._prefix + day, canonical(document), create=True)

    async def newest(self) -> Checkpoint | None:
        names = [blob.name async for blob in self._blobs.list(CONTAINER, self._prefix)]
        if not names:
            return None
        data = (await self._blobs.get(CONTAINER, names[-1])).data
        try:
            return read_checkpoint(json.loads(data)["checkpoint"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise SealBroken(f"{CONTAINER}/{names[-1]} of the sink cannot be read") from None

    async def close(self) -> None:
        await self._blobs.close()


class Webhook:
    """Posts checkpoints to a URL, by HTTPS, or by HTTP on this machine.

    Raises:
        StartupError: The URL is of another kind.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
            raise StartupError("checkpoints: a webhook's URL begins with https://")
        self._url = url

    async def send(self, day: str, checkpoint: Checkpoint, public_key: Mapping[str, str]) -> None:
        # Slow to import, and few deployments need it.
        import aiohttp

        document = {"day": day, "checkpoint": checkpoint.document, "public_key": dict(public_key)}
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
        try:
            async with (
                aiohttp.ClientSession(connector=connector, trust_env=True) as session,
                session.post(self._url, json=document, allow_redirects=False) as response,
            ):
                if not 200 <= response.status < 300:
                    raise NotPublished(f"it answered {response.status}")
        except (aiohttp.ClientError, OSError) as error:
            raise NotPublished(f"it cannot be reached ({type(error).__name__})") from None

    async def newest(self) -> Checkpoint | None:
        return None

    async def close(self) -> None:
        """Keep nothing open between two days."""


class Publisher:
    """Publishes the log's checkpoints; one object per process.

    Args:
        blobs: The app's own storage.
        sinks: In the order of the deployment file.
        clock: Returns the present, aware.
    """

    def __init__(self, audit: Audit, blobs: BlobStore, sinks: tuple[Sink, ...], clock: Callable[[], datetime]) -> None:
        self._audit = audit
        self._blobs = blobs
        self._sinks = sinks
        self._clock = clock
        self._is_broken = False

    async def look(self) -> list[str]:
        """Look whether the log's end is still there, before anything is added to it; return what failed, a line each."""
        try:
            async for _ in self._audit.newest():
                break
            # Signed for now, so that it is missed if it goes.
            await self._audit.checkpoint()
        except SluicegateError as error:
            return [f"looking at the audit log: {error}"]
        return []

    async def publish(self) -> list[str]:
        """Publish the day's checkpoint wherever that has not been done yet, and return what failed, a line each.

        A log that is not what was published before is published nowhere.
        """
        day = self._clock().astimezone(UTC).strftime("%Y%m%d")
        failures: list[str] = []
        self._is_broken = False

        async def attempt(number: int, step: Awaitable[bool]) -> bool:
            # Not by its URL, which may hold a secret.
            name = f"checkpoints[{number - 1}]" if number else "the app's own storage"
            try:
                async with asyncio.timeout(SINK_S):
                    return await step
            except SluicegateError as error:
                failures.append(f"the audit log's checkpoint, {name}: {error}")
            except Exception as error:  # noqa: BLE001 - whatever a sink does, the others get theirs
                failures.append(f"the audit log's checkpoint, {name}: {type(error).__name__}")
            return False

        sinks = dict(enumerate((None, *self._sinks)))
        # All of them before anything is added to the log.
        held = [number for number, sink in sinks.items() if await attempt(number, self._hold_to(day, number, sink))]
        if not self._is_broken:
            for number in held:
                await attempt(number, self._publish(day, number, sinks[number]))
        return failures

    async def close(self) -> None:
        """Release the sinks."""
        for sink in self._sinks:
            await sink.close()

    async def _hold_to(self, day: str, number: int, sink: Sink | None) -> bool:
        """Hold the log to what a sink has; False when it has the day's checkpoint already."""
        with suppress(BlobNotFound):
            if (await self._blobs.get(SENT, str(number))).data == day.encode():
                return False
        earlier = await self._published() if sink is None else await sink.newest()
        if earlier is not None:
            try:
                await self._compare(earlier)
            except SealBroken:
                self._is_broken = True
                raise
        return True

    async def _publish(self, day: str, number: int, sink: Sink | None) -> bool:
        """Publish to one sink, or, for None, in the app's own log and storage."""
        checkpoint = await self._audit.publish() if sink is None else await self._audit.checkpoint()
        if sink is not None:
            await sink.send(day, checkpoint, await self._audit.key.public(checkpoint.key_id))
        evidence = {"size": checkpoint.size, "root": checkpoint.root.hex(), "sink": number}
        await self._audit.append(Event(TIMER, "checkpoint.publish", subject=day, evidence=evidence))
        await self._blobs.put(SENT, str(number), day.encode())
        return True

    async def _published(self) -> Checkpoint | None:
        """Return the newest checkpoint that is kept beside the log."""
        names = [blob.name async for blob in self._blobs.list(PUBLISHED)]
        if not names:
            return None
        try:
            return read_checkpoint(json.loads((await self._blobs.get(PUBLISHED, names[-1])).data))
        except (ValueError, RecursionError):
            raise SealBroken(f"{PUBLISHED}/{names[-1]} cannot be read") from None

    async def _compare(self, earlier: Checkpoint) -> None:
        """Check that the log still begins with what an earlier checkpoint says.

        Raises:
            LogBroken: It does not.
            SealBroken: The checkpoint was forged.
        """
        await self._audit.key.check(earlier)
        now = await self._audit.checkpoint()
        if now.size < earlier.size:
            raise LogBroken(now.size, f"missing, though {earlier.size} entries were published")
        if earlier.size:
            path = await self._audit.consistency(earlier.size, now.size)
            if not is_consistent(earlier.size, earlier.root, now.size, now.root, path):
                raise LogBroken(0, f"the first {earlier.size} entries are not those that were published")
