"""Write ``docs/formats.md`` from the docstrings of the modules that define what is stored; cog runs it, and ``make lint``
checks that the page is current."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator

from hooks_page import inline

PARTS = {
    "Where retained content is": "sluicegate.storage.day_layout",
    "Batches of records, and wrapped data keys": "sluicegate.storage.envelope",
    "A record of `keep_encrypted`": "plugins.keep_encrypted",
    "Where large files are": "sluicegate.storage.file_layout",
    "Large files": "sluicegate.storage.segments",
    "Where uploaded files are": "sluicegate.storage.uploaded_files",
    "Entries of the audit log": "sluicegate.audit.entries",
    "The audit log": "sluicegate.audit.log",
    "Merkle trees": "sluicegate.audit.merkle",
    "The audit log's tree, as it is stored": "sluicegate.audit.tree",
    "Checkpoints": "sluicegate.audit.checkpoints",
    "Where receipts are": "sluicegate.retention.receipts",
    "Receipts": "sluicegate.retention.receipt_check",
}
"""What the page holds, in order: heading -> module."""


def page() -> str:
    """Return the page's generated part, Markdown."""
    return "\n".join(line for heading, module in PARTS.items() for line in _part(heading, module))


def _part(heading: str, module: str) -> Iterator[str]:
    yield f"## {heading}"
    yield ""
    yield f"`{module.replace('.', '/')}.py`"
    yield ""
    yield from _markdown(inspect.getdoc(importlib.import_module(module)) or "")


def _markdown(doc: str) -> Iterator[str]:
    """Turn a docstring into Markdown: after a line that ends in two colons, what is indented is as it is."""
    for block in re.split(r"(?:(?<=:):)\n\n((?:    .*\n|\n)+)", doc + "\n"):
        if block.startswith("    "):
            yield f"```\n{textwrap.dedent(block).strip()}\n```\n"
        elif text := re.sub(r":mod:`([\w.]+)`", r"`\1`", re.sub(r"^:$", "", block, flags=re.M)).strip():
            yield f"{inline(text)}\n"
