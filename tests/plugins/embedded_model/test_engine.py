"""The runtime behind the event loop: stopping it, its slots, its grammar, its memory."""

import asyncio
from contextlib import aclosing

import pytest

from plugins.embedded_model import engine as engine_module
from plugins.embedded_model import loading, weights
from plugins.embedded_model.engine import Engine, SchemaNotSupported
from sluicegate import ModelUnavailable
from sluicegate.errors import StartupError

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.usefixtures("config")]
LONG = {"max_tokens": 700, "ignore_eos": True, "temperature": 0.0}
SHORT = {"max_tokens": 3, "temperature": 0.0}
WEIGHTS = weights.CHAT.folder / weights.CHAT.files[0].name


async def all_slots(engine: Engine) -> None:
    """Wait until every slot is free again."""
    held = [await engine.slots.acquire([], object()) for _ in range(engine.parallel)]
    for slot in held:
        engine.slots.release(slot)


async def read(engine: Engine, prompt: list[int], owner: object | None = None, **options) -> tuple[list[int], int]:
    """Return the tokens of a short answer, and how many of the prompt's the slot still knew."""
    async with engine.lease(prompt, owner or object()) as lease:
        async for _ in lease.run(prompt, {**SHORT, **options}):
            pass
        return lease._slot.tokens[len(prompt) :], lease.cached


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every chunk that the runtime hands over."""
    seen: list[object] = []
    original = engine_module._Run._on_chunk
    monkeypatch.setattr(engine_module._Run, "_on_chunk", lambda run, chunk: seen.append(chunk) or original(run, chunk))
    return seen


async def test_closing_the_generator_stops_the_runtime_and_frees_the_slot(engine: Engine, chunks):
    prompt = engine.tokenizer.encode("Once upon a time")
    async with engine.lease(prompt, object()) as lease, aclosing(lease.run(prompt, LONG)) as pieces:
        async for piece in pieces:
            if piece.generated == 3:
                break
    assert engine.slots.free == engine.parallel - 1

    await all_slots(engine)

    assert len(chunks) < 100
    assert engine.slots.free == engine.parallel


async def test_a_reader_that_is_cancelled_stops_the_runtime(engine: Engine, chunks):
    prompt = engine.tokenizer.encode("Once upon a time")
    begun = asyncio.Event()

    async def reader() -> None:
        async with engine.lease(prompt, object()) as lease:
            async for _ in lease.run(prompt, LONG):
                begun.set()

    task = asyncio.create_task(reader())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    await all_slots(engine)

    assert len(chunks) < 100


async def test_a_freed_slot_serves_the_next_request(engine: Engine):
    prompt = engine.tokenizer.encode("One, two, three,")
    for _ in range(engine.parallel * 2):
        async with engine.lease(prompt, object()) as lease, aclosing(lease.run(prompt, LONG)) as pieces:
            await anext(pieces)

    tokens, _ = await read(engine, prompt)

    assert engine.tokenizer.decode(tokens) == " four, five"[: len(engine.tokenizer.decode(tokens))]
    assert len(tokens) == 3


async def test_the_event_loop_runs_on_while_the_model_thinks(engine: Engine):
    prompt = engine.tokenizer.encode("Once upon a time")
    turns = 0
    stop = asyncio.Event()

    async def tick() -> None:
        nonlocal turns
        while not stop.is_set():
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await read(engine, prompt, max_tokens=8)
    stop.set()
    await ticking

    assert turns > 8


async def test_another_caller_with_the_same_prompt_learns_nothing_of_the_first(engine: Engine):
    prompt = engine.tokenizer.encode("My name is Ann and I have a secret, which is")

    cached = [(await read(engine, prompt))[1] for _ in range(engine.parallel * 2)]

    assert cached == [0] * engine.parallel * 2


async def test_a_conversation_goes_on_where_it_ended(engine: Engine):
    prompt = engine.tokenizer.encode("My name is Bob and I have a secret, which is")

    tokens, _ = await read(engine, prompt)
    _, cached = await read(engine, [*prompt, *tokens, *engine.tokenizer.encode(" and so on")])

    assert cached >= len(prompt) + len(tokens) - 1


async def test_a_request_shares_its_own_prompt(engine: Engine):
    prompt = engine.tokenizer.encode("My name is Eve and I have a secret, which is")
    owner = object()

    await read(engine, prompt, owner)
    _, cached = await read(engine, prompt, owner)

    assert cached > 0


async def test_a_grammar_that_cannot_be_kept_is_noticed(engine: Engine):
    prompt = engine.tokenizer.encode("Hello")
    async with engine.lease(prompt, object()) as lease:
        with pytest.raises(SchemaNotSupported):
            await lease.constrain(prompt, SHORT, {"not": {"type": "string"}})


async def test_what_the_runtime_refuses_is_not_quoted(engine: Engine):
    async with engine.lease([1], object()) as lease:
        with pytest.raises(RuntimeError, match=r"^the runtime refused: invalid_request_error$"):
            async for _ in lease.run([1], {**SHORT, "temperature": "my secret"}):
                pass


async def test_shutting_down_ends_answers_as_failures():
    engine = await loading.load(WEIGHTS, slots=1, context_length=256)
    prompt = engine.tokenizer.encode("Once upon a time")
    async with engine.lease(prompt, object()) as lease:
        pieces = lease.run(prompt, {**LONG, "max_tokens": 200})
        await anext(pieces)
        await engine.close()

        with pytest.raises(ModelUnavailable):
            async for _ in pieces:
                pass
    with pytest.raises(ModelUnavailable):
        await read(engine, prompt)


async def test_more_context_than_the_model_was_trained_for_is_refused():
    with pytest.raises(StartupError, match="at most 8192 tokens"):
        await loading.load(WEIGHTS, context_length=10_000)


async def test_a_model_that_does_not_speak_chatml_is_refused(monkeypatch: pytest.MonkeyPatch):
    metadata = loading.read_metadata(WEIGHTS)
    metadata["tokenizer.ggml.token_type"] = [1] * len(metadata["tokenizer.ggml.tokens"])
    monkeypatch.setattr(loading, "read_metadata", lambda _: metadata)

    with pytest.raises(StartupError, match="does not speak ChatML"):
        await loading.load(WEIGHTS)


async def test_a_tokenizer_that_differs_from_the_runtimes_is_refused(monkeypatch: pytest.MonkeyPatch):
    metadata = loading.read_metadata(WEIGHTS)
    metadata["tokenizer.ggml.merges"] = metadata["tokenizer.ggml.merges"][:1000]
    monkeypatch.setattr(loading, "read_metadata", lambda _: metadata)

    with pytest.raises(StartupError, match="works otherwise"):
        await loading.load(WEIGHTS, slots=1, context_length=256)
