"""The training process: ``python -m plugins.embedded_model.training.worker``, started by :mod:`.process`.

Examples come through standard input and stay in memory; nothing is written to disk, and nothing of them to standard error.
It takes only what time the server leaves: its niceness is 19. When memory runs out it is the first to go, and its step is taken again.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from plugins.embedded_model.tokenizer import Tokenizer
from plugins.embedded_model.training import frames
from plugins.embedded_model.training.adapter import Adapter
from plugins.embedded_model.training.examples import Rows
from plugins.embedded_model.training.llama import Llama
from plugins.embedded_model.training.methods import Preferences, Supervised, tokens_of
from plugins.embedded_model.training.order import MOST_BATCH, Order
from plugins.embedded_model.training.run import RATES, Plan, Run
from plugins.embedded_model.training.tensors import NotTrainable, load_tensors

_EPOCHS, _BETA = 3, 0.1
_AUTO_TOKENS = 2048
"""Of a step whose size nobody has chosen."""


def main() -> None:
    """Train once, as standard input says."""
    step_back()
    order, given = _read(sys.stdin.buffer)
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        _train(order, given, sys.stdout.buffer)
    except NotTrainable as error:
        _send(sys.stdout.buffer, frames.FAILED, str(error).encode())


def step_back() -> None:
    """Let the server have time and memory first, and let a crash leave no image of the memory, as far as the system can."""
    if sys.platform == "win32":
        return
    import resource

    os.nice(19)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _train(order: Order, given: dict[bytes, bytes], out: BinaryIO) -> None:
    metadata, tensors = load_tensors(Path(order.weights))
    model = Llama(metadata, tensors)
    adapter, before = (Adapter.of(model.layers, tensors, order.seed) for _ in range(2))
    if given[frames.WEIGHTS]:
        adapter.read(given[frames.WEIGHTS])
        before.read(given[frames.WEIGHTS])
    rows = Rows(Tokenizer(metadata), order.longest)
    training, validation = (_examples(rows, order, given.pop(kind)) for kind in (frames.TRAINING, frames.VALIDATION))
    if not training:
        raise NotTrainable("the training file has nothing to learn")
    batch = order.batch or _auto_batch(len(training), max(tokens_of(one) for one in training))
    plan = Plan(order.epochs or _EPOCHS, min(batch, len(training)), order.multiplier or 1.0, order.seed)
    beta = order.beta or _BETA
    method: Any = (
        Supervised(model, adapter) if order.method == "supervised" else Preferences(model, adapter, before, beta)
    )
    run: Run[Any] = Run(method, adapter, plan, RATES[order.method], training, validation)
    if run.tokens_of_all > order.most:
        raise NotTrainable(f"a training file of {run.tokens_of_all:,} tokens; at most {order.most:,} are possible")
    if given[frames.STATE]:
        run.resume(given[frames.STATE], order.step, order.tokens)
    for row in run.rows(0 if order.is_pausing else order.seconds):
        _send(out, frames.ROW, json.dumps(row.values).encode())
        if row.step % run.steps_an_epoch == 0 or order.is_pausing:
            _send(out, frames.CHECKPOINT, adapter.file(metadata["general.architecture"]))
    if not run.is_over:
        for piece in frames.pieces(run.state()):
            _send(out, frames.STATE, piece)
    done = {
        **asdict(plan),
        "beta": beta if order.method == "dpo" else None,
        "step": run.step,
        "steps": run.steps,
        "tokens": run.tokens,
        "cut": rows.cut,
        "left_out": rows.left_out,
    }
    _send(out, frames.DONE, json.dumps(done).encode())


def _auto_batch(examples: int, longest: int) -> int:
    """Return how many examples go into a step: few of few, and no more than a step has time for."""
    wanted = 2 if examples <= 200 else min(MOST_BATCH, examples // 100)
    return max(1, min(wanted, _AUTO_TOKENS // longest))


def _examples(rows: Rows, order: Order, data: bytes) -> Sequence[Any]:
    lines = data.splitlines()
    return list(rows.supervised(lines) if order.method == "supervised" else rows.preferences(lines))


def _read(source: BinaryIO) -> tuple[Order, dict[bytes, bytes]]:
    given: dict[bytes, list[bytes]] = defaultdict(list)
    kind = b""
    while kind != frames.GO:
        kind, length = frames.HEAD.unpack(source.read(frames.HEAD.size))
        given[kind].append(source.read(length))
    whole = {kind: b"".join(given[kind]) for kind in (frames.TRAINING, frames.VALIDATION, frames.WEIGHTS, frames.STATE)}
    return Order(**json.loads(b"".join(given[frames.PLAN]))), whole


def _end_with(source: int) -> None:
    """End when the app does, or no longer wants this: it closes its end."""
    while os.read(source, 1):
        pass
    os._exit(1)


def _send(out: BinaryIO, kind: bytes, payload: bytes) -> None:
    out.write(frames.frame(kind, payload))
    out.flush()


if __name__ == "__main__":
    main()
