"""An upstream's numbers as ours: rows of ``results.csv``, events and checkpoints. Text among them is passed over.

Source: OpenAI API reference, fine-tuning events and checkpoints; Azure OpenAI's guide to fine-tuning, "Analyze your custom
model". Azure and OpenAI name some columns differently, and each has changed names.
"""

from __future__ import annotations

import csv
import math
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sluicegate.training import Hyperparameters, Metrics

_ALIASES: Mapping[str, tuple[str, ...]] = {
    "train_loss": ("train_loss", "training_loss"),
    "train_mean_token_accuracy": ("train_mean_token_accuracy", "train_accuracy", "training_token_accuracy"),
    "valid_loss": ("valid_loss", "validation_loss"),
    "valid_mean_token_accuracy": (
        "valid_mean_token_accuracy", "validation_mean_token_accuracy", "valid_accuracy", "validation_token_accuracy",
    ),
    "full_valid_loss": ("full_valid_loss", "full_validation_loss"),
    "full_valid_mean_token_accuracy": ("full_valid_mean_token_accuracy", "full_validation_mean_token_accuracy"),
}  # fmt: skip


def metrics(values: Any, step: Any = None) -> Metrics | None:
    """Return the numbers of one step; None when there are none.

    Args:
        step: The step, where it is not among the values.
    """
    if not isinstance(values, Mapping):
        return None
    number = _number(values.get("step", step))
    if number is None or number < 1:
        return None
    found = {name: _first(values, names) for name, names in _ALIASES.items()}
    if all(value is None for value in found.values()):
        return None
    return Metrics(step=int(number), **found)


def merged(one: Metrics | None, other: Metrics | None) -> Metrics | None:
    """Return what either knows of a step; ``one`` counts where both do."""
    if one is None or other is None:
        return one or other
    values = {each.name: getattr(one, each.name) for each in fields(Metrics)}
    return Metrics(**{name: getattr(other, name) if value is None else value for name, value in values.items()})


def results(content: bytes) -> dict[int, Metrics]:
    """Return the rows of a results file, by step; none when it is not one.

    OpenAI sends the file in base64, Azure as it is.
    """
    if b"," not in content[:256]:
        try:
            content = b64decode(content, validate=True)
        except ValueError:
            return {}
    rows = csv.DictReader(content.decode("utf-8-sig", "replace").splitlines())
    read = filter(None, map(metrics, rows))
    return {row.step: row for row in read}


def hyperparameters(*given: Any) -> Hyperparameters:
    """Return what a job trains with, as far as it is decided: of several objects, the later count."""
    values = {name: value for each in given if isinstance(each, Mapping) for name, value in each.items()}
    epochs, batch = _number(values.get("n_epochs")), _number(values.get("batch_size"))
    return Hyperparameters(
        n_epochs=None if epochs is None else int(epochs),
        batch_size=None if batch is None else int(batch),
        learning_rate_multiplier=_number(values.get("learning_rate_multiplier")),
        beta=_number(values.get("beta")),
    )


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    return next((number for name in names if (number := _number(values.get(name))) is not None), None)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
