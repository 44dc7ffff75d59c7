"""``results.csv``: what each step of a job measured, as a file of the account's.

Source of the columns: Azure OpenAI's documentation of fine-tuning ("analyze your customized model").
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any

from sluicegate.storage.uploaded_files import Details

NAME = "results.csv"
PURPOSE = "fine-tune-results"
COLUMNS: Mapping[str, str] = {
    "step": "step",
    "train_loss": "train_loss",
    "train_mean_token_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "validation_mean_token_accuracy": "valid_mean_token_accuracy",
    "full_valid_loss": "full_valid_loss",
    "full_valid_mean_token_accuracy": "full_valid_mean_token_accuracy",
}
"""Column -> which of ``sluicegate.training.Metrics`` is in it."""


class Results:
    """The file on its way in, an ``Upload``.

    Args:
        rows: Of ``sluicegate.training.Metrics``.
    """

    def __init__(self, rows: AsyncIterable[Mapping[str, Any]]) -> None:
        self._rows = rows

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the header and a line for each row; None is an empty cell."""
        yield _line(list(COLUMNS))
        async for row in self._rows:
            yield _line([row[metric] for metric in COLUMNS.values()])

    def details(self) -> Details:
        """Return what is said of the file."""
        return Details(NAME, PURPOSE, None)


def _line(cells: list[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()
