"""Fine-tune the encoder on the pool and the written texts; interrupt it at any time and run the same command again.

A checkpoint is written every few minutes. The first stage leaves out the sources in ``data.UNSEEN``, the second has all.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as f

from plugins.content_filter.normalise import normalise
from plugins.content_filter.wordpiece import WordPiece
from training.content_filter.data import HEADS, TRUSTED, UNSEEN, Row, rows, written
from training.content_filter.network import Encoder, averaged, pretrained

WINDOW, LONG_WINDOW = 104, 160
LONGEST = 600
HEAD_WEIGHT = torch.tensor([1.0, 1.2, 0.4, 1.5, 1.5, 2.0, 1.5, 1.5])
POSITIVE_WEIGHT = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 1.5, 1.0])
# Heads whose labels in the pool were mostly found by word lists, and the logit above which a 0 of theirs is not believed.
LISTED = torch.tensor([head in ("sexual", "violence", "selfharm") for head in HEADS])
DOUBT = 1.0
SECONDS_BETWEEN_CHECKPOINTS = 180


@dataclass(frozen=True)
class Examples:
    """Tokenised rows: ids, labels (-1 unknown), weights, and whether somebody wrote or read them for their labels."""

    ids: list[list[int]]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    trusted: NDArray[np.bool_]


class Shown(NamedTuple):
    """One text as one epoch shows it."""

    ids: list[int]
    labels: NDArray[np.float32]
    weight: float
    trusted: bool


def tokenise(found: list[Row], vocabulary: Path, cache: Path | None) -> Examples:
    """Return the rows as token ids, each head's label or -1, and loss weights; token ids come from the cache if it is there."""
    if cache and cache.exists():
        ids = torch.load(cache)
    else:
        tokeniser = WordPiece(vocabulary.read_text(encoding="utf-8").rstrip("\n").split("\n"))
        ids = [tokeniser.encode(normalise(row.text, tokeniser.words))[:LONGEST] for row in found]
        if cache:
            torch.save(ids, cache)
    labels = np.array([[row.labels.get(head, -1) for head in HEADS] for row in found], np.float32)
    trusted = np.array([row.source.startswith("written") or row.source in TRUSTED for row in found])
    return Examples(ids, labels, np.array([row.weight for row in found], np.float32), trusted)


def batches(shown: list[Shown], tokens: int, chance: np.random.Generator) -> list[list[Shown]]:
    """Cut an epoch into batches of similar length and at most ``tokens`` padded tokens, themselves in random order."""
    length = np.array([len(each.ids) for each in shown])
    found: list[list[Shown]] = [[]]
    for place in np.argsort(length + chance.random(len(shown)) * 6, kind="stable"):
        longest = max([len(shown[place].ids), *(len(each.ids) for each in found[-1][-1:])]) + 8
        if found[-1] and ((len(found[-1]) + 1) * longest > tokens or len(found[-1]) >= 128):
            found.append([])
        found[-1].append(shown[place])
    chance.shuffle(found)
    return found


def padded(windows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return ids between [CLS] and [SEP], padded, and the mask of what is text."""
    longest = max(map(len, windows)) + 2
    ids = torch.zeros(len(windows), longest, dtype=torch.long)
    mask = torch.zeros(len(windows), longest, dtype=torch.bool)
    for row, window in enumerate(windows):
        ids[row, : len(window) + 2] = torch.tensor([101, *window, 102])
        mask[row, : len(window) + 2] = True
    return ids, mask


def epoch(examples: Examples, picked: NDArray[np.int64], share: float, chance: np.random.Generator) -> list[Shown]:
    """Return what is shown of the picked rows: a window of each, in ``share`` of the cases beside a benign text.

    So that one bad sentence counts among harmless ones. A head is 0 only where it is 0 for both texts.
    """
    benign = np.flatnonzero((examples.labels <= 0).all(1) & (examples.labels[:, 0] == 0))
    found = []
    for row in picked:
        labels = examples.labels[row]
        ids = window(examples.ids[row], labels, chance)
        if len(ids) <= WINDOW * 2 // 3 and chance.random() < share:
            other = chance.choice(benign)
            more = examples.ids[other][: min(WINDOW - len(ids), 12 + int(chance.integers(40)))]
            labels = np.where((labels == 0) & (examples.labels[other] != 0), -1, labels).astype(np.float32)
            ids = ids + more if chance.random() < 0.5 else more + ids
        found.append(Shown(ids, labels, float(examples.weights[row]), bool(examples.trusted[row])))
    return found


def window(ids: list[int], labels: NDArray[np.float32], chance: np.random.Generator) -> list[int]:
    """Return the part of a text that is shown this time: more of documents, and of others now and then a later part."""
    size = LONG_WINDOW if labels[7] >= 0 else WINDOW
    start = int(chance.integers(len(ids) - size + 1)) if len(ids) > size and chance.random() < 0.4 else 0
    return ids[start : start + size]


def loss_of(logits: Tensor, labels: Tensor, weights: Tensor, trusted: Tensor) -> Tensor:
    """Return the masked, weighted binary cross-entropy.

    A 0 that only says that no word list fired counts for nothing where the model is sure of the opposite: on validation rows
    most of those were mistakes of the list.
    """
    doubted = LISTED & ~trusted[:, None] & (labels == 0) & (logits.detach() > DOUBT)
    known = ((labels >= 0) & ~doubted).float() * HEAD_WEIGHT * weights[:, None]
    smooth = labels.clamp(0, 1) * 0.96 + 0.02
    each = f.binary_cross_entropy_with_logits(logits, smooth, pos_weight=POSITIVE_WEIGHT, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1.0)


def parameter_groups(model: Encoder, rate: float, frozen: int) -> list[dict[str, object]]:
    """Freeze the embeddings and the lowest layers; let lower layers move less than upper ones, and the heads most."""
    for part in (model.words, model.positions, model.norm, *model.layers[:frozen]):
        part.requires_grad_(False)
    model.kind.requires_grad_(False)
    groups: list[dict[str, object]] = [
        {"params": list(model.exits.parameters()), "peak": rate * 8, "weight_decay": 0.01}
    ]
    for number, layer in enumerate(model.layers[frozen:], frozen):
        groups.append({"params": list(layer.parameters()), "peak": rate * 0.85 ** (5 - number), "weight_decay": 0.01})
    return groups


def sample(
    found: list[Row], labels: NDArray[np.float32], largest: int, chance: np.random.Generator
) -> NDArray[np.int64]:
    """Return one epoch's rows: big sources are thinned, the pool's rare positives come twice."""
    sources: dict[str, int] = {}
    for row in found:
        sources[row.source] = sources.get(row.source, 0) + 1
    share = np.array([min(1.0, (largest / sources[row.source]) ** 0.5) for row in found])
    rare = (labels[:, 3:7] == 1).any(1) & np.array([not row.source.startswith("written") for row in found])
    picked = np.flatnonzero(chance.random(len(found)) < np.where(rare, 1.0, share))
    return np.concatenate([picked, np.flatnonzero(rare)])


def train(arguments: argparse.Namespace) -> None:
    """Run one stage to its end, from its checkpoint if there is one."""
    found = [row for row in rows(arguments.pool, "train") if arguments.stage > 1 or row.source not in UNSEEN]
    if arguments.written:
        found += list(written(arguments.written, "train"))
    examples = tokenise(found, arguments.base / "vocab.txt", arguments.cache)
    model = pretrained(arguments.base / "model.safetensors", len(HEADS))
    if arguments.start:
        model.load_state_dict(averaged(arguments.start))
    optimiser = torch.optim.AdamW(parameter_groups(model, arguments.rate, arguments.frozen), lr=0.0, betas=(0.9, 0.98))
    state = {"epoch": 0, "step": 0, "batch": 0}
    if arguments.out.exists():
        saved = torch.load(arguments.out)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        state = saved["state"]
    run_epochs(arguments, model, optimiser, found, examples, state)


def run_epochs(
    arguments: argparse.Namespace,
    model: Encoder,
    optimiser: torch.optim.Optimizer,
    found: list[Row],
    examples: Examples,
    state: dict[str, int],
) -> None:
    """Train epoch by epoch; an epoch's order depends on the seed and its number only."""
    model.train()
    saved_at = logged_at = time.monotonic()
    total = 0
    mean = 0.0
    for number in range(state["epoch"], arguments.epochs):
        chance = np.random.default_rng(arguments.seed + number)
        torch.manual_seed(arguments.seed + number)
        picked = sample(found, examples.labels, arguments.largest, chance)
        plan = batches(epoch(examples, picked, arguments.join, chance), arguments.tokens, chance)
        total = total or arguments.steps or len(plan) * arguments.epochs
        for place, batch in enumerate(plan):
            if place < state["batch"] or state["step"] >= total:
                continue
            schedule(optimiser, state["step"], total)
            mean = 0.98 * mean + 0.02 * step(model, optimiser, batch, arguments.dropout)
            state = {"epoch": number, "step": state["step"] + 1, "batch": place + 1}
            if state["step"] % 20 == 0:
                rate = 20 / (time.monotonic() - logged_at)
                logged_at = time.monotonic()
                print(f"epoch {number} step {state['step']}/{total} loss {mean:.4f} {rate:.2f} steps/s", flush=True)
            if time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS:
                save(arguments.out, model, optimiser, state)
                saved_at = time.monotonic()
        state = {"epoch": number + 1, "step": state["step"], "batch": 0}
    save(arguments.out, model, optimiser, state)
    print("done", flush=True)


def schedule(optimiser: torch.optim.Optimizer, step: int, total: int) -> None:
    """Warm up over 4 % of the steps, then fall to a twentieth along a cosine."""
    warm = min(1.0, (step + 1) / (0.04 * total))
    factor = warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def step(model: Encoder, optimiser: torch.optim.Optimizer, batch: list[Shown], dropout: float) -> float:
    """Take one optimiser step; the early exit learns from the labels and from the last layer."""
    ids, mask = padded([each.ids for each in batch])
    labels = torch.from_numpy(np.stack([each.labels for each in batch]))
    weights = torch.tensor([each.weight for each in batch])
    trusted = torch.tensor([each.trusted for each in batch])
    with torch.autocast("cpu", torch.bfloat16):
        early, late = model(ids, mask, dropout)
    taught = f.binary_cross_entropy_with_logits(early, late.detach().sigmoid(), reduction="none") * HEAD_WEIGHT
    loss = (
        loss_of(late, labels, weights, trusted) + 0.3 * loss_of(early, labels, weights, trusted) + 0.3 * taught.mean()
    )
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return loss.item()


def save(path: Path, model: Encoder, optimiser: torch.optim.Optimizer, state: dict[str, int]) -> None:
    """Write the checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "state": state}, part)
    part.replace(path)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True, help="folder with train.jsonl and val.jsonl")
    parser.add_argument("--written", type=Path, help="texts written for the project")
    parser.add_argument("--base", type=Path, required=True, help="folder with model.safetensors and vocab.txt")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write, and to resume from")
    parser.add_argument("--cache", type=Path, help="where token ids are kept; delete it when rows change")
    parser.add_argument("--start", type=Path, nargs="+", help="checkpoints to start from; of several, their mean")
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, help="stop after so many, and let the learning rate end there")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--tokens", type=int, default=2560, help="padded tokens per batch")
    parser.add_argument("--largest", type=int, default=2000, help="sources beyond this size are thinned")
    parser.add_argument("--join", type=float, default=0.0, help="share of rows shown beside a benign text")
    parser.add_argument("--frozen", type=int, default=0, help="lowest layers that stay as they are")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments)


if __name__ == "__main__":
    main()
