"""Read the works that an operator wants recognised: files, and a manifest that says whose they are.

A manifest is TOML; paths are relative to it and may have wildcards (``**`` for any folders)::

    [[sources]]
    files = ["poems/*.txt"]
    kind = "text"                       # or "code"
    url = "https://www.example.com/poems"
    license = "All rights reserved"

    [[sources]]
    files = ["boilerplate/*.txt"]
    kind = "code"
    common = true                       # what these share with others is nobody's, such as licence headers
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sluicegate.errors import StartupError

from .tokens import Kind


class Source(BaseModel):
    """Works of one owner under one licence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    kind: Kind
    url: str = ""
    license: str = ""
    common: bool = False


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Work:
    """One file of a source."""

    source: Source
    path: Path

    def read(self) -> str:
        """Return its text; bytes that are not UTF-8 become replacement characters."""
        return self.path.read_text(encoding="utf-8", errors="replace")


def works(manifest: Path) -> Iterator[Work]:
    """Yield the works of a manifest, in its order, those of a wildcard by path.

    Raises:
        StartupError: The manifest cannot be read, or names no file.
    """
    try:
        sources = _Manifest.model_validate(tomllib.loads(manifest.read_text(encoding="utf-8"))).sources
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False))
        raise StartupError(f"{manifest}: {'; '.join(wrong)}") from None
    except OSError as error:
        raise StartupError(f"{manifest}: {error.strerror}") from None
    except ValueError as error:
        raise StartupError(f"{manifest}: {error}") from None
    for source in sources:
        for pattern in source.files:
            paths = sorted(path for path in manifest.parent.glob(pattern) if path.is_file())
            if not paths:
                raise StartupError(f"{manifest}: no file is called {pattern!r}")
            yield from (Work(source, path) for path in paths)
