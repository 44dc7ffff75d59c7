"""Turn shipped eight-bit graphs back into a checkpoint to train on from; layers that were frozen come from the base, exactly."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from training.content_filter.data import HEADS
from training.content_filter.network import pretrained


def restore(folder: Path, base: Path, frozen: int) -> dict[str, torch.Tensor]:
    """Return the weights of the graphs in ``folder``, to the precision of seven bits."""
    weights = pretrained(base, len(HEADS)).state_dict()
    kept = ("words.", "positions.", "norm.", "kind", *(f"layers.{number}." for number in range(frozen)))
    for half in ("lower", "upper"):
        graph = onnx.load(folder / f"encoder_{half}.onnx").graph
        found = {each.name: numpy_helper.to_array(each).astype(np.float32) for each in graph.initializer}
        for stored, value in found.items():
            name = stored.removesuffix("_quantized")
            if name not in weights or name.startswith(kept):
                continue
            quantised = stored != name
            exact = (value - found[f"{name}_zero_point"]) * found[f"{name}_scale"] if quantised else value
            # What graphs multiply by, they store the other way round.
            turned = quantised or name.endswith((".query", ".mean.weight"))
            weights[name] = torch.from_numpy(np.ascontiguousarray(exact.T if turned else exact))
    return weights


def main() -> None:
    """Read the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the shipped weights")
    parser.add_argument("--base", type=Path, required=True, help="folder with model.safetensors")
    parser.add_argument("--frozen", type=int, default=0, help="lowest layers that were not trained")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    weights = restore(arguments.weights, arguments.base / "model.safetensors", arguments.frozen)
    torch.save({"model": weights}, arguments.out)


if __name__ == "__main__":
    main()
