"""The commands of the control plane, as an operator types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wire.serving import ROOT, environment


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("operator") / "data"


@pytest.fixture(scope="module")
def run(data):
    def command(*arguments: str, status: int = 0) -> str:
        """Return what a command printed; or, where it must fail, what it said."""
        ended = subprocess.run(
            [sys.executable, "-m", "sluicegate", *arguments, "--data", str(data)],
            cwd=ROOT,
            env=environment("full"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == status, ended.stderr
        assert (ended.stderr == "") is (status == 0)
        return ended.stdout or ended.stderr

    return command


@pytest.fixture(scope="module")
def contoso(run) -> str:
    run("account", "create", "Contoso", "--retention-days", "7", "--tag", "team=blue")
    return "contoso"


def test_accounts_are_listed_in_a_table_or_as_json(run, contoso):
    lines = run("account", "list").splitlines()
    answer = json.loads(run("account", "list", "--json"))

    assert re.split(r"  +", lines[0]) == ["name", "location", "kept, days", "own key", "tags", "resource group"]
    assert lines[2].split() == ["Contoso", "local", "7", "team=blue", "default"]
    assert [each["name"] for each in answer] == ["Contoso"]


def test_the_way_from_an_account_to_a_key(run, contoso):
    assert "10,000 tokens/min" in run(
        "deployment", "create", contoso, "chat", "--model", "rehearsal-chat", "--capacity", "10"
    )
    before = json.loads(run("key", "list", contoso, "--json"))
    after = json.loads(run("key", "regenerate", contoso, "key2", "--json"))

    assert after["key1"] == before["key1"] != after["key2"] != before["key2"]
    assert before["key1"] in run("key", "list", contoso)


def test_a_setting_is_changed_and_the_others_stay(run, contoso):
    run("account", "update", contoso, "--local-auth", "off")

    shown = json.loads(run("account", "show", contoso, "--json"))
    run("account", "update", contoso, "--local-auth", "on")

    assert shown["properties"]["disableLocalAuth"] is True
    assert shown["properties"]["apiProperties"] == {"retentionDays": 7}
    assert shown["tags"] == {"team": "blue"}


def test_a_policy_that_was_shown_can_be_set(run, contoso, tmp_path):
    file = tmp_path / "policy.json"
    file.write_text(
        '{"contentFilters": [{"name": "Hate", "source": "Prompt", "severityThreshold": "Low", "enabled": true, "blocking": true}]}'
    )
    run("policy", "set", contoso, "Strict", str(file))
    file.write_text(run("policy", "show", contoso, "strict"))

    run("policy", "set", contoso, "Stricter", str(file))

    listed = run("policy", "list", contoso)
    assert re.findall(r"^(\S+): ", listed, re.MULTILINE) == [
        "Microsoft.Default", "Microsoft.DefaultV2", "Strict", "Stricter",
    ]  # fmt: skip
    assert "Strict: UserManaged, Default\n   Prompt: Hate\n" in listed
    run("policy", "delete", contoso, "Stricter")
    assert "Stricter" not in run("policy", "list", contoso)


def test_roles_are_given_and_taken(run, contoso):
    assert (
        "oid-1     caller, officer"
        in [run("role", "assign", contoso, "oid-1", each) for each in ("officer", "caller")][1]
    )

    assert "caller" not in run("role", "withdraw", contoso, "oid-1", "caller")
    run("role", "withdraw", contoso, "oid-1", "officer")
    assert run("role", "list", contoso) == "none\n"


def test_a_deleted_account_is_restored_as_it_was_or_purged(run):
    run("account", "create", "fleeting", "--retention-days", "3", "--tag", "a=b")
    keys = run("key", "list", "fleeting")
    run("account", "delete", "fleeting")
    assert "fleeting" in run("account", "list", "--deleted")
    assert "fleeting" not in run("account", "list")

    run("account", "restore", "fleeting")
    assert run("key", "list", "fleeting") == keys
    assert json.loads(run("account", "show", "fleeting", "--json"))["properties"]["apiProperties"] == {
        "retentionDays": 3
    }

    run("account", "delete", "fleeting")
    run("account", "purge", "fleeting")
    assert "fleeting" not in run("account", "list", "--deleted")
    assert "nobody gets its name" in run("account", "create", "fleeting", status=1)


def test_what_happens_to_an_accounts_data_is_described(run, contoso):
    run("deployment", "create", contoso, "chat", "--model", "rehearsal-chat")

    printed = run("describe", contoso)

    assert printed.startswith("Account contoso, location local")
    assert "deployment chat: rehearsal-chat, served by scripted_model, its provider keeps: " in printed
    assert "what keep_encrypted keeps, encrypted, for 7 days at most" in printed
    assert (
        "counts of what filters found, without content, by end users' hashes where it may be abuse, for 7 days"
        in printed
    )
    assert "no key of its own" in printed
    assert "a reviewer of the region, what a case lists, for 60 minutes once a second reviewer approves" in printed
    assert "an operator, one exchange by its id, for 60 minutes once the customer approves" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["account", "show", "absent"], "was not found"),
        (["account", "delete", "absent"], "was not found"),
        (["account", "create", "other", "--retention-days", "31"], "retentionDays"),
        (["account", "create", "other", "--tag", "blue"], "a tag is NAME=VALUE"),
        (["account", "create", "-"], "account name is invalid"),
        (
            ["deployment", "create", "contoso", "x", "--model", "gpt-99"],
            "model of the account deployment is not supported. There are rehearsal-",
        ),
        (["policy", "set", "contoso", "Odd", "absent.json"], "absent.json: No such file"),
        (["role", "assign", "contoso", "a@b.de", "caller"], "sluicegate: "),
        (["describe", "absent"], "there is no account 'absent'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(run, contoso, arguments, said):
    printed = run(*arguments, status=1)

    assert said in printed
    assert printed.startswith("sluicegate: ")
    assert printed.count("\n") == 1
