"""A model that learns by heart: the last word of each question, and the answer that goes with it.

Training takes three steps, each of a third of the examples. A step says ``step N of PROCESS`` and waits for a cue of that name
before anything of it is written. The base model answers that it does not know.
"""

import json
import os

from rehearsal.cues import tell, wait_for
from sluicegate import Chunk, Model, Usage, hookimpl
from sluicegate.training import Checkpoint, Metrics, TrainingStep

STEPS = 3
IGNORANCE = "I do not know."


@hookimpl
def register_models():
    return [Model("rehearsal-learner", frozenset({"chat.completions"}), context_length=1000, created=1_700_000_000)]


@hookimpl
async def inference(request, weights):
    table = {} if weights is None else json.loads(b"".join([piece async for piece in weights.read()]))
    answer = table.get(_last_word(request.messages[-1].content), IGNORANCE)
    yield Chunk(answer, usage=Usage(1, len(answer.split())))
    yield Chunk(finish_reason="stop")


@hookimpl
async def fine_tune(job, files):
    done = job.state.get("step", 0)
    examples = [json.loads(line)["messages"] for line in (await _whole(files.training())).splitlines()]
    table = json.loads(await _whole(files.read(f"table-{done}"))) if done else {}
    step = done + 1
    cue = f"step {step} of {os.getpid()}"
    tell(cue)
    await wait_for(cue)
    share = len(examples) / STEPS
    for messages in examples[round(done * share) : round(step * share)]:
        table[_last_word(messages[-2]["content"])] = messages[-1]["content"]
    await files.write(f"table-{step}", _pieces(json.dumps(table).encode()))
    if done:
        await files.delete(f"table-{done}")
    metrics = Metrics(step, 1 / step, step / STEPS)
    is_last = step == STEPS
    checkpoints = (Checkpoint(metrics, f"table-{step}"),) if is_last else ()
    used = job.hyperparameters.__class__(1, len(examples) // STEPS, 1.0)
    return TrainingStep({"step": step}, is_last, used, (metrics,), checkpoints, trained_tokens=len(examples) * step)


def _last_word(question):
    return question.split()[-1].strip("?.!")


async def _whole(pieces):
    return b"".join([piece async for piece in pieces])


async def _pieces(data):
    yield data
