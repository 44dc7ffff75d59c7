import json

import pytest
from openai.types import Model as SdkModel

from sluicegate import Model
from sluicegate.api.models import render, render_list
from sluicegate.fine_tuning.model_catalogue import KnownModel
from tests.api.support import sdk


def known(model, tunable=False):
    return KnownModel(model.id, model, "plugin", tunable)


PARROT = known(Model("parrot", frozenset({"chat.completions"}), created=5, owned_by="us"))
SMALL = known(Model("small", frozenset({"embeddings"}), dimensions=3))


def test_a_model_has_openais_fields_and_azures():
    rendered = json.loads(render(PARROT))

    assert rendered == {
        "id": "parrot",
        "object": "model",
        "created": 5,
        "owned_by": "us",
        "created_at": 5,
        "status": "succeeded",
        "lifecycle_status": "generally-available",
        "capabilities": {
            "fine_tune": False,
            "inference": True,
            "completion": False,
            "chat_completion": True,
            "embeddings": False,
        },
        "deprecation": {},
    }
    SdkModel.model_validate(rendered, strict=True)


@pytest.mark.parametrize(
    ("operation", "capability"),
    [("chat.completions", "chat_completion"), ("completions", "completion"), ("embeddings", "embeddings")],
)
def test_a_capability_is_an_operation(operation, capability):
    capabilities = json.loads(render(known(Model("m", frozenset({operation})))))["capabilities"]

    assert {name for name, able in capabilities.items() if able} == {"inference", capability}


def test_a_model_that_can_be_fine_tuned_says_so():
    assert json.loads(render(known(PARROT.model, tunable=True)))["capabilities"]["fine_tune"]


async def test_the_sdk_reads_the_list_in_order():
    client = sdk(render_list([SMALL, PARROT]))

    assert [model.id async for model in client.models.list()] == ["small", "parrot"]


async def test_the_sdk_reads_one():
    assert (await sdk(render(PARROT)).models.retrieve("parrot")).owned_by == "us"
