"""Fine-tuned models beside the base: the real runtime, and an adapter of random numbers that changes every answer."""

import asyncio
from contextlib import AsyncExitStack, aclosing

import numpy as np
import pytest
import pytest_asyncio

from plugins import embedded_model
from plugins.embedded_model import adapters
from plugins.embedded_model.adapters import Engines
from plugins.embedded_model.engine import Lease
from plugins.embedded_model.slots import Slot
from plugins.embedded_model.training.adapter import TARGETS, Adapter
from plugins.embedded_model.training.tensors import parse_tensors
from sluicegate import ModelUnavailable, NotFound
from sluicegate.errors import AccountKeyRevoked, StorageUnavailable
from tests.plugins.embedded_model.conftest import Answered, chat_request, user

ASKED = "Name three colours of the rainbow."


class Kept:
    """Weights that somebody may delete."""

    def __init__(self, id, data=b"weights"):
        self.id = id
        self.data = data
        self.is_reachable = True

    async def read(self):
        if not self.is_reachable:
            raise AccountKeyRevoked("contoso", "mine")
        if self.data is None:
            raise NotFound("The requested model does not exist.")
        yield self.data[:100]
        yield self.data[100:]

    async def exist(self):
        if not self.is_reachable:
            raise StorageUnavailable("not now")
        return self.data is not None


# --- which adapters are loaded, with runtimes that only count --------------------------------------------------------


class Runtime:
    def __init__(self, adapters):
        self.adapters = tuple(adapters)
        self.is_closed = False

    async def close(self):
        self.is_closed = True


class Runtimes:
    def __init__(self, most=2):
        self.made = [Runtime(())]
        self.engines = Engines(self.made[0], self.start, most)

    async def start(self, adapters):
        assert set(adapters.values()) <= {b"weights"}
        self.made.append(Runtime(adapters))
        return self.made[-1]


@pytest_asyncio.fixture
async def runtimes():
    made = Runtimes()
    yield made
    await made.engines.close()


async def asked(runtimes, weights):
    async with runtimes.engines.voice(weights) as voice:
        return voice.adapter, voice.engine.adapters


async def test_a_model_that_is_asked_for_is_loaded_once(runtimes):
    one = Kept("one")

    found = [await asked(runtimes, weights) for weights in (None, one, None, one)]

    assert found == [(None, ()), ("one", ("one",)), (None, ("one",)), ("one", ("one",))]
    assert len(runtimes.made) == 2


async def test_many_who_ask_at_once_bring_one_runtime(runtimes):
    one = Kept("one")

    await asyncio.gather(*(asked(runtimes, one) for _ in range(5)))

    assert len(runtimes.made) == 2


async def test_of_too_many_the_one_goes_that_nobody_asked_for_the_longest(runtimes):
    one, two, three = map(Kept, ("one", "two", "three"))
    for weights in (one, two, one, three):
        await asked(runtimes, weights)

    assert runtimes.engines.engine.adapters == ("one", "three")
    assert await asked(runtimes, two) == ("two", ("three", "two"))


async def test_a_runtime_stays_until_nobody_uses_it(runtimes):
    async with runtimes.engines.voice(None) as voice:
        await asked(runtimes, Kept("one"))
        assert not voice.engine.is_closed
    await asyncio.gather(*runtimes.engines._closing)

    assert [each.is_closed for each in runtimes.made] == [True, False]


async def test_a_deleted_model_leaves_memory(runtimes):
    one, two = Kept("one"), Kept("two")
    for weights in (one, two):
        await asked(runtimes, weights)
    one.data = None

    await runtimes.engines.sweep()

    assert runtimes.engines.engine.adapters == ("two",)
    with pytest.raises(NotFound):
        await asked(runtimes, one)


async def test_what_a_deleted_model_still_answers_is_broken_off(runtimes, monkeypatch):
    monkeypatch.setattr(adapters, "DELETED_S", 0)
    one = Kept("one")
    async with runtimes.engines.voice(one) as voice, asyncio.timeout(20):
        one.data = None
        await runtimes.engines.sweep()
        await asyncio.gather(*runtimes.engines._breaking)

        assert voice.engine.is_closed
    assert not runtimes.engines.engine.is_closed


async def test_what_another_model_answers_is_not_broken_off(runtimes, monkeypatch):
    monkeypatch.setattr(adapters, "DELETED_S", 0)
    one = Kept("one")
    async with runtimes.engines.voice(None) as voice:
        await asked(runtimes, one)
        one.data = None
        await runtimes.engines.sweep()
        await asyncio.gather(*runtimes.engines._breaking)

        assert not voice.engine.is_closed


async def test_a_model_that_would_bring_one_runtime_too_many_waits(runtimes, monkeypatch):
    one, two, three = map(Kept, ("one", "two", "three"))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(runtimes.engines.voice(None))
        await stack.enter_async_context(runtimes.engines.voice(one))
        await asked(runtimes, two)
        monkeypatch.setattr(adapters, "WAIT_S", 0)
        with pytest.raises(ModelUnavailable):
            await asked(runtimes, three)
        assert (await asked(runtimes, two))[0] == "two"
        monkeypatch.undo()
        waiting = asyncio.create_task(asked(runtimes, three))
        while not runtimes.engines._adding.locked():
            await asyncio.sleep(0)

    assert (await waiting)[0] == "three"


async def test_what_cannot_be_asked_about_now_stays_until_it_can(runtimes):
    one = Kept("one")
    await asked(runtimes, one)
    one.is_reachable = False

    await runtimes.engines.sweep()

    assert runtimes.engines.engine.adapters == ("one",)


async def test_a_model_that_cannot_be_read_stands_in_no_others_way(runtimes):
    away, deleted, new = map(Kept, ("away", "deleted", "new"))
    runtimes.engines._most = 3
    for weights in (away, deleted):
        await asked(runtimes, weights)
    away.is_reachable = False

    loaded = await asked(runtimes, new)
    deleted.data = None
    await runtimes.engines.sweep()

    assert loaded[0] == "new"
    assert runtimes.engines.engine.adapters == ("new",)
    with pytest.raises(AccountKeyRevoked):
        await asked(runtimes, away)
    away.is_reachable = True
    assert (await asked(runtimes, away))[0] == "away"


async def test_a_model_that_is_deleted_is_noticed_without_anybody_asking(runtimes, monkeypatch):
    monkeypatch.setattr("plugins.embedded_model.adapters.SWEEP_S", 0)
    one = Kept("one")
    await asked(runtimes, one)
    one.data = None

    async with asyncio.timeout(20):
        while runtimes.engines.engine.adapters:
            await asyncio.sleep(0)


# --- the real runtime ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter():
    """An adapter of SmolLM2-135M; that it is of no use does not matter."""
    width, keys, inner = 576, 192, 1536
    out_in = dict(zip(TARGETS, [(width, width), (keys, width), (keys, width), (width, width)], strict=False))
    out_in |= {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
    shapes = {f"blk.{layer}.{name}": shape for layer in range(30) for name, shape in out_in.items()}
    made = Adapter(shapes, seed=1)
    made.flat += np.random.default_rng(2).normal(0, 0.02, made.flat.shape).astype(np.float32)
    data = made.file("llama")
    assert len(parse_tensors(data)[1]) == 2 * len(shapes)
    return data


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def config():
    config = embedded_model.Config(serve=("chat",), context_length=512, slots=1)
    await embedded_model.startup(config)
    yield config
    await embedded_model.shutdown(config)


async def answer(config, weights, messages=None):
    request = chat_request(messages=messages or user(ASKED), max_tokens=12)
    return Answered([chunk async for chunk in embedded_model.inference(request, weights, config)]).text()


@pytest.mark.asyncio(loop_scope="module")
async def test_the_base_answers_as_if_no_adapter_had_been_there(config, adapter):
    before = await answer(config, None)

    tuned, base, again = [await answer(config, weights) for weights in (Kept("a", adapter), None, Kept("a", adapter))]

    assert tuned == again
    assert tuned != before
    assert base == before


@pytest.mark.asyncio(loop_scope="module")
async def test_a_conversation_goes_on_from_nothing_that_was_read_under_other_weights(config, adapter):
    said = await answer(config, Kept("a", adapter))
    turns = [*user(ASKED), {"role": "assistant", "content": said}, *user("And two more?")]
    await answer(config, None, user("Something else."))
    expected = await answer(config, None, turns)

    await answer(config, Kept("a", adapter))

    assert await answer(config, None, turns) == expected


def test_each_request_says_of_every_adapter_whether_it_is_at_work():
    runtime = Runtime(("one", "two"))

    said = [Lease(runtime, Slot(0), object(), adapter)._lora for adapter in ("two", None)]

    assert said == [[{"id": 0, "scale": 0.0}, {"id": 1, "scale": scale}] for scale in (1.0, 0.0)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_that_runs_ends_where_it_began(config, adapter):
    request = chat_request(messages=user("Count to twenty."), max_tokens=20)
    expected = Answered([chunk async for chunk in embedded_model.inference(request, None, config)]).text()

    async with aclosing(embedded_model.inference(request, None, config)) as chunks:
        got = [await anext(chunks)]
        await answer(config, Kept("b", adapter))
        got += [chunk async for chunk in chunks]

    assert Answered(got).text() == expected


@pytest.mark.asyncio(loop_scope="module")
async def test_no_adapter_is_written_to_disk(config, adapter, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))

    assert await answer(config, Kept("c", adapter))
