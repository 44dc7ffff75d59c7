"""Encrypted storage: one namespace per account and plugin, every blob with an end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from sluicegate.types import Expired, Purged

CEILING_DAYS = 30
"""Nothing is kept longer, whatever the settings say."""


@dataclass(frozen=True, slots=True)
class Record:
    """One kept record; ``day`` is the UTC day it was written, ``YYYYMMDD``."""

    id: str
    day: str
    data: bytes


class Store:
    """One plugin's records in one account, sealed under the key of the day they are written."""

    async def keep(self, record: str, data: bytes) -> None:
        """Seal and write a record; durable when this returns."""
        raise NotImplementedError

    def records(self, day: str | None = None) -> AsyncIterator[Record]:
        """Yield the records of one day or of all, oldest day first, decrypted."""
        raise NotImplementedError

    async def purge(self, scope: Expired, *, days: int = CEILING_DAYS) -> Purged:
        """Delete every day's records whose oldest is about to be ``days`` old at ``scope.now``."""
        raise NotImplementedError
