import json
import struct

import pytest
from openai.types import CreateEmbeddingResponse

from sluicegate import EmbeddingRequest, Embeddings, Usage
from sluicegate.api import body
from sluicegate.api.embeddings import render
from tests.api.support import sdk

VECTORS = (0.5, -0.25, 0.1), (1.0, 0.0, 3e-9)
EMBEDDINGS = Embeddings(tuple(struct.pack("<3f", *vector) for vector in VECTORS), Usage(7))


def rendered(**fields):
    request = body.parse(EmbeddingRequest, json.dumps({"input": ["a", "b"], **fields}).encode())
    return render(EMBEDDINGS, request, "small")


@pytest.mark.parametrize("fields", [{}, {"encoding_format": "float"}])
def test_vectors_are_floats_unless_asked_otherwise(fields):
    answer = json.loads(rendered(**fields))

    assert answer["object"] == "list"
    assert answer["model"] == "small"
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    assert [entry["embedding"] for entry in answer["data"]] == [pytest.approx(vector) for vector in VECTORS]
    CreateEmbeddingResponse.model_validate(answer, strict=True)


def test_base64_is_of_little_endian_float32():
    (first, _) = json.loads(rendered(encoding_format="base64"))["data"]

    assert first["embedding"] == "AAAAPwAAgL7NzMw9"


@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_the_sdk_reads_both(encoding):
    client = sdk(rendered(encoding_format=encoding))

    received = await client.embeddings.create(model="small", input=["a", "b"])

    assert [entry.embedding for entry in received.data] == [pytest.approx(vector) for vector in VECTORS]
