"""The files of a job, as the plugin that trains gets them in one step.

What a step writes gets a new file id each time, and what it deletes stays where it is: :attr:`JobFiles.names` is the folder as
the step leaves it. It counts once the job's document has it; until then the step before is untouched, and whatever no
document names is swept away before the next step.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator

from sluicegate.errors import BlobNotFound, TrainingFailed
from sluicegate.fine_tuning.jobs import Job
from sluicegate.fine_tuning.tuned_models import StoredWeights
from sluicegate.storage.files import FileStore
from sluicegate.storage.uploaded_files import UploadedFiles

_NAME = re.compile(r"[a-z0-9-]{1,40}")


class JobFiles:
    """``TrainingFiles`` of one step.

    Attributes:
        names: The plugin's files as the step leaves them: name -> the file's id.
    """

    def __init__(self, job: Job, uploads: UploadedFiles, store: FileStore) -> None:
        self.names = dict(job.files)
        self._job = job
        self._uploads = uploads
        self._store = store
        self._weights: StoredWeights | None = None

    def start_from(self, weights: StoredWeights | None) -> None:
        """Set what the job goes on from."""
        self._weights = weights

    def training(self) -> AsyncIterator[bytes]:
        """Yield the training file; see ``TrainingFiles.training``.

        Raises:
            TrainingFailed: It was deleted.
        """
        return read_upload(self._uploads, self._job.account, self._job.training_file, "training_file")

    def validation(self) -> AsyncIterator[bytes] | None:
        """Yield the validation file likewise."""
        if self._job.validation_file is None:
            return None
        return read_upload(self._uploads, self._job.account, self._job.validation_file, "validation_file")

    def starting_weights(self) -> StoredWeights | None:
        """Return what the job goes on from."""
        return self._weights

    async def write(self, name: str, data: AsyncIterable[bytes]) -> None:
        """Keep a file; see ``TrainingFiles.write``."""
        if not _NAME.fullmatch(name):
            raise ValueError("a file's name is 1 to 40 of a-z0-9-")
        file = f"{secrets.token_hex(8)}-{name}"
        await self._store.write(file, data)
        self.names[name] = file

    async def read(self, name: str) -> AsyncIterator[bytes]:
        """Yield a file; see ``TrainingFiles.read``."""
        if name not in self.names:
            raise BlobNotFound("the job has no such file")
        async for piece in (await self._store.open(self.names[name])).read():
            yield piece

    async def delete(self, name: str) -> None:
        """Leave a file out of what the next step gets."""
        self.names.pop(name, None)


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
