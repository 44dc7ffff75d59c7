"""The encoder while it is trained: MiniLM's six layers with a set of classifier heads after the third and the sixth.

The layout of the weights is that of the safetensors file it starts from.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as f

WIDTH, HEADS_PER_LAYER, LAYERS, EXIT = 384, 12, 6, 3


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-12)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, HEADS_PER_LAYER, -1).permute(2, 0, 3, 1, 4)
        # Written out: on a CPU in bfloat16 the fused attention was ten times slower.
        share = (q @ k.transpose(2, 3) * (WIDTH // HEADS_PER_LAYER) ** -0.5 + mask.to(q.dtype)).softmax(3).to(v.dtype)
        x = self.norm1(x + self.out((share @ v).transpose(1, 2).reshape(batch, length, WIDTH)))
        return self.norm2(x + self.down(f.gelu(self.up(x))))


class Exit(nn.Module):
    """Scores per head: what a head attends to, and the mean of the text, both through one linear map."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(heads, WIDTH) * 0.02)
        self.weight = nn.Parameter(torch.randn(heads, WIDTH) * 0.02)
        self.mean = nn.Linear(WIDTH, heads)

    def forward(self, x: Tensor, mask: Tensor, dropout: float) -> Tensor:
        scores = (x @ self.query.T).float().masked_fill(~mask[..., None], -1e4)
        attended = scores.softmax(1).transpose(1, 2).to(x.dtype) @ x
        share = mask.to(x.dtype) / mask.sum(1, keepdim=True)
        mean = (share[:, None] @ x)[:, 0]
        attended = f.dropout(attended, dropout, self.training)
        return (attended * self.weight).sum(2).float() + self.mean(f.dropout(mean, dropout, self.training)).float()


class Encoder(nn.Module):
    """Token ids to logits per head, after each of the two exits."""

    def __init__(self, heads: int, vocabulary: int = 30522, positions: int = 512) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(positions, WIDTH)
        self.kind = nn.Parameter(torch.zeros(WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.exits = nn.ModuleList((Exit(heads), Exit(heads)))

    def forward(self, ids: Tensor, mask: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        x = self.words(ids) + self.positions.weight[: ids.shape[1]] + self.kind
        x = self.norm(x)
        attend = (~mask[:, None, None, :]).to(x.dtype) * -1e4
        logits = []
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, attend)
            if number in (EXIT, LAYERS):
                logits.append(self.exits[len(logits)](x, mask, dropout))
        return logits[0], logits[1]


def pretrained(path: Path, heads: int) -> Encoder:
    """Return the encoder with all-MiniLM-L6-v2's weights and fresh heads."""
    weights = load_file(path)
    model = Encoder(heads)
    with torch.no_grad():
        model.words.weight.copy_(weights["embeddings.word_embeddings.weight"])
        model.positions.weight.copy_(weights["embeddings.position_embeddings.weight"])
        model.kind.copy_(weights["embeddings.token_type_embeddings.weight"][0])
        _copy(model.norm, weights, "embeddings.LayerNorm")
        for number, layer in enumerate(model.layers):
            prefix = f"encoder.layer.{number}"
            parts = [f"{prefix}.attention.self.{part}" for part in ("query", "key", "value")]
            layer.qkv.weight.copy_(torch.cat([weights[f"{part}.weight"] for part in parts]))
            layer.qkv.bias.copy_(torch.cat([weights[f"{part}.bias"] for part in parts]))
            _copy(layer.out, weights, f"{prefix}.attention.output.dense")
            _copy(layer.norm1, weights, f"{prefix}.attention.output.LayerNorm")
            _copy(layer.up, weights, f"{prefix}.intermediate.dense")
            _copy(layer.down, weights, f"{prefix}.output.dense")
            _copy(layer.norm2, weights, f"{prefix}.output.LayerNorm")
    return model


def averaged(checkpoints: list[Path]) -> dict[str, Tensor]:
    """Return the mean of the weights of runs that set out from one checkpoint, which is better than either."""
    states = [torch.load(path)["model"] for path in checkpoints]
    return {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}


def _copy(module: nn.Linear | nn.LayerNorm, weights: dict[str, Tensor], name: str) -> None:
    module.weight.copy_(weights[f"{name}.weight"])
    module.bias.copy_(weights[f"{name}.bias"])
