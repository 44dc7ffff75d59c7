"""Fine-tuned models and the checkpoints of their jobs: what is known of each, and where its weights are.

::

    container    tuned-models     {account}/{id}     a document: a model or a checkpoint of one account
    large files  {job}            {account}/…        its weights, among the files of the job that made them

A job's other files go with the job, weights with their model: whoever deletes a model deletes its file as well. A model is
visible in its account alone, and its id is never used again.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sluicegate.errors import BlobExists, BlobNotFound, NotFound
from sluicegate.services import BlobStore
from sluicegate.storage.day_layout import Gone
from sluicegate.storage.documents import Documents
from sluicegate.storage.files import Files

CONTAINER = "tuned-models"
_PLAIN = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A fine-tuned model, or a checkpoint of one.

    Attributes:
        id: ``{base}.ft-{hex32}``, with ``-{suffix}``; of a checkpoint with ``:ckpt-step-{step}``.
        base: The id of the model that was trained, as its plugin registered it.
        job: The job that made it, which may be deleted.
        step: Of a checkpoint, after how many steps; None for the model itself.
        weights_file: The file's id among those of ``job``.
        deployable: Whether the safety evaluation has passed it; None until there is a verdict.
        elsewhere: ``Checkpoint.elsewhere``: what the model is called where it really is, to be deleted there first.
    """

    id: str
    account: str
    base: str
    job: str
    step: int | None
    created_at: datetime
    weights_file: str
    deployable: bool | None = None
    elsewhere: str | None = None


class TunedModels:
    """The fine-tuned models of all accounts in a region; one object per process."""

    def __init__(self, blobs: BlobStore, files: Files) -> None:
        self._blobs = blobs
        self._files = files
        self._documents = Documents(blobs, CONTAINER, "")

    async def add(self, model: TunedModel) -> None:
        """Add a model; one that is there already, with the verdict on it, stays, and one whose weights are gone is not added."""
        document = {**asdict(model), "created_at": int(model.created_at.timestamp())}
        with suppress(BlobExists):
            await self._documents.put(_name(model.account, model.id), document, etag=None)
        # Looked for afterwards, so that a deletion at the same time, of the weights first, leaves neither.
        if not await self._files.store(model.account, model.job).has(model.weights_file):
            await self._documents.delete(_name(model.account, model.id))

    async def judge(self, account: str, id: str, *, deployable: bool) -> None:
        """Keep the verdict of the safety evaluation."""

        def judged(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
            if found is None:
                raise NotFound("The requested model does not exist.", code="model_not_found", param="model")
            return {**found, "deployable": deployable}

        await self._documents.change(_name(account, id), judged)

    async def get(self, account: str, id: str) -> TunedModel | None:
        """Return a model, or None when the account has none of that id."""
        found = await self._documents.get(_name(account, id)) if _is_name(id) else None
        return None if found is None else _model(found.content)

    async def list(self, account: str) -> list[TunedModel]:
        """Return the account's models and checkpoints, in the order of their ids."""
        documents = await self._documents.all(await self._documents.names(f"{account}/"))
        return [_model(document.content) for document in documents]

    async def accounts(self) -> tuple[str, ...]:
        """Return the accounts that have any."""
        return tuple(sorted({name.partition("/")[0] for name in await self._documents.names()}))

    async def delete(self, account: str, id: str) -> bool:
        """Delete a model, its weights first; False when there is none. Run again after a failure, it goes on."""
        model = await self.get(account, id)
        if model is None:
            return False
        await self._files.store(account, model.job).erase(model.weights_file)
        return await self._documents.delete(_name(account, id))

    async def stored(self, model: TunedModel) -> AsyncIterator[Gone]:
        """Yield what storage holds of a model."""
        async for blob in self._files.store(model.account, model.job).stored(model.weights_file):
            yield blob
        name = _name(model.account, model.id)
        async for info in self._blobs.list(CONTAINER, name):
            if info.name == name:
                yield Gone(CONTAINER, info.name, info.size)

    def weights(self, model: TunedModel) -> StoredWeights:
        """Return a model's weights, for the plugin that trains or serves it."""
        return StoredWeights(self._files, model)


class StoredWeights:
    """``Weights``, as the hooks get them."""

    def __init__(self, files: Files, model: TunedModel) -> None:
        self.id = f"{model.job}/{model.weights_file}"
        self._store = files.store(model.account, model.job)
        self._file = model.weights_file

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the bytes; see ``Weights.read``."""
        try:
            opened = await self._store.open(self._file)
            async for piece in opened.read():
                yield piece
        except BlobNotFound:
            raise NotFound("The requested model does not exist.", code="model_not_found", param="model") from None

    async def exist(self) -> bool:
        """Return whether the model is still there."""
        return await self._store.has(self._file)


def base_of(name: str) -> str:
    """Return the base in the id of a fine-tuned model, or the name itself."""
    return name.rpartition(".ft-")[0] or name


def _is_name(id: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,180}[A-Za-z0-9_-]", id) is not None


def _name(account: str, id: str) -> str:
    """Return a document's name; what a blob's name cannot hold is spelt in hexadecimal digits."""
    return f"{account}/" + _PLAIN.sub(lambda found: f"={ord(found[0]):02x}", id)


def _model(document: Mapping[str, Any]) -> TunedModel:
    return TunedModel(**{**document, "created_at": datetime.fromtimestamp(document["created_at"], UTC)})
