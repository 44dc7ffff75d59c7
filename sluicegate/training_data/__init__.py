"""Quality checks on training and validation data, for uploads and for ``python -m sluicegate validate``.

``validator`` leads: bytes to ``lines``, to objects (``decoding``), to examples (``rows``, ``messages``, ``tools``), to
``tokens``, ``repeats`` and ``statistics``. What is wrong becomes ``findings`` with the words of ``codes``, in a ``report``.
Nothing touches the file system, and no finding, message or number holds text of a file.
"""

from sluicegate.training_data.codes import CODES, UNREADABLE, Severity
from sluicegate.training_data.findings import Finding
from sluicegate.training_data.report import FileReport, Report
from sluicegate.training_data.tokens import CountTokens
from sluicegate.training_data.validator import FileValidator, validate, validate_async

__all__ = [
    "CODES",
    "UNREADABLE",
    "CountTokens",
    "FileReport",
    "FileValidator",
    "Finding",
    "Report",
    "Severity",
    "validate",
    "validate_async",
]
