"""Measure the shipped classifier on a labelled file: ``python -m benchmarks.content_filter FILE.jsonl …``.

Each line is an object:

    text      the text
    source    ``prompt`` (default), ``completion`` or ``document``
    labels    ``{"hate": 1, "sexual": 0, …}``: any of the classifier's heads, or ``any`` for the largest of harm, hate,
              sexual, violence, self_harm and harassment; or ``filtered`` for what the default policy blocks in a prompt:
              severity 4 of the four categories, and jailbreaks. A head that is not named is not counted
    severity  ``{"hate": 0.5}``: a human score, for the rank correlation (optional)
    group     a name to report on separately (optional)

Everything runs on one core, to which the process pins itself.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.content_filter import metrics
from benchmarks.content_filter.curves import draw
from plugins.content_filter import classifier
from plugins.content_filter.classifier import SEVERITY_HEADS, Classifier, Scores

JOINT = {
    "any": ("harm", "hate", "sexual", "violence", "self_harm", "harassment"),
    "filtered": (*SEVERITY_HEADS, "jailbreak"),
}


def score(scores: Scores, head: str) -> float:
    """Return a head's score; of several heads the largest."""
    return max(float(getattr(scores, each)) for each in JOINT.get(head, (head,)))


def flagged(scores: Scores, head: str) -> bool:
    """Return whether a head, or one of several, is above its shipped threshold."""
    return not scores.flagged.isdisjoint(JOINT.get(head, (head,)))


def report(title: str, rows: list[dict[str, Any]], found: list[Scores]) -> None:
    """Print one table of all heads that the rows name."""
    print(f"\n{title}: {len(rows)} texts")
    print(f"{'head':16}{'n':>7}{'pos':>6}{'AUPRC':>8}{'AUC':>7}{'R@1%FPR':>9}{'F1':>7}{'recall':>8}{'FPR':>7}")
    heads = sorted({head for row in rows for head in row.get("labels", {})})
    for head in heads:
        known = [place for place, row in enumerate(rows) if head in row.get("labels", {})]
        labels = np.array([rows[place]["labels"][head] > 0.5 for place in known])
        scores = np.array([score(found[place], head) for place in known])
        flags = np.array([flagged(found[place], head) for place in known])
        ranked = (metrics.average_precision, metrics.roc_area, lambda y, s: metrics.recall_at(y, s, 0.01))
        ranks = [measure(labels, scores) if labels.any() and not labels.all() else float("nan") for measure in ranked]
        decided = [measure(labels, flags) for measure in (metrics.f1, metrics.recall, metrics.false_positive_rate)]
        numbers = "".join(f"{number:8.3f}" for number in (*ranks, *decided))
        print(f"{head:16}{len(known):7d}{int(labels.sum()):6d}{numbers}")


def curves(path: Path, rows: list[dict[str, Any]], found: list[Scores]) -> None:
    """Draw the calibration curve of each head that the rows name."""
    heads = {}
    for head in sorted({head for row in rows for head in row.get("labels", {})}):
        known = [place for place, row in enumerate(rows) if head in row.get("labels", {})]
        labels = np.array([rows[place]["labels"][head] > 0.5 for place in known])
        heads[head] = (labels, np.array([score(found[place], head) for place in known]))
    draw(path, heads)


def report_severity(rows: list[dict[str, Any]], found: list[Scores]) -> None:
    """Print how severity and score rank beside human scores."""
    pairs: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for row, scores in zip(rows, found, strict=True):
        for head, human in row.get("severity", {}).items():
            pairs[head].append((human, getattr(scores, head), scores.severity[head]))
    for head, triples in sorted(pairs.items()):
        human, value, level = np.array(triples).T
        by_score, by_level = metrics.spearman(human, value), metrics.spearman(human, level)
        print(f"severity {head:10} n {len(triples):4d}  Spearman of score {by_score:.2f}, of level {by_level:.2f}")


def timed(model: Classifier, rows: list[dict[str, Any]]) -> tuple[list[Scores], list[float]]:
    """Classify each row; return scores and milliseconds of CPU, which on a quiet core are those of the clock."""
    found, spent = [], []
    for row in rows:
        started = time.thread_time()
        found.append(model.classify(row["text"], row.get("source", "prompt")))
        spent.append((time.thread_time() - started) * 1000)
    return found, spent


def report_cost(model: Classifier, rows: list[dict[str, Any]], spent: list[float]) -> None:
    """Print milliseconds a text, those of texts near 96 tokens, of the linear stage, and megabytes."""
    lengths = np.array([model.tokens(row["text"]) for row in rows])
    near = np.flatnonzero((lengths >= 80) & (lengths <= 112))
    times = np.array(spent)
    quantiles = np.quantile(times, [0.5, 0.95])
    print(f"\nms a text: mean {times.mean():.2f}, median {quantiles[0]:.2f}, 95 % {quantiles[1]:.2f}")
    if len(near):
        texts = [rows[place]["text"] for place in near]
        started = time.thread_time()
        for text in texts:
            model.linear_only(text)
        linear = (time.thread_time() - started) * 1000 / len(texts)
        print(
            f"texts of 80 to 112 tokens: {len(near)}, mean {times[near].mean():.2f} ms, linear stage alone {linear:.2f} ms"
        )
    size = sum(path.stat().st_size for path in classifier.WEIGHTS.iterdir())
    print(f"weights: {size / 1e6:.1f} MB")


def main() -> None:
    """Read the command line, classify and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--groups", action="store_true", help="report on each group too")
    parser.add_argument("--curves", type=Path, help="write calibration curves to this SVG file")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    lines = [line for path in arguments.files for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    rows = [json.loads(line) for line in lines]
    model = Classifier.load()
    model.classify("warm up: you should never read this as anything but a sentence")
    found, spent = timed(model, rows)
    report("all", rows, found)
    for group in sorted({row["group"] for row in rows if "group" in row}) if arguments.groups else ():
        chosen = [place for place, row in enumerate(rows) if row.get("group") == group]
        report(group, [rows[place] for place in chosen], [found[place] for place in chosen])
    if arguments.curves:
        curves(arguments.curves, rows, found)
    report_severity(rows, found)
    report_cost(model, rows, spent)


if __name__ == "__main__":
    main()
