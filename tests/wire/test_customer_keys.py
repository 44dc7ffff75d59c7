"""An account's own key on a laptop: named from the command line, revoked by its owner, and nothing is served any more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import httpx
import pytest

from plugins import local_keys
from tests.conftest import ROOT
from tests.wire.serving import Server, records

CANARY = "my lucky number is 74093"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The data folder of a server that was started once and stopped."""
    data = tmp_path_factory.mktemp("first") / "data"
    with Server(data):
        pass
    return data


@pytest.fixture
def data(first, tmp_path):
    """A copy of it."""
    return shutil.copytree(first, tmp_path / "data")


@pytest.fixture
async def vault(tmp_path):
    """A customer's folder of keys, with one."""
    folder = tmp_path / "customer"
    await local_keys.open_keys(f"folder:{folder}").create("mine")
    return folder


def run(*arguments, data):
    ended = subprocess.run(
        [sys.executable, "-m", "sluicegate", *arguments, "--data", str(data)],
        cwd=ROOT,
        env={**os.environ, "SLUICEGATE_STORAGE": f"folder:{data / 'storage'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def ask(server, path="chat/completions", **body):
    given = {"model": "chat", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 2, **body}
    headers = {"api-key": server.credentials["api_key"]}
    return httpx.post(f"{server.endpoint}/openai/v1/{path}", json=given, headers=headers, timeout=120)


async def test_who_takes_the_key_away_is_not_served_and_who_gives_it_back_is(data, vault):
    named = ("encryption", "default", "--vault", f"folder:{vault}", "--key", "mine", "--reason", "ticket 7")
    said = "account 'default': the key 'mine' of its own; 0 data keys wrapped anew\n"
    assert run(*named, data=data) == (0, said, "")
    with Server(data) as server:
        assert ask(server).status_code == 200
        files = f"{server.endpoint}/openai/v1/files"
        caller = {"api-key": server.credentials["api_key"]}
        form = {"files": {"file": (f"{CANARY}.jsonl", CANARY.encode())}, "data": {"purpose": "fine-tune"}}
        kept, doomed = (httpx.post(files, headers=caller, **form, timeout=60).json()["id"] for _ in range(2))
    # Two in the hour before midnight, when the next day's is made ahead.
    rings = [json.loads(ring.read_bytes()) for ring in (data / "storage").glob("keyring-*/default/keep_encrypted/_*")]
    assert [ring["customer"]["vault"] for ring in rings] == [f"folder:{vault}"] * len(rings) != []

    vault.rename(vault.with_name("taken"))
    with Server(data) as server:
        refused = [ask(server, stream=stream) for stream in (False, True)]
        surface = f"{server.endpoint}/openai/v1"
        files, embedding = f"{surface}/files", {"model": "embedding", "input": CANARY}
        refused.append(httpx.post(f"{surface}/embeddings", headers=caller, json=embedding, timeout=60))
        refused += [
            httpx.get(files + rest, headers=caller, timeout=60) for rest in ("", f"/{kept}", f"/{kept}/content")
        ]
        refused.append(httpx.post(files, headers=caller, **form, timeout=60))
        assert httpx.delete(f"{files}/{doomed}", headers=caller, timeout=60).json()["deleted"]
        headers = {"api-key": server.credentials["officer_key"]}
        listed = httpx.get(f"{server.endpoint}/governance/retained?reason=test", headers=headers, timeout=60)
        deleted = httpx.delete(
            f"{server.endpoint}/governance/retained?all=true&reason=test", headers=headers, timeout=60
        )
        assert httpx.get(f"{server.endpoint}/healthz", timeout=60).json()["status"] == "ok"

    for answer in refused:
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "EncryptionKeyRevoked"
        assert answer.json()["error"]["message"].startswith(
            "The encryption key of account 'default', 'mine', is disabled"
        )
        assert str(vault) not in answer.text
    assert (listed.status_code, listed.json()["error"]["code"]) == (403, "EncryptionKeyRevoked")
    assert deleted.status_code == 200
    assert CANARY not in server.log.read_text()

    vault.with_name("taken").rename(vault)
    with Server(data) as server:
        assert ask(server).status_code == 200


async def test_what_was_kept_before_follows_the_key_with_the_command(data, vault):
    with Server(data) as server:
        assert ask(server).status_code == 200
    named = ("encryption", "default", "--vault", f"folder:{vault}", "--key", "mine", "--reason", "ticket 7")

    # Two in the hour before midnight, when the next day's is made ahead.
    anew = [f"; {count} data keys wrapped anew\n" for count in (1, 2)]

    status, printed, said = run(*named, data=data)

    assert (status, said) == (0, "")
    said_of_key, _, count = printed.partition("; ")
    assert said_of_key == "account 'default': the key 'mine' of its own"
    assert f"; {count}" in anew
    assert run("rewrap", data=data) == (0, "0 data keys wrapped anew\n", "")

    assert "Accounts with an encryption key of their own: default ('mine')." in run("describe", data=data)[1]
    assert run("encryption", "default", "--none", "--reason", "ticket 8", data=data)[:2] == (
        0,
        f"account 'default': no key of its own any more; {count}",
    )
    assert [CANARY in json.dumps(record) for record in (await records(data)).values()] == [True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["default", "--vault", "{vault}", "--key", "other"],
            "the key 'other' cannot be used: there is no key 'other' in that folder",
        ),
        (["default", "--vault", "{vault}", "--key", "under_score"], "keyName"),
        (["default", "--key", "mine"], "keyVaultUri"),
        (["default", "--vault", "{own}", "--key", "mine"], "of the kind of the deployment's own, and another one"),
        (["default", "--vault", "https://contoso.vault.azure.net", "--key", "mine"], "of the kind of the deployment's"),
        (["absent", "--vault", "{vault}", "--key", "mine"], "there is no account 'absent'"),
    ],
    ids=["no such key", "a bad name", "no vault", "our own vault", "another kind", "no such account"],
)
def test_a_key_that_cannot_be_used_changes_nothing_and_is_told_why(data, vault, arguments, message):
    given = [each.format(vault=f"folder:{vault}", own=f"folder:{data / 'keys'}") for each in arguments]

    status, printed, said = run("encryption", *given, "--reason", "ticket 7", data=data)

    assert (status, printed) == (1, "")
    assert message in said
    assert "Traceback" not in said
    assert "key of their own: none" in run("describe", data=data)[1]
