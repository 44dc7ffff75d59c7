"""The files of a job, as the plugin that trains gets them in one step.

What a step writes gets a new file id each time, and what it deletes stays where it is: :attr:`JobFiles.names` is the folder as
the step leaves it. It counts once the job's document has it; until then the step before is untouched, and whatever no
document names is swept away before the next step.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager

from sluicegate.errors import BlobNotFound, ServiceError, TrainingFailed
from sluicegate.fine_tuning.jobs import Job
from sluicegate.fine_tuning.tuned_models import StoredWeights
from sluicegate.storage.files import FileStore
from sluicegate.storage.uploaded_files import UploadedFiles
from sluicegate.training import Weights

_NAME = re.compile(r"[a-z0-9-]{1,40}")


class JobFiles:
    """``TrainingFiles`` of one step.

    Attributes:
        names: The plugin's files as the step leaves them: name -> the file's id.
        failure: How storage or keys have failed the step, if they have: whatever the plugin made of that is not its fault.
    """

    def __init__(self, job: Job, uploads: UploadedFiles, store: FileStore) -> None:
        self.names = dict(job.files)
        self.failure: ServiceError | None = None
        self._job = job
        self._uploads = uploads
        self._store = store
        self._weights: _Noted | None = None

    def start_from(self, weights: StoredWeights | None) -> None:
        """Set what the job goes on from."""
        self._weights = None if weights is None else _Noted(weights, self)

    def training(self) -> AsyncIterator[bytes]:
        """Yield the training file; see ``TrainingFiles.training``.

        Raises:
            TrainingFailed: It was deleted.
        """
        return self.noted(read_upload(self._uploads, self._job.account, self._job.training_file, "training_file"))

    def validation(self) -> AsyncIterator[bytes] | None:
        """Yield the validation file likewise."""
        if self._job.validation_file is None:
            return None
        file = self._job.validation_file
        return self.noted(read_upload(self._uploads, self._job.account, file, "validation_file"))

    def starting_weights(self) -> Weights | None:
        """Return what the job goes on from."""
        return self._weights

    async def write(self, name: str, data: AsyncIterable[bytes]) -> None:
        """Keep a file; see ``TrainingFiles.write``."""
        if not _NAME.fullmatch(name):
            raise ValueError("a file's name is 1 to 40 of a-z0-9-")
        file = f"{self._job.turn:08x}-{secrets.token_hex(6)}-{name}"
        with self.noting():
            await self._store.write(file, data)
        self.names[name] = file

    async def read(self, name: str) -> AsyncIterator[bytes]:
        """Yield a file; see ``TrainingFiles.read``."""
        if name not in self.names:
            raise BlobNotFound("the job has no such file")
        with self.noting():
            opened = await self._store.open(self.names[name])
        async for piece in self.noted(opened.read()):
            yield piece

    async def delete(self, name: str) -> None:
        """Leave a file out of what the next step gets."""
        self.names.pop(name, None)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note how storage or keys fail."""
        try:
            yield
        except ServiceError as error:
            self.failure = error
            raise

    async def noted(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield what is read, and note likewise."""
        with self.noting():
            async for piece in pieces:
                yield piece


def turn_of(file: str) -> int:
    """Return which attempt of its job has written a file, see ``Job.turn``."""
    return int(file.partition("-")[0], 16)


class _Noted:
    """``Weights`` whose reading is noted."""

    def __init__(self, weights: StoredWeights, files: JobFiles) -> None:
        self.id = weights.id
        self._weights = weights
        self._files = files

    def read(self) -> AsyncIterator[bytes]:
        return self._files.noted(self._weights.read())

    async def exist(self) -> bool:
        with self._files.noting():
            return await self._weights.exist()


async def read_upload(
    uploads: UploadedFiles, account: str, id: str, param: str, offset: int = 0
) -> AsyncIterator[bytes]:
    """Yield an uploaded file of a job, from an offset on.

    Raises:
        TrainingFailed: It was deleted.
    """
    try:
        opened = await uploads.open(account, id)
        if opened is None:
            raise BlobNotFound("the account has no such file")
        async for piece in opened.read(offset):
            yield piece
    except BlobNotFound:
        raise TrainingFailed(f"The file {id} was deleted, or has expired.", code="notFound", param=param) from None
