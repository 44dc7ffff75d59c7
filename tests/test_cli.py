"""The command line as its users meet it: a process, its output, its exit status, and the files it leaves."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.wire.cues import Cues, user
from tests.wire.serving import ROOT, Server, copy_of_the_product, environment

FIELDS = {
    "endpoint", "account", "api_key", "chat_deployment", "embedding_deployment", "operator_key", "reviewer_keys", "officer_key",
}  # fmt: skip
UNCACHED = {"PYTHONDONTWRITEBYTECODE": "1"}
"""For a module that is written anew: Python would take its cached form if it was written in the same second."""
FULL = (ROOT / "tests" / "wire" / "deployments" / "full.toml").read_text()
FAREWELL = '''
"""Say farewell."""

from dataclasses import replace

from sluicegate import PluginConfig, hookimpl


class Config(PluginConfig):
    words: str = "Farewell."


@hookimpl
def register_config():
    return Config


@hookimpl
async def post_filter(chunks, config):
    async for chunk in chunks:
        if chunk.finish_reason:
            yield replace(chunk, text=f" {config.words}")
        else:
            yield chunk
'''


@pytest.fixture
def cues(tmp_path) -> Iterator[Cues]:
    cues = Cues(tmp_path / "cues")
    yield cues
    cues.close()


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """The data folder of a server that was started once and stopped."""
    with Server(tmp_path_factory.mktemp("first") / "data", "full") as server:
        return server.data


@pytest.fixture
def data(first, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(first, tmp_path / "data")


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Path:
    """A copy of the product; every test that uses it writes the plugin ``farewell`` and the deployment file."""
    return copy_of_the_product(tmp_path_factory.mktemp("copy") / "app")


def run(
    *arguments: str, cwd: Path = ROOT, deployment: str | Path | None = "full", **settings: str
) -> tuple[int, str, str]:
    """Run a command to its end; return its exit status and what it printed, twice."""
    command = [sys.executable, "-m", "sluicegate", *arguments]
    ended = subprocess.run(
        command,
        cwd=cwd,
        env=environment(deployment, **settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


# --- first run -------------------------------------------------------------------------------------------------------


def test_the_first_start_makes_an_account_and_tells_no_key(tmp_path):
    data = tmp_path / "data"

    with Server(data, "full") as server:
        written = credentials(data)

    assert written.keys() == FIELDS
    assert (written["endpoint"], written["account"]) == (server.endpoint, "default")
    assert (written["chat_deployment"], written["embedding_deployment"]) == ("chat", "embedding")
    keys = [written["api_key"], written["operator_key"], written["officer_key"], *written["reviewer_keys"]]
    assert len(set(keys)) == 5
    assert min(map(len, keys)) >= 43
    assert stat.S_IMODE((data / "credentials.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert not [key for key in keys if key in server.printed + server.log.read_text()]


def test_a_later_start_keeps_the_keys_and_tells_the_new_address(data):
    before = credentials(data)

    with Server(data, "full") as server:
        answer = ask(server, before["api_key"])

    assert credentials(data) == {**before, "endpoint": server.endpoint}
    assert answer.status_code == 200


def test_every_data_folder_has_its_own_keys(first, tmp_path):
    with Server(tmp_path / "other", "full") as server:
        assert ask(server, credentials(first)["api_key"]).status_code == 401


def test_a_first_start_that_was_cut_short_is_gone_on_with(data):
    [account] = (data / "storage" / "accounts" / "account").iterdir()
    account.unlink()

    with Server(data, "full") as server:
        assert ask(server, credentials(data)["api_key"]).status_code == 200


def credentials(data: Path) -> dict[str, Any]:
    return json.loads((data / "credentials.json").read_text())


def ask(server: Server, api_key: str) -> httpx.Response:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(f"{server.endpoint}/openai/v1/chat/completions", headers={"api-key": api_key}, json=body)


def test_what_it_prints_can_be_pasted(data):
    with Server(data, "full") as server:
        shell, python = re.search(
            r"With curl:\n(.*)With Python.*?:\n(.*)", wait_for_snippets(server), re.DOTALL
        ).groups()
        curl = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=True)
        script = "\n".join(line.strip() for line in python.splitlines())
        said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert json.loads(curl.stdout)["choices"][0]["message"]["content"] == "You said: What is the capital of France?"
    assert said.stdout == "You said: What is the capital of France?\n"


def wait_for_snippets(server: Server) -> str:
    while "print(answer" not in server.printed:
        httpx.get(f"{server.endpoint}/healthz")
    return server.printed


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_embedded_keys_are_not_served_to_the_network(tmp_path, host):
    status, printed, said = run("serve", "--port", "0", "--host", host, "--data", str(tmp_path / "data"))

    assert (status, printed) == (1, "")
    assert said == (
        f"sluicegate: refusing to serve on {host} with keys in a local folder: use 127.0.0.1, or set SLUICEGATE_KEYS\n"
    )
    assert not (tmp_path / "data").exists()


def test_a_port_that_is_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        status, _, said = run("serve", "--port", str(port), "--data", str(tmp_path / "data"))

    assert (status, said) == (
        1,
        f"sluicegate: port {port} is in use; choose another: PORT={port + 1} make run, or --port {port + 1}\n",
    )


@pytest.mark.parametrize("port", ["65536", "99999", "-1", "http"])
def test_a_port_that_is_none(tmp_path, port):
    status, _, said = run("serve", f"--port={port}", "--data", str(tmp_path / "data"))

    assert status == 2
    assert f"a port is a number from 0 to 65535, not '{port}'" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{oops", "cannot be read (JSONDecodeError); restore it or choose another DATA folder"),
        ("[]", "is not what the first start wrote; restore it or choose another DATA folder"),
        (None, "is missing, and keys cannot be read back; restore it or choose another DATA folder"),
    ],
    ids=["corrupted", "something else", "missing"],
)
def test_credentials_that_were_lost(data, content, message):
    path = data / "credentials.json"
    path.unlink() if content is None else path.write_text(content)

    status, printed, said = run("serve", "--port", "0", "--data", str(data))

    assert (status, printed, said) == (1, "", f"sluicegate: {path} {message}\n")


def test_credentials_of_another_folder(first, tmp_path):
    path = shutil.copy(first / "credentials.json", tmp_path)

    status, _, said = run("serve", "--port", "0", "--data", str(tmp_path))

    assert (status, said) == (
        1,
        f"sluicegate: {path} names an account that storage does not know; move the file away to make a new one\n",
    )


def test_a_data_folder_that_is_a_file(tmp_path):
    (tmp_path / "data").touch()

    status, printed, said = run("serve", "--port", "0", "--data", str(tmp_path / "data"))

    assert (status, printed) == (1, "")
    assert said.startswith(f"sluicegate: {tmp_path / 'data'} cannot be the data folder: File exists")
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_schedule_that_is_none_stops_the_start(tmp_path, command):
    status, printed, said = run(command, "--data", str(tmp_path / "data"), PURGE_SCHEDULE="hourly")

    assert (status, printed) == (1, "")
    assert said.startswith("sluicegate: function purge: schedule 'hourly' is neither NCRONTAB")


@pytest.mark.parametrize("command", ["serve", "check", "describe"])
def test_a_deployment_file_that_is_not_there(tmp_path, command):
    status, printed, said = run(command, "--data", str(tmp_path), deployment=tmp_path / "nowhere.toml")

    assert (status, printed) == (1, "")
    assert said == f"sluicegate: {tmp_path / 'nowhere.toml'}: cannot be read: No such file or directory\n"


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_an_answer_in_progress_end(data, cues, number):
    with Server(data, "full", REHEARSAL_CUES=str(cues.path)) as server:
        headers = {"api-key": server.credentials["api_key"]}
        body = {"model": "chat", "messages": user("one ", {"cue": "go on"}, "two"), "stream": True}
        url = f"{server.endpoint}/openai/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as response:
            pieces = response.iter_text()
            received = next(pieces)
            server.process.send_signal(number)
            wait_until_closed(server)
            cues.give("go on")
            received += "".join(pieces)
        status = server.ended()

    assert received.endswith("data: [DONE]\n\n")
    assert '"two"' in received
    assert (status, server.log.read_text()) == (0, "")


def test_a_second_signal_ends_it_at_once(data, cues):
    with Server(data, "full", REHEARSAL_CUES=str(cues.path)) as server:
        headers = {"api-key": server.credentials["api_key"]}
        body = {"model": "chat", "messages": user("one ", {"cue": "never"}), "stream": True}
        url = f"{server.endpoint}/openai/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as response:
            pieces = response.iter_text()
            next(pieces)
            server.process.send_signal(signal.SIGINT)
            wait_until_closed(server)
            server.process.send_signal(signal.SIGINT)
            status = server.ended()

    assert status == 128 + signal.SIGINT


def wait_until_closed(server: Server) -> None:
    """Wait until no connection is accepted any more."""
    url = httpx.URL(server.endpoint)
    while True:
        try:
            socket.create_connection((url.host, url.port)).close()
        except ConnectionError:
            return


def test_an_idle_server_ends_with_success_and_leaves_nothing_unfinished(tmp_path):
    server = Server(tmp_path / "data", "full")

    assert server.stop(signal.SIGINT) == 0
    assert not list((tmp_path / "data" / "storage").glob(".staging-*"))


# --- check and describe ----------------------------------------------------------------------------------------------


def test_check_counts_what_is_there(tmp_path):
    status, printed, said = run("check", "--data", str(tmp_path / "data"))

    assert (status, said) == (0, "")
    assert re.fullmatch(r"ok: \d+ plugins, 2 models\n", printed)
    assert not (tmp_path / "data").exists()


def test_describe_names_installed_plugins_and_where_they_come_from(tmp_path):
    status, printed, said = run("describe", "--data", str(tmp_path / "data"))

    assert (status, said) == (0, "")
    assert "- scripted_model (rehearsal 1.0): Models that do what the prompt's script says." in printed
    assert (
        "model rehearsal-chat (chat.completions, completions); its provider keeps: the script, in the theatre's archive"
        in printed
    )
    assert "- blocklists (plugins/): " in printed
    stages = re.findall(r"^\d\. .* \((\w+)\)$", printed, re.MULTILINE)
    assert stages == ["authenticate", "pre_filter", "models", "post_filter", "retain", "observe", "review", "notify"]
    assert "Nothing is kept longer than 30 days, whatever the settings say." in printed
    assert "Training data cannot be evaluated for harm" in printed


def test_an_approval_of_modified_filters_is_described_until_it_is_withdrawn(first):
    data = ("--data", str(first))
    accounts = "Accounts whose policies may switch harms off: "

    approved, printed, _ = run("modified-filters", "default", "--approve", "--reason", "TICKET-1", *data)
    _, while_approved, _ = run("describe", *data)
    run("modified-filters", "default", "--withdraw", "--reason", "TICKET-2", *data)
    _, afterwards, _ = run("describe", *data)

    assert (approved, printed) == (0, "default: approved for modified filters\n")
    assert f"{accounts}default." in while_approved
    assert f"{accounts}none." in afterwards


def test_an_approval_that_cannot_be_logged_or_has_no_account_is_none(first):
    data = ("--data", str(first))

    nobody = run("modified-filters", "nobody", "--approve", "--reason", "TICKET-1", *data)
    unlogged = run("modified-filters", "default", "--approve", "--reason", "somebody@example.com", *data)

    assert nobody == (1, "", "sluicegate: account 'nobody' is not changed: There is no account 'nobody'.\n")
    assert (unlogged[0], unlogged[1]) == (1, "")
    assert "reason" in unlogged[2]
    assert "somebody" not in unlogged[2]
    assert "may switch harms off: none." in run("describe", *data)[1]


def test_policies_of_the_deployment_file_are_described(tmp_path):
    policies = """
default_policy = "birds"

[policies.birds]
contentFilters = [{ name = "Indirect Attack", source = "Prompt", blocking = false }]
customBlocklists = [{ blocklistName = "codenames", source = "Completion" }]

[blocklists.codenames]
items = [{ pattern = "Nightjar" }]

"""
    deployment = tmp_path / "deployment.toml"
    deployment.write_text(changed(FULL, "[pipeline]", f"{policies}[pipeline]"))

    _, printed, _ = run("describe", "--data", str(tmp_path / "data"), deployment=deployment)

    assert "Deployments that name no content-filter policy have birds." in printed
    assert (
        "- birds (Default): Prompt blocks Hate, Sexual, Violence, Selfharm, Jailbreak, notes Indirect Attack" in printed
    )
    assert "Completion blocks what is on the list codenames (1 items)" in printed


def test_an_installed_plugin_that_is_not_named_is_not_loaded(tmp_path):
    _, printed, _ = run("describe", "--data", str(tmp_path), deployment=None)

    assert "scripted_model" not in printed


def test_a_plugin_that_is_dropped_into_the_folder_runs_and_is_described(tmp_path, app):
    (app / "plugins" / "farewell.py").write_text(FAREWELL)
    deployment = changed(FULL, 'post_filter = ["faulty"', 'post_filter = ["farewell"')
    (app / "config" / "deployment.toml").write_text(f'{deployment}\n[plugins.farewell]\nwords = "%FAREWELL%"\n')

    _, described, _ = run("describe", cwd=app, deployment=None, FAREWELL="Adieu.", **UNCACHED)
    with Server(tmp_path / "data", None, cwd=app, FAREWELL="Adieu.", **UNCACHED) as server:
        answer = ask(server, server.credentials["api_key"]).json()

    assert "- farewell (plugins/): Say farewell.\n       words = '%FAREWELL%'\n" in described
    assert answer["choices"][0]["message"]["content"] == "You said: hello Adieu."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "yield ",
            "_ = ",
            "plugin 'farewell', hook post_filter: must be async def with yield",
        ),
        ("(chunks, config)", "(chunks, colour)", "plugin 'farewell'"),
        (
            "(chunks, config)",
            "(chunks, config=None)",
            "plugin 'farewell', hook post_filter: parameters must be positional",
        ),
        ("@hookimpl\nasync", "async", "plugin 'farewell', hook post_filter: must be marked with @hookimpl"),
        (
            "@hookimpl\nasync",
            "@hookimpl(tryfirst=True)\nasync",
            "plugin 'farewell', hook post_filter: the order of plugins",
        ),
        ("def post_filter", "def post_fitler", "plugin 'farewell'"),
        ("import replace", "import replase", "plugin 'farewell' cannot be imported: ImportError"),
        ("words: str", "phrases: str", "[plugins.farewell] words"),
        ("words: str = ", "words: int = ", "[plugins.farewell] words"),
    ],
)
def test_a_plugin_that_breaks_a_rule_stops_the_start(app, old, new, message):
    (app / "plugins" / "farewell.py").write_text(changed(FAREWELL, old, new))
    (app / "config" / "deployment.toml").write_text(f'{FULL}\n[plugins.farewell]\nwords = "Adieu."\n')

    status, printed, said = run("check", cwd=app, deployment=None, **UNCACHED)

    assert (status, printed) == (1, "")
    assert said.startswith(f"sluicegate: {message}")


def test_an_installed_plugin_that_is_not_there_stops_the_start(tmp_path):
    path = tmp_path / "deployment.toml"
    path.write_text(changed(FULL, '"witness"]\n\n', '"witness", "understudy"]\n\n'))

    assert run("check", deployment=path) == (1, "", "sluicegate: no installed plugin is called 'understudy'\n")


# --- receipts --------------------------------------------------------------------------------------------------------


def test_saved_receipts_are_verified_where_there_is_nothing_else(tmp_path, data):
    with Server(data, "full") as server:
        headers = {"api-key": server.credentials["officer_key"]}
        query = {"all": "true", "reason": "ticket 17"}
        httpx.delete(f"{server.endpoint}/governance/retained", headers=headers, params=query, timeout=60)
    folder = tmp_path / "receipts"

    assert run("receipts", "--save", str(folder), "--data", str(data)) == (0, f"receipts in {folder}: 1\n", "")
    [receipt] = folder.glob("default-*.json")
    nowhere = {"deployment": tmp_path / "nowhere.toml", "SLUICEGATE_STORAGE": "gopher:", "SLUICEGATE_KEYS": "gopher:"}
    status, printed, said = run("verify-receipt", str(receipt), "--key", str(folder / "public.jwk"), **nowhere)

    assert (status, said) == (0, "")
    assert printed.startswith(f"VERIFIED: receipt {receipt.stem.removeprefix('default-')}\n")
    assert "delete.account of default, account default" in printed

    assert run("receipts", "--save", str(receipt), "--data", str(data)) == (
        1,
        "",
        f"sluicegate: {receipt}: cannot be written to: File exists\n",
    )

    receipt.write_text(changed(receipt.read_text(), '"blobs": ', '"blobs": 1'))
    status, printed, said = run("verify-receipt", str(receipt), "--key", str(folder / "public.jwk"), **nowhere)
    assert (status, said) == (1, "")
    assert printed.startswith("NOT VERIFIED: ")


# --- demo ------------------------------------------------------------------------------------------------------------


def test_the_demo_tells_its_story_to_the_end():
    status, printed, said = run("demo", deployment=None)

    assert (status, said) == (0, "")
    assert re.findall(r"^(\d+)\. ", printed, re.MULTILINE) == [str(number) for number in range(1, 11)]
    assert "HTTP 400, code content_filter" in printed
    assert re.search(r"files that hold the words .*: 0$", printed, re.MULTILINE)
    assert "files of that day and its keys left: 0" in printed
    assert re.search(r"^ +VERIFIED: receipt [0-9a-f-]+$", printed, re.MULTILINE)
    assert re.search(r"The key ret-\d{8} was destroyed and was absent afterwards", printed)


def test_the_version():
    assert run("--version") == (0, "0.1.0\n", "")
