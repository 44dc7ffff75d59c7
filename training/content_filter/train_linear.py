"""Train the linear stage: masked logistic regression for all heads at once, by L-BFGS, then eight bits a weight."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from plugins.content_filter.linear import features
from plugins.content_filter.normalise import normalise
from plugins.content_filter.wordpiece import WordPiece
from training.content_filter.data import HEADS, Row, rows, written

Matrix = csr_matrix
Floats = NDArray[np.float32]


def matrix(texts: list[str], bits: int) -> Matrix:
    """Return the features of normalised texts, each row of unit length."""
    found = [features(text, bits) for text in texts]
    counts = np.array([len(row) for row in found])
    values = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return csr_matrix((values, np.concatenate(found).astype(np.int32), starts), shape=(len(texts), 1 << bits))


def targets(found: list[Row]) -> tuple[Floats, Floats]:
    """Return labels per head and the weight of each, 0 where a label is unknown."""
    labels = np.array([[row.labels.get(head, -1) for head in HEADS] for row in found], np.float32)
    weights = (labels >= 0) * np.array([[row.weight] for row in found], np.float32)
    return np.maximum(labels, 0), weights.astype(np.float32)


def fit(x: Matrix, labels: Floats, weights: Floats, penalty: float, iterations: int) -> tuple[Floats, Floats]:
    """Return table and bias of the penalised regression."""
    shape = (x.shape[1] + 1, labels.shape[1])
    transposed = x.T.tocsr()
    scale = weights.sum(0, keepdims=True)

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        table = flat.reshape(shape).astype(np.float32)
        logits = x @ table[:-1] + table[-1]
        loss = (np.logaddexp(0, logits) - labels * logits) * weights / scale
        slope = (1 / (1 + np.exp(-logits)) - labels) * weights / scale
        gradient = np.concatenate([transposed @ slope + penalty * table[:-1], slope.sum(0, keepdims=True)])
        return float(loss.sum() + 0.5 * penalty * (table[:-1] ** 2).sum()), gradient.astype(np.float64).ravel()

    start = np.zeros(shape)
    best = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxcor": 6})
    table = best.x.reshape(shape).astype(np.float32)
    return table[:-1], table[-1]


def main() -> None:
    """Read the command line, train and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--written", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--without", default="", help="sources to leave out, separated by commas")
    parser.add_argument("--bits", type=int, default=19)
    parser.add_argument("--penalty", type=float, default=3e-6)
    parser.add_argument("--iterations", type=int, default=60)
    arguments = parser.parse_args()
    words = WordPiece(arguments.vocabulary.read_text(encoding="utf-8").rstrip("\n").split("\n")).words
    without = set(arguments.without.split(","))
    found = [row for row in rows(arguments.pool, "train") if row.source not in without]
    found += list(written(arguments.written, "train")) if arguments.written else []
    started = time.monotonic()
    x = matrix([normalise(row.text, words) for row in found], arguments.bits)
    print(f"{x.shape[0]} texts, {x.nnz / x.shape[0]:.0f} features each, {time.monotonic() - started:.0f} s", flush=True)
    table, bias = fit(x, *targets(found), arguments.penalty, arguments.iterations)
    scale = np.maximum(np.abs(table).max(0), 1e-6) / 127
    np.savez(arguments.out, table=np.rint(table / scale).astype(np.int8), scale=scale.astype(np.float32), bias=bias)
    print(f"done in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
