"""Fit what turns two stages' logits into scores: blends, gates, thresholds and severity cut-points. Only ``tune`` rows are read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from plugins._content_filter.classifier import HEADS as NAMES
from plugins._content_filter.classifier import SEVERITY_HEADS, Calibration, segments, windows
from plugins._content_filter.encoder import Encoder
from plugins._content_filter.linear import Linear
from plugins._content_filter.normalise import normalise
from plugins._content_filter.wordpiece import WordPiece
from training.content_filter.data import HEADS, Row, rows, written

Floats = NDArray[np.float32]

# Besides its own two logits, what a head may listen to.
LISTENS = {"attack": ("indirect", "harm"), "indirect": ("attack",), "violence": ("harm",), "selfharm": ("harm",)}
BENIGN_RATE = {"harm": 0.02, "hate": 0.012, "harass": 0.012, "sexual": 0.006, "violence": 0.008, "selfharm": 0.004}
BENIGN_RATE |= {"attack": 0.008, "indirect": 0.02}
USED = {"linear": [0], "early": [0, 1], "late": [0, 1, 2]}
LOST = 0.02


class Stages:
    """Both stages without their calibration."""

    def __init__(self, folder: Path) -> None:
        vocabulary = (folder / "vocabulary.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
        self.tokeniser = WordPiece(vocabulary)
        with np.load(folder / "linear.npz") as weights:
            self.linear = Linear(weights)
        self.encoder = Encoder(folder)

    def logits(self, text: str) -> Floats:
        """Return linear, early and late logits, (3, heads), of the piece of a text that shows the most."""
        text = normalise(text, self.tokeniser.words)
        found = []
        for segment in list(segments(text))[:4] or [""]:
            linear = self.linear.logits(segment)
            for window in list(windows(self.tokeniser.encode(segment)))[:4]:
                halfway = self.encoder.lower([self.tokeniser.start, *window, self.tokeniser.end])
                found.append(np.stack([linear, halfway.logits, self.encoder.upper(halfway)]))
        return max(found, key=lambda three: float(three[2].max()))


def measured(found: list[Row], stages: Stages, cache: Path) -> Floats:
    """Return the logits of all rows, (rows, 3, heads), from the cache if it is there."""
    if not cache.exists():
        np.save(cache, np.stack([stages.logits(row.text) for row in found]))
    logits: Floats = np.load(cache)
    return logits


def blend(logits: Floats, labels: Floats, weights: Floats, own: int) -> tuple[Floats, float]:
    """Return weights over all logits and the bias that predict one head."""
    heads = {own, *(HEADS.index(name) for name in LISTENS.get(HEADS[own], ()))}
    columns = sorted(stage * len(HEADS) + head for stage in range(logits.shape[1]) for head in heads)
    flat = logits.reshape(len(logits), -1)
    known = labels[:, own] >= 0
    model = LogisticRegression(C=0.3, max_iter=500)
    model.fit(flat[known][:, columns], labels[known, own], sample_weight=weights[known])
    found = np.zeros(flat.shape[1], np.float32)
    found[columns] = model.coef_[0]
    return found, float(model.intercept_[0])


def blends(logits: Floats, labels: Floats, weights: Floats) -> dict[str, Any]:
    """Return the blend of each stage with the linear one."""
    found = {}
    for stage, used in USED.items():
        each = [blend(logits[:, used], labels, weights, own) for own in range(len(HEADS))]
        matrix = np.stack([column for column, _ in each], 1).round(5)
        found[stage] = {"weights": matrix.tolist(), "bias": [round(bias, 5) for _, bias in each]}
    return found


def probabilities(fitted: dict[str, Any], logits: Floats, stage: str) -> Floats:
    """Return what a blend says for all rows."""
    one = fitted[stage]
    flat = logits[:, USED[stage]].reshape(len(logits), -1) @ np.array(one["weights"]) + np.array(one["bias"])
    return np.asarray(1 / (1 + np.exp(-flat)), np.float32)


def gate(scores: Floats, limit: Floats, flagged: NDArray[np.bool_]) -> float:
    """Return how near its threshold the nearest head must come for the next stage to run.

    At most ``LOST`` of the texts that the last stage flags stay below; the head for documents has no say.
    """
    near = (scores / limit)[:, :-1].max(1)
    return round(float(np.quantile(near[flagged[:, :-1].any(1)], LOST)), 5)


def thresholds(late: Floats, labels: Floats) -> dict[str, float]:
    """Return the threshold per head that only its share of the benign texts exceeds."""
    benign = (labels[:, 0] == 0) & (labels[:, :7] <= 0).all(1)
    found = {}
    for own, head in enumerate(HEADS):
        clean = benign if head != "indirect" else labels[:, own] == 0
        found[NAMES[own]] = round(float(np.quantile(late[clean, own], 1 - BENIGN_RATE[head])), 5)
    return found


def cut_points(scores: Floats, human: Floats, lowest_medium: float) -> list[float]:
    """Return the three scores that part 0, 2, 4 and 6 with the smallest mean error against human levels."""
    level = np.digitize(human, [0.125, 0.375, 0.7])
    grid = np.unique(np.quantile(scores, np.linspace(0.02, 0.98, 25)))
    best = (np.inf, [0.25, 0.5, 0.75])
    for low in grid:
        for middle in np.unique(np.maximum(grid[grid > low], lowest_medium)):
            for high in grid[grid > middle]:
                error = float(np.abs(np.digitize(scores, [low, middle, high]) - level).mean())
                if error < best[0]:
                    best = (error, [float(low), float(middle), float(high)])
    return [round(cut, 5) for cut in best[1]]


def severity(fitted: dict[str, Any], pool: Path, stages: Stages) -> dict[str, list[float]]:
    """Fit the cut-points of each category on human scores and print how well the ranking agrees."""
    texts = [
        json.loads(line)
        for line in (pool / "severity_train.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    ]
    logits = np.stack([stages.logits(row["text"]) for row in texts])
    late = probabilities(fitted["blends"], logits, "late")
    found = {}
    for name in SEVERITY_HEADS:
        own = NAMES.index(name)
        rated = np.array([row["cat"] == HEADS[own] for row in texts])
        human = np.array([row["score"] for row in texts], np.float32)[rated]
        found[name] = cut_points(late[rated, own], human, fitted["thresholds"][name])
        print(
            f"severity {name:9s} n {rated.sum()} Spearman {spearmanr(late[rated, own], human)[0]:.2f} cuts {found[name]}"
        )
    return found


def main() -> None:
    """Read the command line, fit and write ``calibration.json`` beside the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--written", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the exported weights")
    parser.add_argument(
        "--cache", type=Path, required=True, help="where logits are kept; delete it when weights change"
    )
    arguments = parser.parse_args()
    stages = Stages(arguments.weights)
    found = list(rows(arguments.pool, "tune")) + list(written(arguments.written, "tune"))
    logits = measured(found, stages, arguments.cache)
    labels = np.array([[row.labels.get(head, -1) for head in HEADS] for row in found], np.float32)
    weights = np.array([row.weight for row in found], np.float32)
    fitted: dict[str, Any] = {"blends": blends(logits, labels, weights)}
    linear, early, late = (probabilities(fitted["blends"], logits, stage) for stage in ("linear", "early", "late"))
    fitted["thresholds"] = thresholds(late, labels)
    limit = np.array([fitted["thresholds"][name] for name in NAMES])
    fitted["gates"] = {
        stage: gate(scores, limit, late >= limit) for stage, scores in (("linear", linear), ("early", early))
    }
    fitted["severity"] = severity(fitted, arguments.pool, stages)
    path = arguments.weights / "calibration.json"
    path.write_text(json.dumps(fitted, indent=1) + "\n", encoding="utf-8")
    Calibration(path)
    for stage, scores in (("linear", linear), ("early", early)):
        stops = (scores / limit)[:, :-1].max(1) < fitted["gates"][stage]
        print(
            f"{stage} stage stops {stops.mean():.2f} of texts, {stops[(labels <= 0).all(1)].mean():.2f} of benign ones"
        )


if __name__ == "__main__":
    main()
