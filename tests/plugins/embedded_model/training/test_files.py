"""GGUF files, read and written: the model's numbers, and adapters."""

import struct

import numpy as np
import pytest

from plugins.embedded_model.gguf import written
from plugins.embedded_model.training.tensors import NotTrainable, load_tensors, parse_tensors
from tests.plugins.embedded_model.training import tiny


def half(number):
    return np.float16(number).tobytes()


@pytest.mark.parametrize(
    ("kind", "block", "expected"),
    [
        (0, np.arange(32, dtype=np.float32).tobytes(), np.arange(32)),
        (1, np.arange(32, dtype=np.float16).tobytes(), np.arange(32)),
        (2, half(0.5) + bytes([0x1F] * 16), [0.5 * (15 - 8)] * 16 + [0.5 * (1 - 8)] * 16),
        (3, half(0.5) + half(-1) + bytes([0x1F] * 16), [0.5 * 15 - 1] * 16 + [0.5 - 1] * 16),
        (8, half(0.25) + np.arange(-16, 16, dtype=np.int8).tobytes(), 0.25 * np.arange(-16, 16)),
    ],
    ids=["F32", "F16", "Q4_0", "Q4_1", "Q8_0"],
)
def test_how_numbers_are_stored(tmp_path, kind, block, expected):
    name = b"t"
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0)
    head += struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 32, kind, 0)
    path = tmp_path / "model.gguf"
    path.write_bytes(head.ljust(-(-len(head) // 32) * 32, b"\0") + block)

    _, tensors = load_tensors(path)

    assert tensors["t"].tolist() == pytest.approx(list(expected))


def test_numbers_that_are_not_known_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(
        struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 32, 30, 0)
    )

    with pytest.raises(NotTrainable):
        load_tensors(path)


def test_an_adapter_goes_on_from_its_file():
    model = tiny.model()
    trained, other = tiny.adapter(model), tiny.adapter(model, 2)

    other.read(trained.file("llama"))

    assert other.flat == pytest.approx(trained.flat, abs=1e-3)


def test_what_the_runtime_wants_of_an_adapter():
    metadata, tensors = parse_tensors(tiny.adapter(tiny.model()).file("llama"))

    assert metadata == {
        "general.type": "adapter",
        "general.architecture": "llama",
        "adapter.type": "lora",
        "adapter.lora.alpha": 16.0,
    }
    assert tensors["blk.1.ffn_down.weight.lora_a"].shape == (8, 20)
    assert tensors["blk.1.ffn_down.weight.lora_b"].shape == (12, 8)
    assert len(tensors) == 2 * 7 * tiny.LAYERS


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", written({"adapter.lora.alpha": 8.0}, {}), written({"adapter.lora.alpha": 16.0}, {})],
    ids=["empty", "other", "another scale", "another model"],
)
def test_what_is_no_adapter_of_this_model_is_refused(data):
    with pytest.raises(NotTrainable):
        tiny.adapter(tiny.model()).read(data)
