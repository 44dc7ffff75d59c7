"""A Llama of a few thousand random numbers, in 64 bits, so that gradients can be compared with differences."""

import numpy as np

from plugins.embedded_model.training.adapter import Adapter
from plugins.embedded_model.training.examples import Pair
from plugins.embedded_model.training.llama import Example, Llama

LAYERS, WIDTH, HEADS, KV_HEADS, INNER, VOCABULARY = 2, 12, 3, 1, 20, 17


def model() -> Llama:
    chance = np.random.default_rng(3)
    head = WIDTH // HEADS
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (WIDTH,),
            f"blk.{layer}.ffn_norm.weight": (WIDTH,),
            f"blk.{layer}.attn_q.weight": (WIDTH, WIDTH),
            f"blk.{layer}.attn_k.weight": (KV_HEADS * head, WIDTH),
            f"blk.{layer}.attn_v.weight": (KV_HEADS * head, WIDTH),
            f"blk.{layer}.attn_output.weight": (WIDTH, WIDTH),
            f"blk.{layer}.ffn_gate.weight": (INNER, WIDTH),
            f"blk.{layer}.ffn_up.weight": (INNER, WIDTH),
            f"blk.{layer}.ffn_down.weight": (WIDTH, INNER),
        }
    tensors = {name: chance.normal(0, 0.4, shape) for name, shape in shapes.items()}
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.embedding_length": WIDTH,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
    }
    return Llama(metadata, tensors)


def adapter(of: Llama, seed: int = 1, *, trained: bool = True) -> Adapter:
    """Return an adapter that changes something, unless it is not ``trained``."""
    made = Adapter.of(of.layers, of.tensors, seed)
    if trained:
        made.flat += np.random.default_rng(seed).normal(0, 0.1, made.flat.shape)
    return made


def examples(count: int, seed: int = 5) -> list[Example]:
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(chance.integers(4, 9))
        scored = chance.random(length) < 0.6
        scored[:1], scored[-1:] = False, True
        found.append(Example(chance.integers(0, VOCABULARY, length), scored))
    return found


def pairs(count: int) -> list[Pair]:
    return [Pair(*examples(2, seed=20 + number)) for number in range(count)]
