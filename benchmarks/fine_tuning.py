"""What training the embedded model costs, and what it learns: the plugin alone, without the server around it.

    python -m benchmarks.fine_tuning

50 chats that teach ten made-up facts, three epochs, ``auto`` batch size; the validation file asks for each fact in words that no
example has. The adapter is then served by the runtime and asked the same, as is the base model beside it.

Printed are the training process's own time and memory, start and tokenizing included, the loss of the whole validation file at the ends of
epochs, and how many facts are answered word for word. Exits with 1 when those are fewer than nine of ten.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import resource
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing
from datetime import timedelta

from benchmarks.fine_tuning_served import FACTS, HELD_OUT, RIGHT, SYSTEM, WORDINGS, examples
from plugins.embedded_model import weights
from plugins.embedded_model.chat import answer
from plugins.embedded_model.engine import Voice
from plugins.embedded_model.loading import load
from plugins.embedded_model.sampling import Defaults
from plugins.embedded_model.training.process import step
from sluicegate import ChatRequest
from sluicegate.training import Hyperparameters, TrainingJob, TrainingStep, Weights
from sluicegate.types import utc_now

JOB = TrainingJob("ftjob-" + "0" * 32, "smollm2-135m-instruct", "supervised", Hyperparameters(), seed=7)
ENOUGH = timedelta(hours=1)
TUNED = "tuned"


class Files:
    """A job's files, in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def training(self) -> AsyncIterator[bytes]:
        return _piece(examples(WORDINGS))

    def validation(self) -> AsyncIterator[bytes]:
        return _piece(examples((HELD_OUT,)))

    def starting_weights(self) -> Weights | None:
        return None

    async def write(self, name: str, data: AsyncIterable[bytes]) -> None:
        self._kept[name] = b"".join([piece async for piece in data])

    def read(self, name: str) -> AsyncIterator[bytes]:
        return _piece(self._kept[name])

    async def delete(self, name: str) -> None:
        self._kept.pop(name, None)


async def main() -> int:
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n"
    )
    path = weights.ensure(weights.CHAT) / weights.CHAT.files[0].name
    files, began = Files(), time.monotonic()
    done = await step(JOB, files, utc_now() + ENOUGH, path, longest=1024, most=1_000_000)
    took = time.monotonic() - began
    # The training process is the only one that was started.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    _print_costs(done, took, used)

    adapter = b"".join([piece async for piece in files.read(done.checkpoints[-1].weights)])
    engine = await load(path, slots=1, context_length=2048, adapters={TUNED: adapter})
    try:
        base, tuned = [await _right(Voice(engine, which)) for which in (None, TUNED)]
        again = await _right(Voice(engine, None))
    finally:
        await engine.close()
    print(f"| adapter | {len(adapter) / 1e6:.2f} MB |")
    print(f"| facts answered word for word | {tuned} of {len(FACTS)} |")
    print(f"| the same of the base, before and after | {base} and {again} |")
    return 0 if tuned >= RIGHT and not base and not again else 1


def _print_costs(done: TrainingStep, took: float, used: resource.struct_rusage) -> None:
    cpu = used.ru_utime + used.ru_stime
    full = [f"{point.metrics.full_valid_loss:.4f}" for point in done.checkpoints]
    chosen = done.hyperparameters
    print(f"| {chosen.n_epochs} epochs, batches of {chosen.batch_size} | {done.trained_tokens:,} tokens |\n|---|---|")
    print(f"| time | {took:.0f} s |")
    print(f"| CPU time | {cpu:.0f} s, {done.trained_tokens / cpu:.0f} tokens a second of it |")
    print(f"| most memory | {used.ru_maxrss / 1024:.0f} MiB |")
    print(f"| validation loss at the ends of epochs | {', '.join(full)} |")


async def _right(voice: Voice) -> int:
    return sum([await _answered(voice, HELD_OUT.format(what)) == fact for what, fact in FACTS.items()])


async def _answered(voice: Voice, question: str) -> str:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    asked = {"messages": messages, "temperature": 0, "max_tokens": 40}
    request = ChatRequest.model_validate_json(json.dumps(asked))
    async with aclosing(answer(request, voice, Defaults(0.0, 1.0, 40))) as chunks:
        return "".join([chunk.text async for chunk in chunks]).strip()


async def _piece(data: bytes) -> AsyncIterator[bytes]:
    yield data


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
