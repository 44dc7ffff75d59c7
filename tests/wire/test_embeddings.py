"""Embeddings through the openai package: with its synchronous and asynchronous clients, on both surfaces."""

from __future__ import annotations

import math

import openai
import pytest


def test_a_text_has_a_vector(client):
    answer = client.embeddings.create(model="embedding", input="a cat")

    assert (answer.object, answer.model) == ("list", "rehearsal-embedding")
    assert [row.index for row in answer.data] == [0]
    assert len(answer.data[0].embedding) == 16
    assert math.hypot(*answer.data[0].embedding) == pytest.approx(1)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (2, 2)


def test_base64_and_floats_are_the_same_numbers(client):
    """The SDK asks for base64 unless it is told otherwise, and decodes it."""
    packed = client.embeddings.create(model="embedding", input="a cat")
    floats = client.embeddings.create(model="embedding", input="a cat", encoding_format="float")

    assert packed.data[0].embedding == floats.data[0].embedding


def test_base64_stays_packed_for_who_asks_for_it(client):
    answer = client.embeddings.create(model="embedding", input="a cat", encoding_format="base64")

    assert isinstance(answer.data[0].embedding, str)


def test_a_batch_comes_back_in_order(client):
    texts = [f"text {number}" for number in range(300)]

    batch = client.embeddings.create(model="embedding", input=texts)

    last = client.embeddings.create(model="embedding", input=texts[-1])
    assert [row.index for row in batch.data] == list(range(300))
    assert batch.data[-1].embedding == last.data[0].embedding
    assert batch.usage.prompt_tokens == 600


def test_shorter_vectors(client):
    answer = client.embeddings.create(model="embedding", input="a cat", dimensions=4)

    assert len(answer.data[0].embedding) == 4


@pytest.mark.parametrize("tokens", [list(b"a cat"), [list(b"a cat")]], ids=["ids", "lists of ids"])
def test_token_ids_are_the_text_they_stand_for(client, tokens):
    answer = client.embeddings.create(model="embedding", input=tokens)

    text = client.embeddings.create(model="embedding", input="a cat")
    assert answer.data[0].embedding == text.data[0].embedding


@pytest.mark.parametrize(
    "given",
    ["Tell Project Nightjar", ["fine", "project  NIGHTJAR"], list(b"Project Nightjar")],
    ids=["text", "one of several", "token ids"],
)
def test_a_blocked_input_is_refused(client, given):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="embedding", input=given)

    assert caught.value.code == "content_filter"


@pytest.mark.parametrize("given", ["", [], ["fine", ""]], ids=["empty", "none", "one empty"])
def test_nothing_has_no_vector(client, given):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="embedding", input=given)

    assert caught.value.param == "input"
