"""The examples of the documents do what the documents say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from sluicegate import Refused, Source
from sluicegate.policies import ContentFilter, Policy
from sluicegate.testing import check_plugin, post_filtered
from tests.wire.cues import user
from tests.wire.serving import ROOT, Server, copy_of_the_product, environment

EXAMPLE = re.compile(r"<!-- example: (?P<name>[^ ]+) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL)
ADDRESS = "ada@example.org"


def examples(document: str) -> dict[str, str]:
    """Return the marked examples of a document."""
    return {found["name"]: found["text"] for found in EXAMPLE.finditer((ROOT / document).read_text())}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """The product as ``make run`` serves it, with its data in ``.data`` of the folder where the examples run."""
    with Server(tmp_path_factory.mktemp("readme") / ".data") as server:
        yield server


def run(command: list[str], folder: Path) -> str:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


async def test_the_example_of_vetting_holds_back_what_it_finds():
    module = ModuleType("no_darn", "As the page says.")
    exec(compile(examples("docs/writing-plugins.md")["plugins/no_darn.py"], "no_darn", "exec"), vars(module))
    policy = Policy("strict", filters=(ContentFilter("Profanity", Source.COMPLETION),))
    check_plugin(module)

    with pytest.raises(Refused) as refused:
        await post_filtered(module, "Oh darn it.", policy=policy)

    assert refused.value.results == {"profanity": {"filtered": True, "detected": True}}
    assert await post_filtered(module, "Oh dear.", policy=policy) == "Oh dear."


def test_the_readme_has_its_examples():
    assert examples("README.md").keys() == {"python", "sh"}


def test_the_readmes_python_runs(server):
    printed = run([sys.executable, "-c", examples("README.md")["python"]], server.data.parent)

    assert len(printed.split()) > 1


def test_the_readmes_shell_runs(server):
    script = examples("README.md")["sh"]
    assert "http://127.0.0.1:7071" in script

    printed = run(["bash", "-c", script.replace("http://127.0.0.1:7071", server.endpoint)], server.data.parent)

    assert json.loads(printed)["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Path:
    """A copy of the product into which the plugin of ``docs/writing-plugins.md`` was dropped, as that page says."""
    folder = copy_of_the_product(tmp_path_factory.mktemp("writing") / "app")
    page = (ROOT / "docs" / "writing-plugins.md").read_text()
    (folder / "plugins" / "redact_email.py").write_text(examples("docs/writing-plugins.md")["plugins/redact_email.py"])
    changes, settings = re.search(r"```toml\n\[pipeline\]\n(.*?)\n\n(\[plugins.*?)```", page, re.DOTALL).groups()
    deployment = (ROOT / "tests" / "wire" / "deployments" / "full.toml").read_text()
    for change in changes.splitlines():
        stage = change.partition(" ")[0]
        deployment, count = re.subn(rf"^{stage} = .*$", change, deployment, flags=re.MULTILINE)
        assert count == 1
    (folder / "config" / "deployment.toml").write_text(f"{deployment}\n{settings}")
    return folder


def test_the_plugin_of_the_page_is_short():
    plugin = examples("docs/writing-plugins.md")["plugins/redact_email.py"]

    assert len([line for line in plugin.splitlines() if line.strip()]) < 30


def test_the_plugin_of_the_page_loads_and_is_described(app):
    for command in ("check", "describe"):
        ended = subprocess.run(
            [sys.executable, "-m", "sluicegate", command],
            cwd=app, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, "")

    assert "- redact_email (plugins/): Replace e-mail addresses in prompts and answers." in ended.stdout
    assert "replacement = '<address>'" in ended.stdout


@pytest.mark.parametrize("stream", [False, True])
def test_the_plugin_of_the_page_works(app, tmp_path, stream):
    with Server(tmp_path / "data", cwd=app) as server:
        headers = {"api-key": server.credentials["api_key"]}
        url = f"{server.endpoint}/openai/v1/chat/completions"
        asked = {"model": "chat", "messages": [{"role": "user", "content": f"mail {ADDRESS}"}], "stream": stream}
        said = {"model": "chat", "messages": user("mail ada@", "example", ".org now"), "stream": stream}
        answers = [httpx.post(url, json=body, headers=headers).text for body in (asked, said)]

    for answer in answers:
        assert "<address>" in answer
        assert "ada@" not in answer
        assert "example" not in answer


def test_the_tests_of_the_page_pass(app):
    (app / "test_redact_email.py").write_text(examples("docs/writing-plugins.md")["test"])

    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_redact_email.py"],
        cwd=app, env=os.environ | {"PYTEST_ADDOPTS": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stdout
    assert "3 passed" in ended.stdout
