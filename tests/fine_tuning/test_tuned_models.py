"""Fine-tuned models without HTTP: whose they are, and that their weights go with them."""

from datetime import UTC, datetime

import pytest

from sluicegate.errors import NotFound
from sluicegate.fine_tuning.tuned_models import TunedModel, TunedModels
from sluicegate.storage.files import Files
from sluicegate.testing import FrozenClock, MemoryKeys, MemoryStorage

JOB = "ftjob-" + "1" * 32
ID = "smollm2-135m.ft-" + "2" * 32


@pytest.fixture
def files():
    return Files(MemoryStorage(), MemoryKeys(), clock=FrozenClock())


@pytest.fixture
def models(files):
    return TunedModels(MemoryStorage(), files)


async def add(models, files, account="contoso", id=ID, step=None, file="w1"):
    async def weights():
        yield f"weights {account} {file}".encode()

    await files.store(account, JOB).write(file, weights())
    model = TunedModel(id, account, "smollm2-135m", JOB, step, datetime(2026, 1, 1, tzinfo=UTC), file)
    await models.add(model)
    return model


async def test_a_model_and_its_checkpoint_are_found_by_their_ids(models, files):
    model = await add(models, files)
    checkpoint = await add(models, files, id=f"{ID}:ckpt-step-7", step=7, file="w2")

    assert await models.get("contoso", ID) == model
    assert await models.get("contoso", checkpoint.id) == checkpoint
    assert {each.id for each in await models.list("contoso")} == {model.id, checkpoint.id}
    assert b"".join([piece async for piece in models.weights(checkpoint).read()]) == b"weights contoso w2"


async def test_adding_a_model_again_keeps_the_verdict(models, files):
    model = await add(models, files)
    await models.judge("contoso", ID, deployable=False)

    await models.add(model)

    assert (await models.get("contoso", ID)).deployable is False


@pytest.mark.parametrize("id", ["../contoso", "", "a" * 500, "x:", f"{ID}?"])
async def test_what_cannot_be_an_id_is_not_found(models, id):
    assert await models.get("contoso", id) is None


async def test_another_account_has_no_part_in_it(models, files):
    await add(models, files)

    assert await models.get("fabrikam", ID) is None
    assert await models.list("fabrikam") == []
    assert not await models.delete("fabrikam", ID)
    assert await models.get("contoso", ID) is not None


async def test_weights_go_with_their_model(models, files):
    model = await add(models, files)
    weights = models.weights(model)
    assert await weights.exist()

    assert await models.delete("contoso", ID)

    assert not await weights.exist()
    assert [file async for file in files.store("contoso", JOB).names()] == []
    with pytest.raises(NotFound):
        await anext(weights.read())
    assert await models.get("contoso", ID) is None


async def test_a_model_whose_weights_are_gone_is_not_added_again(models, files):
    model = await add(models, files)
    await models.delete("contoso", ID)

    await models.add(model)

    assert await models.get("contoso", ID) is None
