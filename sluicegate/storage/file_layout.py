"""Where large files are kept.

::

    key service  files                                                     wraps the files' data keys
    container    file-heads       {account}/{kind}/{file}                  wrapped data key and shape
    container    file-segments    {account}/{kind}/{file}/{kid}/{n:08x}    segments
    container    file-changes     {day}/{account}/{kind}/{file}/{kid}      what began on a day and has not ended

:mod:`sluicegate.storage.segments` says what is in heads and segments; a change is an empty blob. Days are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.services import check_names
from sluicegate.storage.segments import FilePlace

KEY_NAME = "files"
HEADS = "file-heads"
SEGMENTS = "file-segments"
CHANGES = "file-changes"


@dataclass(frozen=True, slots=True)
class Folder:
    """The names that belong to one account's files of one kind."""

    account: str
    kind: str

    def __post_init__(self) -> None:
        check_names(HEADS, f"{self.account}/{self.kind}")
        if "/" in self.account + self.kind:
            raise ValueError("an account's and a kind's name are one segment each")

    @property
    def prefix(self) -> str:
        """What the names of its heads begin with."""
        return f"{self.account}/{self.kind}/"

    def head(self, file: str) -> str:
        """Return the name of a file's head; ``ValueError`` unless its id is one segment of a name."""
        check_names(HEADS, self.prefix + file)
        if "/" in file:
            raise ValueError("a file's id is one segment of a name")
        return self.prefix + file

    def place(self, file: str, kid: str) -> FilePlace:
        """Return where segments belong that are sealed under a data key."""
        return FilePlace(self.account, self.kind, file, kid)

    def segments(self, file: str, kid: str = "") -> str:
        """Return what the names of a file's segments begin with, of one data key or of all."""
        return f"{self.prefix}{file}/{kid and kid + '/'}"

    def segment(self, file: str, kid: str, number: int) -> str:
        """Return a segment's name."""
        return f"{self.prefix}{file}/{kid}/{number:08x}"

    def change(self, day: str, file: str, kid: str) -> str:
        """Return the name of a note that something was begun."""
        return f"{day}/{self.prefix}{file}/{kid}"
