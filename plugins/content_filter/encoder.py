"""The second stage: a fine-tuned six-layer MiniLM in eight bits, cut in two so that most texts stop after three layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Halfway(NamedTuple):
    """A window after the third layer: what the upper half goes on from, and the logits per head so far."""

    hidden: Floats
    logits: Floats


class Encoder:
    """Runs one window a call, on the calling thread; safe to call from several threads.

    Windows are not batched: activations are quantised by call, so a neighbour in the batch would change a text's scores.

    Args:
        folder: Holds ``encoder_lower.onnx`` and ``encoder_upper.onnx``.
    """

    def __init__(self, folder: Path) -> None:
        # It reports its use to its maker unless told not to before it is imported: here nothing tells anybody anything.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        # Imported here: it takes a fifth of a second, and nothing but this class needs it.
        runtime = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The fused operator is five times slower than what it fuses.
        settings = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": ["SkipLayerNormFusion"]}
        self._lower, self._upper = (
            runtime.InferenceSession(str(folder / f"encoder_{half}.onnx"), options, **settings)
            for half in ("lower", "upper")
        )

    def lower(self, window: Sequence[int]) -> Halfway:
        """Run the lower half on at most 256 token ids, start and end included."""
        hidden, logits = self._lower.run(None, {"ids": np.array([window], np.int32)})
        return Halfway(hidden, logits[0])

    def upper(self, halfway: Halfway) -> Floats:
        """Return the final logits per head."""
        return np.asarray(self._upper.run(None, {"hidden": halfway.hidden})[0][0], np.float32)
