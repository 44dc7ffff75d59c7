"""Embeddings of the real model."""

import asyncio
import json
import math
import struct
from typing import Any

import pytest

from plugins import embedded_model
from plugins.embedded_model.minilm import MiniLM
from sluicegate import EmbeddingRequest, Embeddings, InvalidRequest
from sluicegate.errors import StartupError

pytestmark = pytest.mark.asyncio(loop_scope="session")
CAT, KITTEN, STOCKS = "A cat sits on the mat.", "A kitten is resting on a rug.", "The stock market fell sharply today."


@pytest.fixture(scope="session")
def embed(config: embedded_model.Config):
    async def ask(inputs: Any, **body: Any) -> Embeddings:
        request = EmbeddingRequest.model_validate_json(json.dumps({"input": inputs, **body}))
        return await embedded_model.embed(request, config)

    return ask


def numbers(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def cosine(one: bytes, other: bytes) -> float:
    return sum(a * b for a, b in zip(numbers(one), numbers(other), strict=True))


async def test_like_texts_are_near_and_others_far(embed):
    cat, kitten, stocks = (await embed([CAT, KITTEN, STOCKS])).vectors

    assert cosine(cat, kitten) == pytest.approx(0.655, abs=0.001)
    assert cosine(cat, stocks) == pytest.approx(0.091, abs=0.001)


async def test_vectors_have_384_numbers_and_length_one(embed):
    [vector] = (await embed(CAT)).vectors

    assert len(numbers(vector)) == 384
    assert math.hypot(*numbers(vector)) == pytest.approx(1, abs=1e-6)


async def test_what_else_is_in_the_batch_changes_not_a_bit(embed):
    alone = (await embed(CAT)).vectors[0]

    together = (await embed([STOCKS * 5, CAT, KITTEN, CAT])).vectors

    assert together[1] == together[3] == alone


async def test_requests_at_once_do_not_disturb_each_other(embed):
    alone = [(await embed(text)).vectors[0] for text in (CAT, KITTEN, STOCKS)]

    at_once = await asyncio.gather(*(embed([text] * 3) for text in (CAT, KITTEN, STOCKS)))

    assert [set(answer.vectors) for answer in at_once] == [{vector} for vector in alone]


@pytest.mark.parametrize("dimensions", [1, 64, 384])
async def test_shortened_vectors_are_the_beginning_brought_back_to_length_one(embed, dimensions):
    [whole] = (await embed(CAT)).vectors

    [short] = (await embed(CAT, dimensions=dimensions)).vectors

    beginning = numbers(whole)[:dimensions]
    assert numbers(short) == pytest.approx([number / math.hypot(*beginning) for number in beginning], abs=1e-6)


async def test_more_dimensions_than_there_are_is_refused(embed):
    with pytest.raises(InvalidRequest, match="at most 384") as refused:
        await embed(CAT, dimensions=385)

    assert refused.value.param == "dimensions"


async def test_usage_counts_what_the_model_read(embed):
    assert (await embed([CAT, "a"])).usage.prompt_tokens == (7 + 2) + (1 + 2)


async def test_the_longest_input_fits_and_one_more_token_does_not(embed):
    assert (await embed("a " * 510)).usage.prompt_tokens == 512

    with pytest.raises(InvalidRequest, match="maximum context length is 512 tokens") as refused:
        await embed([CAT, "a " * 511])

    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input[1]")


async def test_case_and_accents_make_no_difference(embed):
    plain, other = (await embed(["Cafe Zurich", "CAFÉ Zürich"])).vectors

    assert plain == other


@pytest.mark.parametrize("content", [b"", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 100], ids=["empty", "no tensors", "noise"])
async def test_a_file_that_is_not_the_model_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(StartupError, match="embedding_weights"):
        MiniLM(path)
