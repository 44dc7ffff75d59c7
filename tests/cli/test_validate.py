"""The command ``validate`` as its users meet it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.training_data.rows import answer, chat, good, lines, user

SECRET = "zebra-crossing"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "good.jsonl").write_bytes(good())
    (tmp_path / "bad.jsonl").write_bytes(good() + lines(chat(user(SECRET), answer("", weight=3))) * 5)
    (tmp_path / "valid.jsonl").write_bytes(good(2))
    return tmp_path


def run(folder, *arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    """Return the exit status, what was printed and what was said on standard error."""
    ended = subprocess.run(
        [sys.executable, "-m", "sluicegate", "validate", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        input=given,
        capture_output=True,
        check=False,
    )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def test_good_data_is_summed_up(files):
    status, printed, said = run(files, "good.jsonl")

    assert (status, said) == (0, "")
    assert printed.startswith("good.jsonl: 12 lines, 12 good examples (chat), 0 errors, 0 warnings\n")
    assert "estimated from characters; no context was given." in printed
    assert printed.endswith("\nNo errors.\n")


def test_the_model_counts_against_its_own_context(files):
    long = lines(chat(user("word " * 5000), answer("Yes.")))
    (files / "long.jsonl").write_bytes(good() + long)

    status, printed, _ = run(files, "long.jsonl", "--model", "smollm2-135m-instruct", "--json")
    guessed = json.loads(run(files, "long.jsonl", "--context", "4096", "--json")[1])

    report = json.loads(printed)
    assert (status, report["context"], report["training"]["tokens_are"]) == (1, 4096, "counted")
    assert report["training"]["counts"] == {"context_exceeded": 1}
    assert guessed["training"]["tokens_are"] == "estimated"
    assert report["training"]["statistics"]["tokens"] != guessed["training"]["statistics"]["tokens"]
    assert not (files / ".data").exists()


def test_a_model_that_nobody_counts_for_is_refused_with_those_there_are(files):
    status, printed, said = run(files, "good.jsonl", "--model", "all-minilm-l6-v2")

    assert (status, printed) == (2, "")
    assert "smollm2-135m-instruct" in said


def test_findings_are_grouped_with_places_and_what_to_do(files):
    status, printed, _ = run(files, "bad.jsonl")

    assert status == 1
    assert (
        "error     weight_invalid      5  13 messages[1].weight, 14 messages[1].weight, 15 messages[1].weight, …"
        in printed
    )
    assert "  weight_invalid: The weight is neither 0 nor 1. Use the number 0 or 1, or leave it out.\n" in printed
    assert SECRET not in printed


def test_programs_read_json(files):
    status, printed, _ = run(files, "bad.jsonl", "--json", "--context", "100")
    report = json.loads(printed)

    assert status == 1
    assert (report["valid"], report["context"], report["validation"]) == (False, 100, None)
    assert report["training"]["findings"][0] == {
        "severity": "error",
        "code": "weight_invalid",
        "line": 13,
        "field": "messages[1].weight",
        "column": None,
        "other_line": None,
        "what": "The weight is neither 0 nor 1.",
        "fix": "Use the number 0 or 1, or leave it out.",
    }


def test_validation_data_is_read_with_it(files):
    status, printed, _ = run(files, "-", "--validation", "valid.jsonl", given=good())

    assert status == 0
    assert "warning   leak      2  1 as 1, 2 as 2" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.jsonl",), "sluicegate: nowhere.jsonl: No such file or directory\n"),
        (("good.jsonl", "--validation", "."), "sluicegate: .: Is a directory\n"),
        (("good.jsonl", "--context", "0"), "a context is a number of tokens, not '0'\n"),
        ((), "the following arguments are required: FILE\n"),
    ],
)
def test_what_cannot_be_read_ends_with_2(files, arguments, said):
    status, printed, errors = run(files, *arguments)

    assert (status, printed) == (2, "")
    assert errors.endswith(said)
