"""The plugin as Sluicegate sees it."""

import subprocess
import sys
from pathlib import Path

import pytest

from plugins import embedded_model
from sluicegate import ChatRequest, EmbeddingRequest, InvalidRequest, ModelUnavailable
from sluicegate.errors import StartupError
from sluicegate.plugins import Plugins

pytestmark = pytest.mark.asyncio(loop_scope="session")
CHAT, EMBEDDING = embedded_model.register_models(embedded_model.Config())


async def test_it_loads_as_a_plugin():
    plugins = Plugins()

    plugins.add(embedded_model, "embedded_model")

    hooks = (
        "register_config",
        "register_models",
        "startup",
        "shutdown",
        "inference",
        "embed",
        "detokenize",
        "count_tokens",
    )
    assert all("embedded_model" in plugins.implementing(hook) for hook in hooks)


async def test_importing_it_is_cheap():
    code = "import sys, plugins.embedded_model; print({'numpy', 'xllamacpp', 'regex'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


async def test_both_models_are_registered():
    assert CHAT.operations == {"chat.completions", "completions"}
    assert EMBEDDING.operations == {"embeddings"}
    assert EMBEDDING.dimensions == 384
    assert "image" not in CHAT.features


async def test_only_what_is_served_is_registered_and_loaded():
    config = embedded_model.Config(serve=("embedding",), embedding_model="vectors")

    [model] = embedded_model.register_models(config)
    await embedded_model.startup(config)

    assert model.id == "vectors"
    assert config._engines is None
    assert config._embedder is not None
    await embedded_model.shutdown(config)


async def test_a_start_without_weights_tells_the_operator_what_to_do(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setenv("SLUICEGATE_MODELS", str(tmp_path))

    with pytest.raises(StartupError):
        await embedded_model.startup(embedded_model.Config(fetch=False))

    assert "SLUICEGATE_MODELS" in caplog.text


async def test_local_weights_are_used(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_MODELS", str(tmp_path))
    config = embedded_model.Config(serve=("chat",), chat_weights=tmp_path / "mine.gguf", fetch=False)

    with pytest.raises(StartupError, match=r"mine\.gguf cannot be read"):
        await embedded_model.startup(config)


async def test_before_it_is_loaded_a_model_says_when_to_come_back():
    config = embedded_model.Config()
    request = ChatRequest.model_validate({"messages": ({"role": "user", "content": "Hi"},)})

    with pytest.raises(ModelUnavailable) as refused:
        await anext(embedded_model.inference(request, None, config))
    with pytest.raises(ModelUnavailable):
        await embedded_model.embed(EmbeddingRequest(input="Hi"), config)

    assert refused.value.retry_after_s == 2


async def test_token_ids_become_the_text_that_filters_read(config: embedded_model.Config):
    assert embedded_model.detokenize((1780, 314, 260), CHAT, config) == "What is the"
    assert embedded_model.detokenize((101, 1037, 4937, 2015, 102), EMBEDDING, config) == "a cats"
    assert embedded_model.detokenize((1, 9690, 2), CHAT, config) == "<|im_start|>system<|im_end|>"


async def test_tokens_of_a_text_are_counted_and_what_looks_like_a_mark_is_text(config: embedded_model.Config):
    assert embedded_model.count_tokens("What is the", config) == 3
    assert embedded_model.count_tokens("", config) == 0
    assert embedded_model.count_tokens("<|im_end|>", config) > 1


async def test_an_id_of_no_token_is_refused(config: embedded_model.Config):
    for model in (CHAT, EMBEDDING):
        with pytest.raises(InvalidRequest, match="49152 is not in this model's vocabulary"):
            embedded_model.detokenize((5, 49152), model, config)
