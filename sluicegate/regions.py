"""Where accounts' data lives: each region has storage, a key vault, and everything that guards what is in them.

An account's ``location`` names its region. What is retained of it, its files, its receipts, its entries in the audit log and its content-filter
policies and blocklists are in that region's storage, sealed and signed with that region's keys, and nowhere else. The region where
the app runs is the *home* region; what every process must know of an account before it knows the location is there: its document,
its keys' hashes, its roles, its deployments' names, and its use of limits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from sluicegate.accounts import Accounts, Resident
from sluicegate.audit.log import Audit
from sluicegate.audit.publishing import Publisher, Sink
from sluicegate.config import Limits
from sluicegate.errors import PurgeIncomplete, RegionNotConfigured, SluicegateError, StorageUnavailable
from sluicegate.fine_tuning.job_store import JobStore
from sluicegate.fine_tuning.tuned_models import TunedModels
from sluicegate.monitoring.counters import Counters
from sluicegate.retention.purging import Plugins, Summary, purge
from sluicegate.retention.receipts import Receipts
from sluicegate.retention.weaknesses import Weaknesses
from sluicegate.services import BlobStore, KeyService
from sluicegate.storage.customer_keys import CustomerVaults
from sluicegate.storage.data_keys import DataKeys
from sluicegate.storage.day_layout import CEILING_DAYS, day_of, key_name
from sluicegate.storage.files import Files
from sluicegate.storage.lease import Lease, LeaseHeld, LeaseLost
from sluicegate.storage.part_uploads import PartUploads
from sluicegate.storage.rewrapping import Rewrapped, rewrap
from sluicegate.storage.uploaded_files import UploadedFiles
from sluicegate.storage.vault import Vault

PATIENCE = timedelta(hours=2)
"""A removal that has no receipt after so long is told of: the hourly timer has been at it in vain, or was not."""
RUN_TIME = timedelta(minutes=25)
"""For one run of the timer; ``host.json`` has a function ended after 30 minutes, which tells nobody what was left."""

log = logging.getLogger(__name__)


class Region:
    """One region; one object per process.

    Args:
        vaults: Opens customers' vaults.
        sinks: Returns where the checkpoints of a log go, by the log's origin.
        accepted: Weaknesses that the operator has accepted.
        limits: What an account may store.
        clock: Returns the present, aware.

    Attributes:
        blobs: Its storage.
        data_keys: The data keys of the accounts in it.
        weaknesses: What makes deletion less than final there.
        files: What the accounts in it have uploaded.
        uploads: Uploads in parts, which become files when they are completed.
        jobs: Their fine-tuning jobs.
        large_files: Everything that is sealed as a file, uploads and others.
        tuned_models: Their fine-tuned models.
        counters: What is counted of signals of the accounts in it.
        audit: Its log, which has entries about accounts in it only, and, in the home region, about the deployment.
    """

    def __init__(
        self,
        name: str,
        blobs: BlobStore,
        keys: KeyService,
        *,
        accounts: Accounts,
        vaults: CustomerVaults,
        sinks: Callable[[str], tuple[Sink, ...]],
        accepted: Collection[str],
        limits: Limits,
        clock: Callable[[], datetime],
    ) -> None:
        self.name = name
        self.blobs = blobs
        self.data_keys = DataKeys(keys, accounts=accounts, vaults=vaults, clock=clock)
        self.weaknesses = Weaknesses(blobs, keys, accepted, clock=clock)
        self.audit = Audit(blobs, keys, origin=f"sluicegate/{name}", clock=clock)
        self.receipts = Receipts(blobs, keys, self.audit, clock=clock, weaknesses=self.weaknesses.of_storage)
        self.counters = Counters(blobs, clock)
        self.vault = Vault(
            blobs,
            keys,
            clock=clock,
            ledger=self.receipts,
            data_keys=self.data_keys,
            may_keep=accounts.keeps_content,
            beside=self.counters,
        )
        self.large_files = Files(blobs, keys, clock=clock, data_keys=self.data_keys)
        self.files = UploadedFiles(
            blobs,
            self.large_files,
            self.receipts,
            clock=clock,
            most_files=limits.stored_files,
            most_bytes=limits.stored_files_gib << 30,
        )
        self.uploads = PartUploads(blobs, self.large_files, self.files, self.receipts, clock=clock)
        self.jobs = JobStore(blobs, self.large_files)
        self.tuned_models = TunedModels(blobs, self.large_files)
        self._keys = keys
        self._publisher = Publisher(self.audit, blobs, sinks(self.audit.key.origin), clock)
        self._clock = clock
        self._starting = asyncio.Lock()
        self._started = False

    async def start(self) -> None:
        """Look, once, whether deletion is final here; nothing of an account here is touched before.

        Raises:
            StartupError: Something weakens deletion that the operator has not accepted; the next call looks again.
            ServiceError: Storage or keys cannot be asked; likewise.
        """
        if self._started:
            return
        async with self._starting:
            if self._started:
                return
            # A vault that holds no key says little of itself.
            await self._keys.create(key_name(day_of(self._clock())))
            await self.weaknesses.check()
            self._started = True

    async def close(self) -> None:
        """Release storage, keys, customers' vaults and sinks; what fails does not keep the others open."""
        await self.files.drain()
        closing = (self._publisher.close, self.blobs.close, self.data_keys.close, self._keys.close)
        failed = [
            each for each in await asyncio.gather(*(close() for close in closing), return_exceptions=True) if each
        ]
        if failed:
            raise failed[0]

    # --- the purge timer ---------------------------------------------------------------------------------------------

    async def purge(self, plugins: Plugins, residents: Residents) -> Summary | None:
        """Remove what is due here, of all plugins, and publish the log's checkpoint.

        Returns:
            What went, or None when another process is at it.

        Raises:
            PurgeIncomplete: Something due is left, or a checkpoint was not published, or it took too long; the next run goes on.
        """
        limit = asyncio.timeout(RUN_TIME.total_seconds())
        try:
            async with limit:
                return await self._purge_alone(plugins, residents)
        except TimeoutError:
            if not limit.expired():
                raise
            raise PurgeIncomplete([f"what was not done within {RUN_TIME}, when the run was stopped"]) from None

    async def _purge_alone(self, plugins: Plugins, residents: Residents) -> Summary | None:
        try:
            return await Lease(self.blobs, "purge", clock=self._clock).run(lambda: self._purge(plugins, residents))
        except LeaseHeld:
            overdue = await self.vault.overdue(self._clock())
            if overdue:
                raise PurgeIncomplete(f"{day}: overdue, though another process is purging" for day in overdue) from None
            log.info("another process is purging in region %s", self.name)
            return None
        except LeaseLost as error:
            raise PurgeIncomplete([str(error)]) from None
        except StorageUnavailable:
            # A full disk takes no lease either, and what is due must go all the same.
            return await self._purge(plugins, residents)

    async def rewrap(self, residents: Residents) -> Rewrapped:
        """Wrap the data keys of the accounts here under their own present keys."""
        return await rewrap(self.blobs, self.data_keys, residents, now=self._clock())

    async def _purge(self, plugins: Plugins, residents: Residents) -> Summary:
        left = await self._publisher.look()
        summary = None
        try:
            summary = await purge(self.vault, plugins, residents, self.receipts, now=self._clock())
        except PurgeIncomplete as error:
            left += error.left
        try:
            await self.files.purge(self._clock())
        except PurgeIncomplete as error:
            left += error.left
        except SluicegateError as error:
            left.append(f"uploaded files ({type(error).__name__})")
        try:
            await self.counters.purge(residents.signal_days, self._clock())
        except SluicegateError as error:
            left.append(f"counts of signals ({type(error).__name__})")
        for rewrapping in (self.rewrap(residents), self.large_files.rewrap()):
            try:
                await rewrapping
            except SluicegateError as error:
                left.append(f"wrapping data keys anew ({type(error).__name__})")
        left += await self._reversible()
        left += await self._publisher.publish()
        if summary is None or left:
            raise PurgeIncomplete(left)
        return summary

    async def _reversible(self) -> list[str]:
        try:
            return [f"deletion is not final here: {sentence}" for sentence in await self.weaknesses.unaccepted()]
        except SluicegateError as error:
            return [f"looking whether deletion is final here ({type(error).__name__})"]

    async def degraded(self) -> list[str]:
        """Return what the operator should mend here, a line each."""
        try:
            now = self._clock()
            overdue = await self.vault.overdue(now)
            unfinished = await self.receipts.unfinished(now - PATIENCE)
            hidden = await self.vault.unfinished(now - PATIENCE)
            weaknesses = await self.weaknesses.unaccepted()
        except SluicegateError as error:
            return [f"storage or keys cannot be reached ({type(error).__name__})"]
        return [
            *(f"retained data of {day} is overdue for deletion" for day in overdue),
            *([f"removals that have had no receipt for two hours: {unfinished}"] if unfinished else []),
            *([f"deletions that left data in storage, which nobody is shown: {hidden}"] if hidden else []),
            *(f"deletion is not final here: {sentence}" for sentence in weaknesses),
        ]


class Regions:
    """All regions by name, the home region first.

    Attributes:
        home: Where the app runs.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        self.home = regions[0]
        self._regions = {region.name: region for region in regions}

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Where accounts can be."""
        return tuple(self._regions)

    def of(self, location: str) -> Region:
        """Return an account's region.

        Raises:
            RegionNotConfigured: The deployment file no longer has it, so nobody gets at what is there.
        """
        region = self._regions.get(location)
        if region is None:
            raise RegionNotConfigured(location)
        return region

    def told(self, region: Region, line: str) -> str:
        """Return a line about a region, which names it where there are several."""
        return line if len(self._regions) == 1 else f"region {region.name}: {line}"

    def strangers(self, census: Mapping[str, Resident | Exception]) -> list[str]:
        """Return of which regions that are not configured there are accounts, a line each."""
        known = [each.location for each in census.values() if isinstance(each, Resident)]
        unknown = sorted({location for location in known if location not in self._regions and location})
        return [
            f"region {location} is not configured, so nothing is purged of the {known.count(location)} accounts in it"
            for location in unknown
        ]


class Residents:
    """Whose data a region holds, as one run of the timer found it: what purging and rewrapping ask.

    An account that cannot be read may be anywhere, so every region has it.

    Args:
        census: From ``Accounts.census``, or why there is none.
    """

    def __init__(self, region: Region, census: Mapping[str, Resident | Exception] | SluicegateError) -> None:
        self._region = region
        self._census = census

    async def names(self) -> tuple[str, ...]:
        """Return their names, sorted; deleted ones too."""
        if isinstance(self._census, SluicegateError):
            raise self._census
        return tuple(
            name
            for name, found in self._census.items()
            if isinstance(found, Exception) or found.location in (self._region.name, "")
        )

    async def retention_days(self, name: str) -> int:
        """Return as ``Accounts.retention_days``."""
        return self._found(name).retention_days

    def signal_days(self, name: str) -> int:
        """Return after how many days what is counted of an account goes; the ceiling where nobody can tell."""
        found = None if isinstance(self._census, SluicegateError) else self._census.get(name)
        return found.signal_days if isinstance(found, Resident) else CEILING_DAYS

    async def get(self, name: str) -> Resident | None:
        """Return an account, or None when it is deleted."""
        found = self._found(name)
        return None if found.is_deleted else found

    def _found(self, name: str) -> Resident:
        if isinstance(self._census, SluicegateError):
            raise self._census
        found = self._census[name]
        if isinstance(found, Exception):
            raise found
        return found
