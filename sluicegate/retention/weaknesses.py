"""What makes deletion less than final here: found out at the start and again each hour, and never ignored.

The blob store and the key service say a sentence for each. What the operator has not accepted in the deployment file stops
the start, fails the purge timer and shows in ``healthz``; what is accepted is in every receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from sluicegate.errors import StartupError
from sluicegate.services import BlobStore, KeyService

FRESH = timedelta(hours=1)


class Weaknesses:
    """The weaknesses of one deployment.

    Args:
        accepted: From the deployment file.
        clock: Returns the present, aware.
    """

    def __init__(
        self, blobs: BlobStore, keys: KeyService, accepted: Collection[str], *, clock: Callable[[], datetime]
    ) -> None:
        self._blobs = blobs
        self._keys = keys
        self._accepted = frozenset(accepted)
        self._clock = clock
        self._storage: tuple[datetime, tuple[str, ...]] | None = None
        self._all: tuple[datetime, tuple[str, ...]] | None = None

    async def of_storage(self) -> tuple[str, ...]:
        """Return the blob store's, at most :data:`FRESH` old, for receipts; the key service's are asked for each time there."""
        now = self._clock()
        if self._storage is None or not timedelta() <= now - self._storage[0] < FRESH:
            self._storage = now, await self._blobs.weaknesses()
        return self._storage[1]

    async def found(self) -> tuple[str, ...]:
        """Return all, at most :data:`FRESH` old.

        Raises:
            ServiceError: Storage or keys cannot be asked.
        """
        now = self._clock()
        if self._all is None or not timedelta() <= now - self._all[0] < FRESH:
            self._all = now, (*await self.of_storage(), *await self._keys.weaknesses())
        return self._all[1]

    async def unaccepted(self) -> tuple[str, ...]:
        """Return those that the operator has not accepted; errors as for ``found``."""
        return tuple(sentence for sentence in await self.found() if name_of(sentence) not in self._accepted)

    async def check(self) -> None:
        """Refuse what the operator has not accepted.

        Raises:
            StartupError: There is something; the message says what, and how to accept it.
            ServiceError: Storage or keys cannot be asked.
        """
        unaccepted = await self.unaccepted()
        if unaccepted:
            names = ", ".join(f'"{name_of(sentence)}"' for sentence in unaccepted)
            raise StartupError(
                f"deletion would not be final here. {'. '.join(unaccepted)}. Change that, or add to the deployment file "
                f"accepted_weaknesses = [{names}], and every receipt will say so"
            )


def name_of(sentence: str) -> str:
    """Return the words by which a weakness is accepted."""
    return sentence.partition(":")[0]
