"""A low-rank adapter: two thin matrices beside each of the model's, their gradients, and Adam.

All its numbers are one flat vector, ``A`` then ``B`` of each matrix in the model's order; that is what is saved between two
steps of a job. ``B`` begins at zero, so an untrained adapter changes nothing.

Source: Hu et al. 2021; Loshchilov and Hutter 2019 (here without decay).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from plugins.embedded_model.gguf import written
from plugins.embedded_model.training.tensors import Array, NotTrainable, parse_tensors

TARGETS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
RANK, ALPHA = 8, 16.0
_BETAS, _EPSILON, _CLIP = (0.9, 0.999), 1e-8, 1.0


class Adapter:
    """The matrices beside those of a model.

    Args:
        shapes: Of each matrix of the model that gets one, by its name without ``.weight``: (out, in).
        seed: Of the first numbers of ``A``.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], seed: int, dtype: DTypeLike = np.float32) -> None:
        self._shapes = {name: (int(shape[0]), int(shape[1])) for name, shape in shapes.items()}
        self.flat = np.zeros(sum(RANK * (out + into) for out, into in self._shapes.values()), dtype)
        self.gradient = np.zeros_like(self.flat)
        self._scale = self.flat.dtype.type(ALPHA / RANK)
        self._pairs = dict(self._views(self.flat))
        self._gradients = dict(self._views(self.gradient))
        chance = np.random.default_rng(seed)
        for name, (a, _) in self._pairs.items():
            bound = 1 / math.sqrt(self._shapes[name][1])
            a[:] = chance.uniform(-bound, bound, a.shape)

    @classmethod
    def of(cls, layers: int, tensors: Mapping[str, Array], seed: int) -> Adapter:
        """Return an untrained adapter of a model."""
        names = [f"blk.{layer}.{target}" for layer in range(layers) for target in TARGETS]
        shapes = {name: tensors[f"{name}.weight"].shape for name in names}
        return cls(shapes, seed, tensors["token_embd.weight"].dtype)

    def forward(self, name: str, x: Array, weight: Array) -> tuple[Array, Array]:
        """Return what a matrix and its adapter make of ``x``, and what comes between the adapter's two."""
        a, b = self._pairs[name]
        low = x @ a.T
        made = x @ weight.T
        made += (low * self._scale) @ b.T
        return made, low

    def backward(self, name: str, x: Array, low: Array, dmade: Array, weight: Array) -> Array:
        """Add to the gradient; return that of ``x``."""
        a, b = self._pairs[name]
        da, db = self._gradients[name]
        dlow = (dmade @ b) * self._scale
        db += dmade.T @ (low * self._scale)
        da += dlow.T @ x
        dx = dmade @ weight
        dx += dlow @ a
        return np.asarray(dx)

    def file(self, architecture: str) -> bytes:
        """Return it as the file that the runtime loads: GGUF, 16 bits a number."""
        metadata: dict[str, Any] = {
            "general.type": "adapter",
            "general.architecture": architecture,
            "adapter.type": "lora",
            "adapter.lora.alpha": ALPHA,
        }
        tensors = {
            f"{name}.weight.lora_{which}": matrix.astype(np.float16)
            for name, pair in self._pairs.items()
            for which, matrix in zip("ab", pair, strict=True)
        }
        return written(metadata, tensors)

    def read(self, data: bytes) -> None:
        """Take the numbers of such a file.

        Raises:
            NotTrainable: It is an adapter of another model, or of another rank.
        """
        metadata, tensors = parse_tensors(data)
        if metadata.get("adapter.lora.alpha") != ALPHA:
            raise NotTrainable("the weights to go on from are of another kind")
        for name, pair in self._pairs.items():
            for which, matrix in zip("ab", pair, strict=True):
                found = tensors.get(f"{name}.weight.lora_{which}")
                if found is None or found.shape != matrix.shape:
                    raise NotTrainable("the weights to go on from are of another model")
                matrix[:] = found

    def _views(self, flat: Array) -> Iterator[tuple[str, tuple[Array, Array]]]:
        place = 0
        for name, (out, into) in self._shapes.items():
            a = flat[place : place + RANK * into].reshape(RANK, into)
            place += RANK * into
            b = flat[place : place + out * RANK].reshape(out, RANK)
            place += out * RANK
            yield name, (a, b)


class Adam:
    """Its optimiser: a running mean of gradients, and one of their squares.

    Attributes:
        count: Steps taken.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self.mean = np.zeros_like(adapter.flat)
        self.square = np.zeros_like(adapter.flat)
        self.count = 0

    def step(self, rate: float) -> None:
        """Change the adapter by its gradient, whose length counts as 1 at most, and clear that."""
        gradient = self._adapter.gradient
        length = float(np.sqrt(np.square(gradient, dtype=np.float64).sum()))
        if length > _CLIP:
            gradient *= gradient.dtype.type(_CLIP / length)
        self.count += 1
        first, second = _BETAS
        self.mean += (1 - first) * (gradient - self.mean)
        self.square += (1 - second) * (gradient * gradient - self.square)
        mean, square = self.mean / (1 - first**self.count), self.square / (1 - second**self.count)
        self._adapter.flat -= (rate * mean / (np.sqrt(square) + _EPSILON)).astype(gradient.dtype)
        gradient[:] = 0
