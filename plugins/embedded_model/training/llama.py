"""A Llama model and its gradient, in NumPy: forward and backward written out, for the adapter's weights alone.

Everything is in the file's own order of rows (rotary pairs side by side), so the adapter that comes out needs no
re-ordering. Sequences of a batch stand one after the other without padding, and attention looks at one at a time.
``tests/plugins/embedded_model/training`` compares the gradient with finite differences.

Source: Touvron et al. 2023 (the model); Hu et al. 2021 (low-rank adapters).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from plugins.embedded_model.training.adapter import Adapter
from plugins.embedded_model.training.tensors import Array, NotTrainable

_CHUNK = 256
"""Scored tokens that are projected on the vocabulary at once: 50 MB for 49,152 tokens."""
_RECOMPUTE = 512
"""Tokens in a batch from which on a layer is computed again on the way back, which takes a third longer and half the memory."""


@dataclass(frozen=True, slots=True)
class Example:
    """One text of a batch.

    Attributes:
        ids: Tokens.
        scored: Whether the model is to learn each of them; the first never is.
    """

    ids: Array
    scored: Array


class Score(NamedTuple):
    """What the model makes of the scored tokens of a batch, in their order.

    Attributes:
        log_probabilities: Of each, natural.
        correct: Whether it was the likeliest.
        lengths: Scored tokens of each sequence.
    """

    log_probabilities: Array
    correct: Array
    lengths: Sequence[int]


class _Places(NamedTuple):
    """Where the tokens of a batch are: rotations by position, and where sequences begin and end."""

    cos: Array
    sin: Array
    cuts: Sequence[int]


class _Layer(NamedTuple):
    """What the way back through a layer needs of the way there."""

    x: Array
    h: Array
    norm: Array
    low: Mapping[str, Array]
    attention: Sequence[tuple[Array, Array, Array, Array]]
    mixed: Array
    middle: Array
    h2: Array
    norm2: Array
    gate: Array
    up: Array
    sigmoid: Array
    product: Array


class Llama:
    """The frozen model. Arrays are of the dtype of ``tensors``.

    Raises:
        NotTrainable: Another architecture, or tensors are missing.
    """

    def __init__(self, metadata: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        if metadata.get("general.architecture") != "llama":
            raise NotTrainable("a model that is not of the llama architecture")
        self.tensors = tensors
        self.layers: int = metadata["llama.block_count"]
        self._heads: int = metadata["llama.attention.head_count"]
        self._kv_heads: int = metadata["llama.attention.head_count_kv"]
        self.width: int = metadata["llama.embedding_length"]
        self._head = self.width // self._heads
        self._epsilon: float = metadata["llama.attention.layer_norm_rms_epsilon"]
        self._theta: float = metadata["llama.rope.freq_base"]
        self._embedding = tensors["token_embd.weight"]
        self._output = tensors.get("output.weight", self._embedding)
        self.dtype = self._embedding.dtype

    def score(self, batch: Sequence[Example], adapter: Adapter) -> Score:
        """Return what the model makes of a batch, without a gradient."""
        ids, targets, places = self._laid_out(batch)
        x = self._embedding[ids]
        for layer in range(self.layers):
            x, _ = self._forward(layer, x, places, adapter)
        hidden, _ = self._normed("output_norm.weight", x)
        found = np.nonzero(targets >= 0)[0]
        logs, correct = self._projected(hidden[found], targets[found])
        return Score(logs, correct, self._lengths(targets, places))

    def learn(self, batch: Sequence[Example], weights: Array, adapter: Adapter) -> Score:
        """Add the gradient of ``sum(weights * log_probabilities)`` to the adapter's, and return the score.

        Args:
            weights: One for each scored token of the batch, in order.
        """
        ids, targets, places = self._laid_out(batch)
        again = len(ids) > _RECOMPUTE
        x = self._embedding[ids]
        kept: list[Array | _Layer] = []
        for layer in range(self.layers):
            y, inner = self._forward(layer, x, places, adapter)
            kept.append(x if again else inner)
            x = y
        hidden, norm = self._normed("output_norm.weight", x)
        found = np.nonzero(targets >= 0)[0]
        logs, correct, dfound = self._projected_back(hidden[found], targets[found], weights)
        dhidden = np.zeros_like(x)
        dhidden[found] = dfound
        dx = self._normed_back("output_norm.weight", x, norm, dhidden)
        for layer in reversed(range(self.layers)):
            held = kept.pop()
            inner = held if isinstance(held, _Layer) else self._forward(layer, held, places, adapter)[1]
            dx = self._backward(layer, dx, inner, places, adapter)
        return Score(logs, correct, self._lengths(targets, places))

    # --- a batch -----------------------------------------------------------------------------------------------------

    def _laid_out(self, batch: Sequence[Example]) -> tuple[Array, Array, _Places]:
        """Return the tokens one after the other, what each is to predict (-1: nothing that counts), and their places."""
        ids = np.concatenate([one.ids for one in batch])
        cuts = [0, *np.cumsum([len(one.ids) for one in batch]).tolist()]
        targets = np.full(len(ids), -1)
        for (start, end), one in zip(pairwise(cuts), batch, strict=True):
            targets[start : end - 1] = np.where(one.scored[1:], one.ids[1:], -1)
        positions = np.concatenate([np.arange(len(one.ids)) for one in batch])
        angles = positions[:, None] * (self._theta ** (-np.arange(0, self._head, 2) / self._head))[None]
        cos, sin = (turn(angles).astype(self.dtype)[:, None] for turn in (np.cos, np.sin))
        return ids, targets, _Places(cos, sin, cuts)

    @staticmethod
    def _lengths(targets: Array, places: _Places) -> list[int]:
        return [int((targets[start:end] >= 0).sum()) for start, end in pairwise(places.cuts)]

    # --- a layer -----------------------------------------------------------------------------------------------------

    def _forward(self, layer: int, x: Array, places: _Places, adapter: Adapter) -> tuple[Array, _Layer]:
        at, low = f"blk.{layer}.", {}

        def linear(name: str, value: Array) -> Array:
            made, low[name] = adapter.forward(at + name, value, self.tensors[f"{at}{name}.weight"])
            return made

        h, norm = self._normed(f"{at}attn_norm.weight", x)
        q, k, v = (linear(name, h) for name in ("attn_q", "attn_k", "attn_v"))
        mixed, attention = self._attend(q, k, v, places)
        middle = x + linear("attn_output", mixed)
        h2, norm2 = self._normed(f"{at}ffn_norm.weight", middle)
        gate, up = linear("ffn_gate", h2), linear("ffn_up", h2)
        sigmoid = 1 / (1 + np.exp(-gate))
        product = gate * sigmoid * up
        out = middle + linear("ffn_down", product)
        return out, _Layer(x, h, norm, low, attention, mixed, middle, h2, norm2, gate, up, sigmoid, product)

    def _backward(self, layer: int, dout: Array, inner: _Layer, places: _Places, adapter: Adapter) -> Array:
        at = f"blk.{layer}."

        def back(name: str, value: Array, dmade: Array) -> Array:
            return adapter.backward(at + name, value, inner.low[name], dmade, self.tensors[f"{at}{name}.weight"])

        dproduct = back("ffn_down", inner.product, dout)
        dup = dproduct * (inner.gate * inner.sigmoid)
        dgate = dproduct * inner.up * (inner.sigmoid * (1 + inner.gate * (1 - inner.sigmoid)))
        dh2 = back("ffn_gate", inner.h2, dgate) + back("ffn_up", inner.h2, dup)
        dmiddle = dout + self._normed_back(f"{at}ffn_norm.weight", inner.middle, inner.norm2, dh2)
        dq, dk, dv = self._attend_back(back("attn_output", inner.mixed, dmiddle), inner.attention, places)
        dh = back("attn_q", inner.h, dq) + back("attn_k", inner.h, dk) + back("attn_v", inner.h, dv)
        return np.asarray(dmiddle + self._normed_back(f"{at}attn_norm.weight", inner.x, inner.norm, dh))

    def _normed(self, name: str, x: Array) -> tuple[Array, Array]:
        norm = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + self.dtype.type(self._epsilon))
        return x * norm * self.tensors[name], norm

    def _normed_back(self, name: str, x: Array, norm: Array, dmade: Array) -> Array:
        scaled = dmade * self.tensors[name]
        return np.asarray(norm * scaled - x * norm**3 * (scaled * x).mean(-1, keepdims=True))

    # --- attention, one sequence at a time, heads grouped by the key that they share -------------------------------------

    def _attend(
        self, q: Array, k: Array, v: Array, places: _Places
    ) -> tuple[Array, list[tuple[Array, Array, Array, Array]]]:
        q, k = self._turned(q, self._heads, places), self._turned(k, self._kv_heads, places)
        v = v.reshape(len(v), self._kv_heads, self._head)
        mixed = np.empty_like(q)
        kept = []
        for start, end in pairwise(places.cuts):
            queries, keys, values = self._grouped(q[start:end]), _shared(k[start:end]), _shared(v[start:end])
            shares = queries @ keys.swapaxes(-1, -2)
            shares *= self._scale
            shares += np.triu(np.full((end - start, end - start), -1e9, self.dtype), 1)
            shares -= shares.max(-1, keepdims=True)
            np.exp(shares, out=shares)
            shares /= shares.sum(-1, keepdims=True)
            mixed[start:end] = self._ungrouped(shares @ values)
            kept.append((shares, queries, keys, values))
        return mixed.reshape(len(mixed), -1), kept

    def _attend_back(
        self, dmixed: Array, kept: Sequence[tuple[Array, Array, Array, Array]], places: _Places
    ) -> tuple[Array, Array, Array]:
        count = len(dmixed)
        dmixed = dmixed.reshape(count, self._heads, self._head)
        dq = np.empty_like(dmixed)
        dk, dv = (np.empty((count, self._kv_heads, self._head), self.dtype) for _ in range(2))
        for (start, end), (shares, queries, keys, values) in zip(pairwise(places.cuts), kept, strict=True):
            dout = self._grouped(dmixed[start:end])
            dv[start:end] = (shares.swapaxes(-1, -2) @ dout).sum(1).transpose(1, 0, 2)
            dshares = dout @ values.swapaxes(-1, -2)
            dshares -= (dshares * shares).sum(-1, keepdims=True)
            dshares *= shares
            dshares *= self._scale
            dq[start:end] = self._ungrouped(dshares @ keys)
            dk[start:end] = (dshares.swapaxes(-1, -2) @ queries).sum(1).transpose(1, 0, 2)
        back = _Places(places.cos, -places.sin, places.cuts)
        dq, dk = self._turned(dq, self._heads, back), self._turned(dk, self._kv_heads, back)
        return dq.reshape(count, -1), dk.reshape(count, -1), dv.reshape(count, -1)

    @property
    def _scale(self) -> Any:
        return self.dtype.type(self._head**-0.5)

    def _turned(self, x: Array, heads: int, places: _Places) -> Array:
        """Rotate each pair of numbers by its position."""
        x = x.reshape(len(x), heads, self._head)
        turned = np.empty_like(x)
        one, other = x[..., 0::2], x[..., 1::2]
        turned[..., 0::2] = one * places.cos - other * places.sin
        turned[..., 1::2] = one * places.sin + other * places.cos
        return turned

    def _grouped(self, x: Array) -> Array:
        """Return (tokens, heads, size) as (keys' heads, queries of each, tokens, size)."""
        return np.asarray(x.reshape(len(x), self._kv_heads, -1, self._head).transpose(1, 2, 0, 3))

    def _ungrouped(self, x: Array) -> Array:
        return np.asarray(x.transpose(2, 0, 1, 3).reshape(x.shape[2], self._heads, self._head))

    # --- the vocabulary ----------------------------------------------------------------------------------------------

    def _projected(self, hidden: Array, targets: Array) -> tuple[Array, Array]:
        logs, correct = np.empty(len(targets)), np.empty(len(targets), bool)
        for start in range(0, len(targets), _CHUNK):
            part = slice(start, start + _CHUNK)
            _, logs[part], correct[part] = self._chances(hidden[part], targets[part])
        return logs, correct

    def _projected_back(self, hidden: Array, targets: Array, weights: Array) -> tuple[Array, Array, Array]:
        logs, correct, dhidden = np.empty(len(targets)), np.empty(len(targets), bool), np.empty_like(hidden)
        for start in range(0, len(targets), _CHUNK):
            part = slice(start, start + _CHUNK)
            chances, logs[part], correct[part] = self._chances(hidden[part], targets[part])
            weight = weights[part].astype(self.dtype)[:, None]
            chances *= -weight
            chances[np.arange(len(chances)), targets[part]] += weight[:, 0]
            dhidden[part] = chances @ self._output
        return logs, correct, dhidden

    def _chances(self, hidden: Array, targets: Array) -> tuple[Array, Array, Array]:
        """Return each token's probability, the target's logarithm, and whether the target is the likeliest."""
        logits = hidden @ self._output.T
        correct = logits.argmax(1) == targets
        logits -= logits.max(1, keepdims=True)
        wanted = logits[np.arange(len(targets)), targets].copy()
        np.exp(logits, out=logits)
        total = logits.sum(1, keepdims=True)
        logits /= total
        return logits, wanted - np.log(total[:, 0]), correct


def _shared(x: Array) -> Array:
    """Return (tokens, heads, size) as (heads, 1, tokens, size)."""
    return np.asarray(x.transpose(1, 0, 2)[:, None])
