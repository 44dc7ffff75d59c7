"""The list of models through the openai package: with its synchronous and asynchronous clients, on both surfaces."""

from __future__ import annotations

import openai
import pytest


def test_models_are_listed(client):
    found = {model.id: model for model in client.models.list()}

    assert list(found) == ["rehearsal-chat", "rehearsal-embedding"]
    assert (found["rehearsal-chat"].object, found["rehearsal-chat"].created) == ("model", 1_700_000_000)


def test_a_model_says_what_it_can_do(client):
    chat = client.models.retrieve("rehearsal-chat").model_extra["capabilities"]
    embedding = client.models.retrieve("rehearsal-embedding").model_extra["capabilities"]

    assert (chat["chat_completion"], chat["completion"], chat["embeddings"]) == (True, True, False)
    assert (embedding["chat_completion"], embedding["completion"], embedding["embeddings"]) == (False, False, True)


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-17")

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
