"""The body that asks for a fine-tuning job, in OpenAI's field names.

Source: ``CreateFineTuningJobRequest`` of Azure's v1 specification, and ``FineTuningJobCreation`` of the authoring
specification 2024-10-21; ``trainingType`` is from Azure's documentation alone.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field

from sluicegate.errors import InvalidRequest, Unsupported
from sluicegate.fine_tuning.job_operations import Asked
from sluicegate.requests import Part
from sluicegate.training import Hyperparameters

MOST_METADATA = 16
Auto: TypeAlias = Literal["auto"]
Key: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]
Value: TypeAlias = Annotated[str, Field(max_length=512)]


class SupervisedHyperparameters(Part):
    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto | None = None
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=100)] | Auto | None = None


class DpoHyperparameters(SupervisedHyperparameters):
    beta: Annotated[float, Field(gt=0, le=2)] | Auto | None = None


class Supervised(Part):
    hyperparameters: SupervisedHyperparameters | None = None


class Dpo(Part):
    hyperparameters: DpoHyperparameters | None = None


class Reinforcement(Part):
    """Refused by its name, whatever is in it."""

    model_config = ConfigDict(extra="allow")


class MethodChoice(Part):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None


class Integration(Part):
    """Refused by its name, whatever is in it."""

    model_config = ConfigDict(extra="allow")


class CreateJob(Part):
    """A fine-tuning job, as asked for."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    training_file: Annotated[str, Field(min_length=1, max_length=100)]
    validation_file: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    hyperparameters: SupervisedHyperparameters | None = None
    method: MethodChoice | None = None
    suffix: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    metadata: dict[Key, Value] | None = None
    integrations: tuple[Integration, ...] | None = None
    training_type: str | None = Field(None, alias="trainingType", max_length=40)

    def asked(self, most_suffix: int) -> Asked:
        """Return what is asked for.

        Args:
            most_suffix: Characters that a suffix may have.

        Raises:
            Unsupported: An integration or a method that is not served; never ignored in silence.
            InvalidRequest: Hyperparameters that contradict each other, or too much metadata.
        """
        if self.integrations:
            raise Unsupported("Integrations are not supported: leave 'integrations' out.", param="integrations")
        if self.suffix and len(self.suffix) > most_suffix:
            raise InvalidRequest(
                f"Invalid 'suffix': string too long. Expected a string with maximum length {most_suffix}.",
                code="string_above_max_length",
                param="suffix",
            )
        if self.metadata and len(self.metadata) > MOST_METADATA:
            raise InvalidRequest(
                f"Invalid 'metadata': too many properties. Expected at most {MOST_METADATA}.",
                code="object_above_max_properties",
                param="metadata",
            )
        if self.method and (self.method.type == "reinforcement" or self.method.reinforcement):
            raise Unsupported(
                "Reinforcement fine-tuning is not supported: use 'supervised' or 'dpo'.", param="method.type"
            )
        method: Literal["supervised", "dpo"] = "dpo" if self.method and self.method.type == "dpo" else "supervised"
        return Asked(
            self.model,
            self.training_file,
            self.validation_file,
            method,
            self._hyperparameters(method),
            self.seed,
            self.suffix,
            self.metadata,
        )

    def _hyperparameters(self, method: Literal["supervised", "dpo"]) -> Hyperparameters:
        chosen = getattr(self.method, method, None) if self.method else None
        other = getattr(self.method, "supervised" if method == "dpo" else "dpo", None) if self.method else None
        if other is not None:
            raise InvalidRequest(
                "Only the settings of the method that 'method.type' names can be given.",
                param="method",
                code="invalid_value",
            )
        given = [each for each in (chosen and chosen.hyperparameters, self.hyperparameters) if each is not None]
        if len(given) > 1:
            raise InvalidRequest(
                f"Give hyperparameters in 'method.{method}.hyperparameters' or in 'hyperparameters', not in both.",
                param="hyperparameters",
                code="invalid_value",
            )
        values = given[0].model_dump() if given else {}
        return Hyperparameters(**{name: None if value == "auto" else value for name, value in values.items()})
