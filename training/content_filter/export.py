"""Write the trained encoder as two ONNX graphs in eight bits: embeddings to layer three, and layer four to six."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from training.content_filter.data import HEADS
from training.content_filter.network import EXIT, HEADS_PER_LAYER, LAYERS, WIDTH, averaged

MICROSOFT = "com.microsoft"
LONGEST = 258


class Graph:
    """Collects the nodes and weights of one graph."""

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a constant once, and return its name."""
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, name: str, *, transpose: bool = False) -> str:
        """Add a trained weight; linear layers are stored the other way round."""
        value = self.weights[name]
        return self.constant(name, value.T if transpose else value)

    def add(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: float | list[int]) -> str:
        """Add a node, and return the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], output, domain=domain, **attributes))
        return output

    def save(self, path: Path, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
        """Write the graph in eight bits; classifier heads stay in 32."""
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        whole = path.with_suffix(".float")
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), whole)
        exact = [node.name for node in self.nodes if node.name.startswith("exit")]
        # Seven bits a weight: with eight, processors without VNNI saturate and give other scores.
        quantize_dynamic(
            whole,
            path,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Attention"],
            nodes_to_exclude=exact,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
        )
        whole.unlink()


def embed(graph: Graph) -> str:
    """Add the embeddings: words in eight bits with a scale each, and positions with the token type added."""
    words = graph.weights["words.weight"]
    scale = np.maximum(np.abs(words).max(1, keepdims=True), 1e-9) / 127
    table = graph.constant("words", np.rint(words / scale).astype(np.int8))
    graph.add("Gather", [table, "ids"], "word_codes")
    graph.add("Cast", ["word_codes"], "word_numbers", to=TensorProto.FLOAT)
    graph.add("Gather", [graph.constant("word_scale", scale.astype(np.float32)), "ids"], "word_scales")
    graph.add("Mul", ["word_numbers", "word_scales"], "word_vectors")
    places = graph.weights["positions.weight"][:LONGEST] + graph.weights["kind"]
    graph.add("Shape", ["ids"], "shape")
    graph.add("Gather", ["shape", graph.constant("one", np.array([1]))], "length")
    zero = graph.constant("zero", np.array([0]))
    graph.add("Slice", [graph.constant("places", places), zero, "length", zero], "place_vectors")
    graph.add("Add", ["word_vectors", "place_vectors"], "embedded")
    norm = [graph.weight("norm.weight"), graph.weight("norm.bias")]
    return graph.add("LayerNormalization", ["embedded", *norm], "hidden0", axis=-1, epsilon=1e-12)


def layer(graph: Graph, x: str, number: int) -> str:
    """Add one transformer layer."""
    name = f"layers.{number}"

    def linear(part: str) -> list[str]:
        return [graph.weight(f"{name}.{part}.weight", transpose=True), graph.weight(f"{name}.{part}.bias")]

    # Not SkipLayerNormalization, which took 0.19 ms where these three nodes take 0.04.
    def skip(part: str, y: str, bias: str, before: str, output: str) -> str:
        graph.add("Add", [y, bias], f"{name}.{part}.biased")
        graph.add("Add", [f"{name}.{part}.biased", before], f"{name}.{part}.sum")
        norm = [graph.weight(f"{name}.{part}.weight"), graph.weight(f"{name}.{part}.bias")]
        return graph.add("LayerNormalization", [f"{name}.{part}.sum", *norm], output, axis=-1, epsilon=1e-12)

    qkv, out, up, down = (linear(part) for part in ("qkv", "out", "up", "down"))
    attended = graph.add("Attention", [x, *qkv], f"{name}.attended", MICROSOFT, num_heads=HEADS_PER_LAYER)
    projected = graph.add("MatMul", [attended, out[0]], f"{name}.projected")
    x = skip("norm1", projected, out[1], x, f"{name}.middle")
    wide = graph.add("MatMul", [x, up[0]], f"{name}.wide")
    active = graph.add("BiasGelu", [wide, up[1]], f"{name}.active", MICROSOFT)
    narrow = graph.add("MatMul", [active, down[0]], f"{name}.narrow")
    return skip("norm2", narrow, down[1], x, f"hidden{number + 1}")


def leave(graph: Graph, x: str, number: int) -> str:
    """Add a set of classifier heads."""
    name = f"exits.{number}"
    graph.add("MatMul", [x, graph.weight(f"{name}.query", transpose=True)], "exit_scores")
    graph.add("Softmax", ["exit_scores"], "exit_shares", axis=1)
    graph.add("Transpose", ["exit_shares"], "exit_turned", perm=[0, 2, 1])
    graph.add("MatMul", ["exit_turned", x], "exit_attended")
    graph.add("Mul", ["exit_attended", graph.weight(f"{name}.weight")], "exit_weighted")
    graph.add("ReduceSum", ["exit_weighted", graph.constant("last", np.array([2]))], "exit_local", keepdims=0)
    graph.add("ReduceMean", [x], "exit_mean", axes=[1], keepdims=0)
    graph.add("MatMul", ["exit_mean", graph.weight(f"{name}.mean.weight", transpose=True)], "exit_global")
    graph.add("Add", ["exit_global", graph.weight(f"{name}.mean.bias")], "exit_biased")
    return graph.add("Add", ["exit_local", "exit_biased"], "logits")


def export(checkpoints: list[Path], folder: Path) -> None:
    """Write both halves of the checkpoints' mean into ``folder``."""
    weights = {name: value.numpy() for name, value in averaged(checkpoints).items()}
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, [1, "tokens"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(HEADS)])
    lower = Graph(weights)
    x = embed(lower)
    for number in range(EXIT):
        x = layer(lower, x, number)
    middle = helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, "tokens", WIDTH])
    leave(lower, x, 0)
    lower.save(folder / "encoder_lower.onnx", [ids], [middle, logits])
    upper = Graph(weights)
    middle = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1, "tokens", WIDTH])
    x = "hidden"
    for number in range(EXIT, LAYERS):
        x = layer(upper, x, number)
    leave(upper, x, 1)
    upper.save(folder / "encoder_upper.onnx", [middle], [logits])


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.out)


if __name__ == "__main__":
    main()
