"""Policies and blocklist items as JSON: what is read, and what an error names when it cannot be."""

from __future__ import annotations

import pytest

from sluicegate.errors import InvalidRequest
from sluicegate.expressions import compile_all
from sluicegate.policies import (
    DEFAULT,
    DEFAULT_V2,
    Blocklist,
    BlocklistItem,
    BlocklistUse,
    ContentFilter,
    Mode,
    Source,
    Threshold,
)
from sluicegate.tenancy.policy_documents import MAX_ITEMS, check_items, item_properties, read_item, read_policy

PROMPT, COMPLETION = Source.PROMPT, Source.COMPLETION


def hate(**fields):
    return {"contentFilters": [{"name": "Hate", "source": "Prompt", **fields}]}


def uses(*names):
    return {"customBlocklists": [{"blocklistName": name, "source": "Prompt"} for name in names]}


def test_a_policy_says_what_differs_from_its_base():
    document = read_policy(
        {
            "type": "UserManaged",
            "basePolicyName": "Microsoft.Default",
            "mode": "Asynchronous_filter",
            "contentFilters": [
                {"name": "Hate", "enabled": True, "blocking": True, "severityThreshold": "Low", "source": "Prompt"},
                {"name": "Indirect Attack", "enabled": True, "blocking": False, "source": "Prompt"},
            ],
            "customBlocklists": [{"blocklistName": "codenames", "blocking": True, "source": "Completion"}],
            "failOpen": True,
            "wholeRequest": True,
        }
    )
    codenames = Blocklist("codenames", (BlocklistItem("Nightjar"),))
    policy = document.resolved("strict", DEFAULT, {"codenames": codenames})

    assert (document.base, document.list_names) == ("Microsoft.Default", {"codenames"})
    assert (policy.name, policy.mode, policy.fail_open, policy.whole_request) == (
        "strict",
        Mode.ASYNCHRONOUS,
        True,
        True,
    )
    assert policy.blocklists == (BlocklistUse(codenames, COMPLETION),)
    assert policy.judge("hate", PROMPT, severity=2).blocks
    assert not policy.judge("hate", COMPLETION, severity=2).blocks
    assert not policy.judge("indirect_attack", PROMPT, detected=True).blocks
    assert policy.judge("jailbreak", PROMPT, detected=True) is None


def test_an_empty_policy_is_its_base():
    document = read_policy({})

    assert document.base == DEFAULT_V2.name
    assert document.resolved(DEFAULT_V2.name, DEFAULT_V2, {}) == DEFAULT_V2


def test_words_are_read_in_any_case_and_a_filter_blocks_unless_it_says_otherwise():
    document = read_policy(
        {"mode": "deferred", "contentFilters": [{"name": "selfHARM", "source": "prompt", "severityThreshold": "high"}]}
    )

    assert document.mode is Mode.DEFERRED
    assert document.filters == (ContentFilter("Selfharm", PROMPT, severity_threshold=Threshold.HIGH),)


def test_a_threshold_of_what_has_none_is_of_no_meaning():
    document = read_policy({"contentFilters": [{"name": "Jailbreak", "source": "Prompt", "severityThreshold": "High"}]})

    assert document.resolved("p", DEFAULT, {}).judge("jailbreak", PROMPT, detected=True).blocks


def test_what_is_written_can_be_read_again():
    properties = read_policy(hate(blocking=False)).properties

    assert read_policy(properties).properties == properties
    assert properties["contentFilters"] == [{"name": "Hate", "source": "Prompt", "enabled": True, "blocking": False}]


@pytest.mark.parametrize(
    ("properties", "param", "message"),
    [
        (None, "", "must be an object"),
        ([], "", "must be an object"),
        ({"colour": "red"}, ".colour", "no such property"),
        ({"mode": "Fast"}, ".mode", "must be one of Default, Deferred, Blocking, Asynchronous_filter"),
        ({"mode": 3}, ".mode", "must be one of"),
        ({"contentFilters": {}}, ".contentFilters", "must be an array"),
        ({"contentFilters": [5]}, ".contentFilters[0]", "must be an object"),
        (hate(name="Hatred"), ".contentFilters[0].name", "must be one of Hate, Sexual"),
        (hate(severityThreshold="Safe"), ".contentFilters[0].severityThreshold", "must be one of Low, Medium, High"),
        (hate(source="PreToolCall"), ".contentFilters[0].source", "must be one of Prompt, Completion"),
        (hate(blocking="yes"), ".contentFilters[0].blocking", "must be true or false"),
        (hate(allowedContentLevel="High"), ".contentFilters[0].allowedContentLevel", "no such property"),
        ({"contentFilters": [{"name": "Hate"}]}, ".contentFilters[0].source", "it is missing"),
        ({"contentFilters": hate()["contentFilters"] * 2}, ".contentFilters", "names Hate for Prompt twice"),
        (hate(name="Jailbreak", source="Completion"), ".contentFilters", "enables Jailbreak for Completion"),
        (hate(name="Task Adherence"), ".contentFilters", "enables Task Adherence, which is not supported"),
        ({"customTopics": [{"topicName": "x"}]}, ".customTopics", "custom topics are not supported"),
        (uses("a", "A"), ".customBlocklists", "names a blocklist twice"),
        (uses(*map(str, range(21))), ".customBlocklists", "at most 20 blocklists"),
        ({"customBlocklists": [{"source": "Prompt"}]}, ".customBlocklists[0].blocklistName", "it is missing"),
    ],
)
def test_what_cannot_be_read_is_named(properties, param, message):
    with pytest.raises(InvalidRequest) as caught:
        read_policy(properties)

    assert caught.value.param == f"properties{param}"
    assert message in caught.value.message


def test_a_filter_that_is_off_may_name_a_source_where_it_does_not_exist():
    assert read_policy(hate(name="Jailbreak", source="Completion", enabled=False))


def test_what_azure_alone_looks_for_may_be_named_to_be_off():
    document = read_policy(hate(name="Indirect Attack Spotlighting", enabled=False))

    [written] = document.properties["contentFilters"]
    assert (written["name"], written["enabled"]) == ("Indirect Attack Spotlighting", False)
    assert document.resolved("x", DEFAULT, {}).judge("hate", PROMPT, severity=6).blocks


@pytest.mark.parametrize("name", ["PII", "Personally Identifiable Information"])
def test_personal_data_has_two_names(name):
    document = read_policy(hate(name=name, source="Completion"))

    assert document.resolved("x", DEFAULT, {}).is_on("personally_identifiable_information", COMPLETION)


def test_what_does_not_block_of_the_harms_is_known_and_can_be_undone():
    weak = read_policy(hate(blocking=False)).resolved("p", DEFAULT_V2, {})
    off = read_policy(hate(enabled=False, source="Completion")).resolved("p", DEFAULT_V2, {})
    high = read_policy(hate(severityThreshold="High")).resolved("p", DEFAULT_V2, {})
    harmless = read_policy(hate(name="Jailbreak", enabled=False)).resolved("p", DEFAULT_V2, {})

    assert weak.weakened == ("Hate (Prompt)",)
    assert off.weakened == ("Hate (Completion)",)
    assert high.weakened == harmless.weakened == DEFAULT_V2.weakened == ()
    assert weak.strengthened().judge("hate", PROMPT, severity=4).blocks
    assert off.strengthened().judge("hate", COMPLETION, severity=4).blocks
    assert not high.strengthened().judge("hate", PROMPT, severity=4).blocks


# --- items of blocklists ---------------------------------------------------------------------------------------------


def test_an_item_is_a_term_or_an_expression():
    assert read_item({"pattern": "Project Nightjar"}) == BlocklistItem("Project Nightjar")
    expression = read_item({"pattern": r"NJ-\d+", "isRegex": True})
    assert read_item(item_properties(expression)) == expression == BlocklistItem(r"NJ-\d+", is_regex=True)


@pytest.mark.parametrize(
    ("properties", "param", "message"),
    [
        ({}, ".pattern", "it is missing"),
        ({"pattern": ""}, ".pattern", "at least 1 character"),
        ({"pattern": " \u200b\n"}, ".pattern", "no visible character"),
        ({"pattern": "x" * 1001}, ".pattern", "at most 1000 characters"),
        ({"pattern": "(", "isRegex": True}, ".pattern", "not a regular expression of RE2: missing )"),
        ({"pattern": "(?=a)b", "isRegex": True}, ".pattern", "not a regular expression of RE2: invalid perl operator"),
        ({"pattern": r"(a)\1", "isRegex": True}, ".pattern", "not a regular expression of RE2: invalid escape"),
        ({"pattern": "a*", "isRegex": True}, ".pattern", "it matches the empty text"),
        ({"pattern": r"\Qa", "isRegex": True}, ".pattern", "escape each character"),
        ({"pattern": "x{1000}" * 142, "isRegex": True}, ".pattern", "too large"),
        ({"pattern": "a", "isRegex": "yes"}, ".isRegex", "must be true or false"),
        ({"pattern": "a", "isRegexp": True}, ".isRegexp", "no such property"),
        ({"pattern": "\ud800"}, ".pattern", "unicode"),
    ],
)
def test_an_item_that_cannot_be_used_is_named(properties, param, message):
    with pytest.raises(InvalidRequest) as caught:
        read_item(properties)

    assert caught.value.param == f"properties{param}"
    assert message in caught.value.message


def test_a_list_has_a_limit():
    check_items([BlocklistItem("a")] * MAX_ITEMS, "items")
    with pytest.raises(InvalidRequest, match="at most 10,000 items"):
        check_items([BlocklistItem("a")] * (MAX_ITEMS + 1), "items")


def test_expressions_that_are_too_large_together_are_refused():
    items = [BlocklistItem(f"{chr(0x4E00 + number)}{{1000}}" * 100, is_regex=True) for number in range(30)]

    with pytest.raises(InvalidRequest, match="cannot be used together"):
        check_items(items, "items")


def test_expressions_of_a_list_do_not_disturb_each_other():
    patterns = ["(?i)alpha", "beta|gamma", r"\bdelta\b", "(?P<n>e)", "(?P<n>f)"]
    compiled = compile_all(patterns)

    found = {text for text in ("ALPHA", "BETA", "gamma", "deltas", "delta", "e", "f", "E") if compiled.search(text)}

    assert found == {"ALPHA", "gamma", "deltas", "delta", "e", "f"}
