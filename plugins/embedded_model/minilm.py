"""all-MiniLM-L6-v2 in NumPy: a BERT of 6 layers, 12 heads and 384 dimensions, mean-pooled.

Each input goes through on its own, so its vector is the same, bit for bit, whatever it is sent together with. The weights
are mapped, not read: processes share them, and only what is used takes memory.

Source: Devlin et al., BERT (2019); the layout of ``model.safetensors`` is that of Hugging Face's ``BertModel``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.errors import StartupError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

DIMENSIONS = 384
POSITIONS = 512
_LAYERS, _HEADS = 6, 12
_EPSILON = 1e-12
log = logging.getLogger(__name__)


class MiniLM:
    """The loaded model."""

    def __init__(self, weights: Path) -> None:
        """Map the weights.

        Raises:
            StartupError: The file is not this model in 32-bit floats.
        """
        _one_blas_thread()
        self._tensors = _read_safetensors(weights)
        positions = self._tensors.get("embeddings.position_embeddings.weight")
        layers = {name.split(".")[2] for name in self._tensors if name.startswith("encoder.layer.")}
        if positions is None or positions.shape != (POSITIONS, DIMENSIONS) or len(layers) != _LAYERS:
            raise StartupError(f"embedding_weights: {weights} is not all-MiniLM-L6-v2")

    def embed(self, tokens: list[int], dimensions: int = DIMENSIONS) -> bytes:
        """Return the vector of one input.

        Args:
            tokens: With ``[CLS]`` and ``[SEP]``; 3 to 512.
            dimensions: The vector is cut to this length, then brought back to length 1.

        Returns:
            Little-endian float32, unit L2 norm.
        """
        import numpy as np

        x = self._embedded(tokens)
        for layer in range(_LAYERS):
            x = self._layer(x, f"encoder.layer.{layer}.")
        vector = x.mean(0)[:dimensions]
        return bytes((vector / np.linalg.norm(vector)).astype("<f4").tobytes())

    def _embedded(self, tokens: list[int]) -> Floats:
        word, position, kind = (
            self._tensors[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        return self._normalised(word[tokens] + position[: len(tokens)] + kind[0], "embeddings.LayerNorm")

    def _layer(self, x: Floats, name: str) -> Floats:
        x = self._normalised(x + self._attention(x, name + "attention."), name + "attention.output.LayerNorm")
        wide = _gelu(self._linear(x, name + "intermediate.dense"))
        return self._normalised(x + self._linear(wide, name + "output.dense"), name + "output.LayerNorm")

    def _attention(self, x: Floats, name: str) -> Floats:
        """Shapes: ``x`` (tokens, 384); queries, keys and values (heads, tokens, 32); scores (heads, tokens, tokens)."""
        import numpy as np

        length = len(x)
        query, key, value = (
            self._linear(x, f"{name}self.{part}").reshape(length, _HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(-1, -2) / np.float32(math.sqrt(DIMENSIONS / _HEADS))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return self._linear((scores @ value).transpose(1, 0, 2).reshape(length, DIMENSIONS), name + "output.dense")

    def _linear(self, x: Floats, name: str) -> Floats:
        result: Floats = x @ self._tensors[name + ".weight"].T + self._tensors[name + ".bias"]
        return result

    def _normalised(self, x: Floats, name: str) -> Floats:
        import numpy as np

        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + np.float32(_EPSILON))
        result: Floats = scaled * self._tensors[name + ".weight"] + self._tensors[name + ".bias"]
        return result


def _gelu(x: Floats) -> Floats:
    """Return x · Φ(x), with an error function of 1.5e-7. Source: Abramowitz and Stegun, 7.1.26."""
    import numpy as np

    z = np.abs(x) * np.float32(math.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    erf = np.copysign(1 - series * np.exp(-z * z), x)
    result: Floats = np.float32(0.5) * x * (1 + erf)
    return result


def _one_blas_thread() -> None:
    """Keep the linear algebra to one thread: inputs are small, and the chat model wants the cores.

    Its libraries read the setting once, when NumPy is imported. If another plugin was first, it is too late: vectors are the
    same from run to run as long as the number of cores is, and only speed suffers.
    """
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    elif os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        log.info("NumPy was imported before; set OPENBLAS_NUM_THREADS=1 in the app settings for one thread")


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Map a safetensors file: header length (u64) | header (JSON) | tensors. Source: huggingface/safetensors, README.md."""
    import numpy as np

    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError
            header: dict[str, Any] = json.loads(file.read(length))
        data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
        header.pop("__metadata__", None)
        return {name: _tensor(data, entry) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, struct.error, TypeError) as error:
        raise StartupError(f"embedding_weights: {path} cannot be read as safetensors") from error


def _tensor(data: Any, entry: dict[str, Any]) -> Any:
    start, end = entry["data_offsets"]
    kind = {"F32": "<f4", "I64": "<i8"}[entry["dtype"]]
    return data[start:end].view(kind).reshape(entry["shape"])
