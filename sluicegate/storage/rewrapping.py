"""Rotation of customers' keys: data keys of live days are wrapped under an account's present key; no ciphertext is touched."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sluicegate.errors import BlobChanged, BlobNotFound, KeyNotFound, ServiceError
from sluicegate.services import BlobInfo, BlobStore
from sluicegate.storage import data_keys
from sluicegate.storage.data_keys import DataKeys
from sluicegate.storage.day_layout import CEILING_DAYS, day_of, each, keyring

log = logging.getLogger(__name__)


class Accounts(data_keys.Accounts, Protocol):
    """The part of :class:`sluicegate.accounts.Accounts` that this needs."""

    async def names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What one run did.

    Attributes:
        wrapped: How many data keys are under another key now.
        left: Of how many it could not be said, or done, by account.
    """

    wrapped: int
    left: dict[str, int]


async def rewrap(blobs: BlobStore, keys: DataKeys, accounts: Accounts, *, now: datetime) -> Rewrapped:
    """Wrap the data keys of live days under each account's present key, or version, or none.

    Stopped anywhere and run again, it goes on: what is wrapped already is left alone, and until it is, the old key opens it.
    What cannot be done now, because a key cannot be used, stays as it is and is logged; the rest is done.
    """
    wrapped = 0
    left: dict[str, int] = {}
    for name in await accounts.names():
        try:
            account = await accounts.get(name)
            if account is None or not account.vaults:
                continue
            newest = await keys.newest(name)
        except (ServiceError, ValueError) as error:
            log.warning("rewrap: the key of account %s cannot be used (%s)", name, type(error).__name__)
            left[name] = left.get(name, 0) + 1
            continue
        for ahead in range(-CEILING_DAYS, 2):
            ring = keyring(day_of(now + timedelta(days=ahead)))
            async for done in each(blobs.list(ring, f"{name}/"), _rewrapping(blobs, ring, keys, name, newest)):
                wrapped += done is True
                if done is None:
                    left[name] = left.get(name, 0) + 1
        if name in left:
            log.warning("rewrap: %d data keys of account %s stay under another key", left[name], name)
    return Rewrapped(wrapped, left)


def _rewrapping(
    blobs: BlobStore, ring: str, keys: DataKeys, account: str, newest: str | None
) -> Callable[[BlobInfo], Awaitable[bool | None]]:
    async def one(blob: BlobInfo) -> bool | None:
        """Return whether an entry was changed, or None when it could not be."""
        try:
            entry = await blobs.get(ring, blob.name)
            anew = await keys.rewrapped(account, entry.data, newest)
            if anew is not None:
                await blobs.put(ring, blob.name, anew, if_match=entry.etag)
            return anew is not None
        except (BlobNotFound, BlobChanged, KeyNotFound):
            # Deleted, purged with its day, or wrapped anew by somebody else meanwhile.
            return False
        except ServiceError:
            return None

    return one
