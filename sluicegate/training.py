"""What passes between the core and a plugin that trains: a job, its files, and what one step of it has done.

The core keeps the job, its state and its files, and drives it step by step; the plugin changes the weights. Nothing here
holds an example's text but the files, and they are read and written through the core, which seals them.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

Method: TypeAlias = Literal["supervised", "dpo"]
"""How examples are learnt: from the assistant's messages, or from a preferred answer beside one that is not."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What a job may set; None is ``auto``, and the plugin chooses.

    Attributes:
        n_epochs: How often each example is seen.
        batch_size: Examples in a step.
        learning_rate_multiplier: Times the plugin's own learning rate.
        beta: Of ``dpo``: how close to the base model it stays.
    """

    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None
    beta: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A fine-tuning job, as the plugin that trains sees it.

    Attributes:
        id: ``ftjob-`` and 32 hexadecimal digits.
        base: The id of the model that is trained, as the plugin registered it.
        state: What the plugin's last step returned: JSON, without any content; empty before the first.
        is_pausing: Whether the job is paused after this step, which then returns soon, with a checkpoint of how far it is.
            It is called again, with the state that it returned, when the job is resumed.
    """

    id: str
    base: str
    method: Method
    hyperparameters: Hyperparameters
    seed: int
    suffix: str | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    is_pausing: bool = False


class Weights(Protocol):
    """The weights of a fine-tuned model, or of a checkpoint: whatever bytes the plugin wrote, such as an adapter.

    Attributes:
        id: Unique in the app, and never used again for other weights.
    """

    @property
    def id(self) -> str: ...

    def read(self) -> AsyncIterator[bytes]:
        """Yield the bytes, in pieces of any size.

        Raises:
            NotFound: The model was deleted; whoever has the weights in memory must drop them.
            ServiceError: Storage or keys cannot be reached.
        """
        ...

    async def exist(self) -> bool:
        """Return whether the model is still there, without reading it."""
        ...


class TrainingFiles(Protocol):
    """The files of one job; sealed under its account's key, and deleted with the job."""

    def training(self) -> AsyncIterator[bytes]:
        """Yield the training file, checked JSONL, in pieces of any size."""
        ...

    def validation(self) -> AsyncIterator[bytes] | None:
        """Yield the validation file likewise; None when the job has none."""
        ...

    def starting_weights(self) -> Weights | None:
        """Return the weights of the fine-tuned model that the job goes on from; None when it starts from its base."""
        ...

    async def write(self, name: str, data: AsyncIterable[bytes]) -> None:
        """Keep a file of the plugin's own; durable when this returns, and in place of an earlier one of that name.

        Args:
            name: 1 to 40 of ``a-z0-9-``.
        """
        ...

    def read(self, name: str) -> AsyncIterator[bytes]:
        """Yield a file that an earlier step wrote.

        Raises:
            BlobNotFound: There is none of that name.
        """
        ...

    async def delete(self, name: str) -> None:
        """Delete a file that is needed no more; nothing happens when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Metrics:
    """What one optimiser step measured: a row of ``results.csv``; None is an empty cell.

    Attributes:
        step: From 1, over all epochs.
        train_loss: Mean cross-entropy a token (nats), of the step's batch.
        train_mean_token_accuracy: Share of the batch's tokens that were the likeliest, 0 to 1; both are None only where
            training goes on elsewhere and did not report them.
        valid_loss, valid_mean_token_accuracy: The same of a batch of the validation file.
        full_valid_loss, full_valid_mean_token_accuracy: The same of the whole validation file; at ends of epochs.
    """

    step: int
    train_loss: float | None
    train_mean_token_accuracy: float | None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights that can be deployed: of the end of an epoch, or of a pause.

    Attributes:
        weights: The name under which the step wrote them with ``TrainingFiles.write``; the core takes the file over, and
            the plugin neither changes nor deletes it afterwards.
        elsewhere: What the model is called where it really is, of weights that only name it: for the hook ``forget_model``. It is
            kept unsealed, so that a model can be deleted without its account's key.
    """

    metrics: Metrics
    weights: str
    elsewhere: str | None = None


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What one step has done. All of it becomes durable at once, or none of it and the step is done again.

    Attributes:
        state: For the next step, see ``TrainingJob.state``.
        finished: Whether training is over; the last of this step's checkpoints, and there must be one, is then the
            fine-tuned model.
        hyperparameters: As used, without any ``auto``.
        metrics: Rows that are new since the last step.
        checkpoints: Those that are new since the last step.
        trained_tokens: Tokens trained on so far, over all epochs.
        messages: What to tell the customer, a line each, without content.
        estimated_finish: When training will be over, if the plugin can tell.
        not_before: When the next step makes sense at the earliest (aware, UTC), for training that goes on elsewhere; the
            core may come later. None is at once.
    """

    state: Mapping[str, Any]
    finished: bool
    hyperparameters: Hyperparameters
    metrics: tuple[Metrics, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    trained_tokens: int = 0
    messages: tuple[str, ...] = ()
    estimated_finish: datetime | None = None
    not_before: datetime | None = None
