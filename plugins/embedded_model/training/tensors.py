"""Read a GGUF file's tensors as arrays: 32 or 16 bits a number, or in blocks of 4 or 8 bits.

Layout of a block of 32 numbers: Q8_0 is scale (f16) | 32 x i8; Q4_0 is scale (f16) | 16 bytes, low halves first, each less 8;
Q4_1 is scale (f16) | least (f16) | 16 bytes. Source: ggml-org/ggml, src/ggml-common.h.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from plugins.embedded_model.gguf import TensorPlace, read_tensors

Array = NDArray[Any]
_FLOAT32, _FLOAT16, _Q4_0, _Q4_1, _Q8_0 = 0, 1, 2, 3, 8
_BLOCK = {_FLOAT32: (1, 4), _FLOAT16: (1, 2), _Q4_0: (32, 18), _Q4_1: (32, 20), _Q8_0: (32, 34)}
"""Numbers in a block, and its bytes."""


class NotTrainable(Exception):
    """The model's file holds something that training does not know."""


def load_tensors(path: Path, dtype: DTypeLike = np.float32) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a model's keys and values, and its tensors: four bytes a number, so 540 MB for SmolLM2-135M.

    Raises:
        NotTrainable: A tensor is stored in a way that is not known here.
        OSError, ValueError, struct.error: The file cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        metadata, places = read_tensors(file)
        return metadata, {name: _array(mapped, place).astype(dtype, copy=False) for name, place in places.items()}


def parse_tensors(data: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the same of a file that is in memory, such as an adapter.

    Raises:
        NotTrainable: It is not such a file.
    """
    try:
        metadata, places = read_tensors(io.BytesIO(data))
        return metadata, {name: _array(data, place) for name, place in places.items()}
    except (ValueError, KeyError, struct.error) as error:
        raise NotTrainable("the weights to go on from are not an adapter") from error


def _array(data: bytes | mmap.mmap, place: TensorPlace) -> Array:
    if place.kind not in _BLOCK:
        raise NotTrainable(f"a tensor of ggml's type {place.kind}")
    numbers, size = _BLOCK[place.kind]
    stored = data[place.offset : place.offset + math.prod(place.shape) // numbers * size]
    return _numbers(stored, place.kind).reshape(place.shape)


def _numbers(stored: bytes, kind: int) -> Array:
    if kind == _FLOAT32:
        return np.frombuffer(stored, np.float32).copy()
    if kind == _FLOAT16:
        return np.frombuffer(stored, np.float16).astype(np.float32)
    blocks = np.frombuffer(stored, np.uint8).reshape(-1, _BLOCK[kind][1])
    scale = _half(blocks, 0)
    if kind == _Q8_0:
        return np.asarray(scale * blocks[:, 2:].view(np.int8)).ravel()
    packed = blocks[:, 2:] if kind == _Q4_0 else blocks[:, 4:]
    levels = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
    least = -8 * scale if kind == _Q4_0 else _half(blocks, 2)
    return np.asarray(scale * levels + least).ravel()


def _half(blocks: Array, at: int) -> Array:
    return np.asarray(blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32))
