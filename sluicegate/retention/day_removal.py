"""The end of a day: of all accounts with its key, or of what one plugin kept of one account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sluicegate.errors import KeyUnavailable
from sluicegate.retention.removals import Evidence, Found, Kind
from sluicegate.services import BlobStore, KeyService
from sluicegate.storage.day_layout import (
    PENDING,
    Gone,
    Namespace,
    Tally,
    container,
    count,
    delete_all,
    key_name,
    keyring,
)

_ROUNDS = 3
"""What another process was still writing may arrive between deleting and looking."""


@dataclass(frozen=True, slots=True)
class WholeDay:
    """The removal of a day of all accounts: its key first, so that from then on no copy of it can be read.

    Attributes:
        forget: Drops what this process holds of the day in memory.
    """

    blobs: BlobStore
    keys: KeyService
    day: str
    forget: Callable[[], None]

    kind = Kind.PURGE_DAY
    account = None

    @property
    def subject(self) -> str:
        return self.day

    async def found(self) -> Found:
        tally = Tally()
        for where in self._containers():
            async for blob in self.blobs.list(where):
                tally.note(Gone(where, blob.name, blob.size))
        return tally.found()

    async def carry_out(self) -> Evidence:
        self.forget()
        name = key_name(self.day)
        try:
            is_absent = await self.keys.destroy(name) and name not in await self.keys.names(name)
        except KeyUnavailable:
            is_absent = False
        for where in self._containers():
            await self.blobs.drop(where)
        await delete_all(self.blobs, PENDING, f"{self.day}/")
        checked = {
            f"container {where}": (await self.blobs.containers(where)).count(where) for where in self._containers()
        }
        return Evidence({name: is_absent}, checked)

    def _containers(self) -> tuple[str, str]:
        """Wrapped keys come first, so that an interrupted removal leaves nothing readable even while its key lives."""
        return keyring(self.day), container(self.day)


@dataclass(frozen=True, slots=True)
class DayOfStore:
    """The removal of what one plugin kept of one account on a day; the day's key stays for the others.

    Attributes:
        forget: Drops what this process holds of it in memory.
    """

    blobs: BlobStore
    names: Namespace
    day: str
    forget: Callable[[], None]

    kind = Kind.PURGE_ACCOUNT_DAY

    @property
    def account(self) -> str:
        return self.names.account

    @property
    def subject(self) -> str:
        return f"{self.day}/{self.names.plugin}"

    async def found(self) -> Found:
        tally = Tally()
        for where, prefix in self._places():
            async for blob in self.blobs.list(where, prefix):
                tally.note(Gone(where, blob.name, blob.size))
        return tally.found()

    async def carry_out(self) -> Evidence:
        self.forget()
        checked: dict[str, int] = {}
        for _ in range(_ROUNDS):
            for where, prefix in self._places():
                # What deletions hide goes before they do.
                await delete_all(self.blobs, where, prefix, last=self.names.deletions)
            checked = {f"{where} {prefix}": await count(self.blobs, where, prefix) for where, prefix in self._places()}
            if not any(checked.values()):
                break
        return Evidence({}, checked)

    def _places(self) -> tuple[tuple[str, str], ...]:
        """Wrapped keys come first, so that an interrupted removal leaves nothing readable behind what it reached."""
        return (keyring(self.day), self.names.prefix), (container(self.day), self.names.prefix)
