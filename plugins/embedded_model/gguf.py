"""Read the metadata of a GGUF file: the model's shape, its tokenizer, its licence.

Layout: ``GGUF`` | version (u32) | tensor count (u64) | key count (u64) | keys and typed values | tensor table | tensors.
Only the keys are read. Source: ggml-org/ggml, docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from sluicegate.errors import StartupError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the file's keys and values; arrays become lists.

    Raises:
        StartupError: The file is missing, or is not GGUF version 2 or 3.
    """
    try:
        with path.open("rb") as file:
            magic, version, _, keys = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version not in (2, 3):
                raise StartupError(f"{path} is not a GGUF file of version 2 or 3")
            return {_string(file): _value(file, _scalar(file, "I")) for _ in range(keys)}
    except (OSError, struct.error, KeyError) as error:
        raise StartupError(f"{path} cannot be read as a GGUF file: {type(error).__name__}") from error


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalar(file, _SCALARS[kind])
    kind, length = _scalar(file, "I"), _scalar(file, "Q")
    if kind in _SCALARS:
        layout = f"<{length}{_SCALARS[kind]}"
        return list(struct.unpack(layout, file.read(struct.calcsize(layout))))
    return [_value(file, kind) for _ in range(length)]


def _string(file: BinaryIO) -> str:
    return file.read(_scalar(file, "Q")).decode("utf-8", errors="replace")


def _scalar(file: BinaryIO, code: str) -> Any:
    return struct.unpack("<" + code, file.read(struct.calcsize("<" + code)))[0]
