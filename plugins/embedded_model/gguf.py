"""Read and write GGUF files: the model's shape, its tokenizer, its licence, and where its tensors are.

Layout: ``GGUF`` | version (u32) | tensor count (u64) | key count (u64) | keys and typed values | tensor table | tensors.
Source: ggml-org/ggml, docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sluicegate.errors import StartupError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
_FLOAT16 = 1


class NotGguf(ValueError):
    """A file is not GGUF of version 2 or 3."""


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor is in its file.

    Attributes:
        shape: Rows first.
        kind: How numbers are stored, by ggml's number: 0 is float32, 1 float16, 3 Q4_1, 8 Q8_0.
        offset: In bytes, from the file's beginning.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the file's keys and values; arrays become lists.

    Raises:
        StartupError: The file is missing, or is not GGUF version 2 or 3.
    """
    try:
        with path.open("rb") as file:
            return _keys(file)[0]
    except NotGguf as error:
        raise StartupError(f"{path} is not a GGUF file of version 2 or 3") from error
    except (OSError, struct.error, KeyError) as error:
        raise StartupError(f"{path} cannot be read as a GGUF file: {type(error).__name__}") from error


def read_tensors(file: BinaryIO) -> tuple[dict[str, Any], dict[str, TensorPlace]]:
    """Return a file's keys and values, and where each of its tensors is.

    Raises:
        NotGguf, KeyError, struct.error: It is not GGUF version 2 or 3, or ends early.
    """
    metadata, count = _keys(file)
    table = [(_string(file), _shape(file), _scalar(file, "I"), _scalar(file, "Q")) for _ in range(count)]
    start = _aligned(file.tell(), metadata.get("general.alignment", _ALIGNMENT))
    return metadata, {name: TensorPlace(shape, kind, start + offset) for name, shape, kind, offset in table}


def written(metadata: Mapping[str, str | int | float], tensors: Mapping[str, NDArray[np.float16]]) -> bytes:
    """Return a GGUF file, version 3, of 16-bit tensors."""
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [_text(key), _typed(value)]
    offset = 0
    for name, tensor in tensors.items():
        head += [_text(name), struct.pack(f"<I{tensor.ndim}QIQ", tensor.ndim, *tensor.shape[::-1], _FLOAT16, offset)]
        offset += _aligned(tensor.nbytes, _ALIGNMENT)
    parts = [b"".join(head), *(tensor.tobytes() for tensor in tensors.values())]
    return b"".join(part.ljust(_aligned(len(part), _ALIGNMENT), b"\0") for part in parts)


def _keys(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return the keys and values, and how many tensors there are."""
    magic, version, tensors, keys = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        raise NotGguf
    return {_string(file): _value(file, _scalar(file, "I")) for _ in range(keys)}, tensors


def _shape(file: BinaryIO) -> tuple[int, ...]:
    return tuple(_scalar(file, "Q") for _ in range(_scalar(file, "I")))[::-1]


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _typed(value: str | int | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


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
