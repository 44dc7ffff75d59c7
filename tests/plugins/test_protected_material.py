"""A quotation that is long enough is found however it is written and cut, and is withheld whole; nothing shorter is reported."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import protected_material
from plugins.protected_material.corpus import works
from plugins.protected_material.index import build, load, save
from plugins.protected_material.scan import MAX_HELD
from plugins.protected_material.tokens import Kind, tokens
from sluicegate import Chunk, Refused, Source, ToolCall
from sluicegate.errors import StartupError
from sluicegate.policies import DEFAULT, DEFAULT_V2, ContentFilter, Mode
from sluicegate.testing import (
    FakeModel,
    Use,
    answered,
    chat_request,
    check_chunking,
    check_plugin,
    plugin_of,
    post_filtered,
)

SAMPLE = Path(protected_material.__file__).parent / "sample"
SETTINGS = {"manifests": [str(SAMPLE / "corpus.toml")]}
TYGER = (SAMPLE / "text/the-tyger.txt").read_text()
SPEECH = (SAMPLE / "text/gettysburg-address.txt").read_text()
PROGRAM = (SAMPLE / "code/moon_phase.c").read_text()
FUNCTION = PROGRAM[PROGRAM.index("static double") : PROGRAM.index("int main")]
TEXT, CODE = "protected_material_text", "protected_material_code"
CITATION = {"URL": "https://creativecommons.org/publicdomain/zero/1.0/", "license": "CC0-1.0"}
CLEAN = {TEXT: {"filtered": False, "detected": False}, CODE: {"filtered": False, "detected": False}}
BLOCKING_CODE = DEFAULT_V2.replacing(ContentFilter("Protected Material Code", Source.COMPLETION))
QUOTATION = " ".join(SPEECH.split()[30:53])
LEADING = "As Lincoln put it, roughly: "

SPELLINGS = {
    "as it is": QUOTATION,
    "in capitals": QUOTATION.upper(),
    "without punctuation": QUOTATION.replace(",", "").replace("-", " "),
    "with more of it": QUOTATION.replace(" ", " -- "),
    "on many lines": QUOTATION.replace(" ", "\n\n"),
    "full width": "".join(
        "\u3000" if char == " " else chr(ord(char) + 0xFEE0) for char in QUOTATION if char not in ",-."
    ),
    "with accents": QUOTATION.replace("a", "a\u0301"),
    "with soft hyphens": QUOTATION.replace("t", "t\u00ad"),
    "as markdown": "> **" + QUOTATION.replace(" ", "** **") + "**",
}


def test_obeys_the_rules():
    check_plugin(protected_material)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
async def test_a_quotation_is_withheld_whole_however_it_is_written_and_cut(spelling):
    got = await answered("hello", LEADING + spelling, post_filter=[Use(protected_material, SETTINGS)])

    assert got.text.strip(" >*") == LEADING.strip()
    assert got.chunks[-1].finish_reason == "content_filter"
    assert got.chunks[-1].content_filter_results == {TEXT: {"filtered": True, "detected": True}}
    await check_chunking(protected_material, LEADING + spelling, **SETTINGS)


async def test_an_answer_that_quotes_nothing_carries_the_verdicts():
    got = await answered("hello", FakeModel("Nothing ", "to see."), post_filter=[Use(protected_material, SETTINGS)])

    assert got.text == "Nothing to see."
    assert got.chunks[-1].content_filter_results == CLEAN


async def test_code_is_cited_and_sent_by_default():
    text = f"Here you are:\n```c\n{FUNCTION}\n```"

    passed = await post_filtered(protected_material, [Chunk(text, finish_reason="stop")], **SETTINGS)

    assert "".join(chunk.text for chunk in passed) == text
    assert passed[-1].content_filter_results[CODE] == {"filtered": False, "detected": True, "citation": CITATION}
    await check_chunking(protected_material, text, **SETTINGS)


async def test_code_is_withheld_where_the_policy_blocks_it():
    reindented = FUNCTION.replace("    ", "\t").replace("\n", "\r\n")

    got = await answered(
        "hello", f"Here: {reindented}", post_filter=[Use(protected_material, SETTINGS)], policy=BLOCKING_CODE
    )

    assert got.text.rstrip() == "Here:"
    assert got.chunks[-1].content_filter_results == {CODE: {"filtered": True, "detected": True, "citation": CITATION}}
    await check_chunking(protected_material, f"Here: {reindented}", policy=BLOCKING_CODE, **SETTINGS)


@pytest.mark.parametrize(
    ("text", "settings", "policy"),
    [(QUOTATION, SETTINGS, DEFAULT), (QUOTATION, {}, DEFAULT_V2)],
    ids=["a policy without the category", "no works"],
)
async def test_nothing_is_looked_for_without(text, settings, policy):
    given = Chunk(text, finish_reason="stop")

    assert await post_filtered(protected_material, [given], policy=policy, **settings) == (given,)


async def test_where_the_policy_only_annotates_nothing_is_held():
    policy = DEFAULT_V2.replacing(ContentFilter("Protected Material Text", Source.COMPLETION, blocking=False))
    given = [*(Chunk(word + " ") for word in QUOTATION.split()), Chunk(finish_reason="stop")]

    passed = await post_filtered(protected_material, given, policy=policy, **SETTINGS)

    assert passed[:-1] == tuple(given[:-1])
    assert passed[-1].content_filter_results[TEXT] == {"filtered": False, "detected": True}


async def test_a_quotation_ends_a_stream_that_flows_once_it_is_certain():
    flowing = replace(DEFAULT_V2, mode=Mode.ASYNCHRONOUS)
    model = FakeModel(*(word + " " for word in QUOTATION.split()))

    got = await answered(
        chat_request("hello", stream=True), model, post_filter=[Use(protected_material, SETTINGS)], policy=flowing
    )

    assert 12 <= len(got.text.split()) <= 20
    assert QUOTATION.startswith(got.text.strip())
    assert got.chunks[-1].content_filter_results == {TEXT: {"filtered": True, "detected": True}}


@pytest.mark.parametrize(
    "escaped", [QUOTATION.replace(" ", r"\n"), QUOTATION.replace("e", r"\u0065"), QUOTATION], ids=["n", "u", "plain"]
)
async def test_a_quotation_in_tool_arguments_is_found_however_it_is_escaped(escaped):
    text = f'{{"title": "x", "body": "{escaped}"}}'
    call = Chunk(tool_calls=(ToolCall(0, "call-1", "lookup", text),), finish_reason="tool_calls")

    assert json.loads(text)
    with pytest.raises(Refused):
        await post_filtered(protected_material, [call], **SETTINGS)
    await check_chunking(protected_material, text, finish_reason="tool_calls", **SETTINGS)


async def test_a_quotation_in_an_answer_that_was_asked_for_as_json_is_found():
    request = chat_request("?", response_format={"type": "json_object"})
    answer = '{"speech": "' + QUOTATION.replace(" ", "\\n") + '"}'

    got = await answered(request, answer, post_filter=[Use(protected_material, SETTINGS)])

    assert got.finish_reasons == {0: "content_filter"}


FILLER = [
    "walnut",
    "ember",
    "quartz",
    "nimble",
    "harbor",
    "velvet",
    "oxide",
    "timber",
    "saddle",
    "pigeon",
    "lantern",
    "copper",
    "meadow",
]
WORK = [f"{FILLER[number % 13]}{number}" for number in range(300)]


@pytest.fixture(scope="module")
def novel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("works")
    (folder / "novel.txt").write_text(" ".join(WORK))
    (folder / "novel.toml").write_text('[[sources]]\nfiles = ["novel.txt"]\nkind = "text"\n')
    return {"manifests": [str(folder / "novel.toml")]}


@given(
    start=st.integers(0, 280),
    before=st.lists(st.sampled_from(FILLER), max_size=30),
    after=st.lists(st.sampled_from(FILLER), max_size=5),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
async def test_as_many_words_as_are_guaranteed_are_always_found_and_withheld(novel, start, before, after, cuts):
    text = " ".join([*before, *WORK[start : start + 20], *after])
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[first:last] for first, last in itertools.pairwise(places)]

    got = await answered("hello", FakeModel(*pieces), post_filter=[Use(protected_material, novel)])

    assert got.finish_reasons == {0: "content_filter"}
    assert not set(WORK) & set(got.text.split())


@given(start=st.integers(0, 288), length=st.integers(1, 11), seed=st.integers())
async def test_fewer_words_than_the_noise_threshold_are_never_reported(novel, start, length, seed):
    shuffled = random.Random(seed).sample(WORK, 60)
    text = " ".join([*shuffled, "and", *WORK[start : start + length], "and", *shuffled])

    assert await post_filtered(protected_material, text, **novel) == text


async def test_the_whole_work_shuffled_is_not_reported(novel):
    words = random.Random(7).sample(WORK, len(WORK))

    assert await post_filtered(protected_material, " ".join(words), **novel) == " ".join(words)


async def test_ordinary_text_is_sent_after_a_few_words():
    read = []
    lags = []

    async def post_filter(chunks):
        async for chunk in chunks:
            read.append(chunk.text)
            yield chunk

    before = plugin_of(post_filter, name="before")

    async def post_filter(chunks):
        async for chunk in chunks:
            lags.append(len(read) - len(lags) - 1)
            yield chunk

    words = [
        f"{word} "
        for word in [
            "You",
            "can",
            "boil",
            "the",
            "rice",
            "for",
            "ten",
            "minutes",
            "and",
            "then",
            "let",
            "it",
            "rest",
            "under",
            "a",
            "lid",
        ]
    ]
    stages = [before, Use(protected_material, SETTINGS), plugin_of(post_filter, name="after")]

    await answered("hello", FakeModel(*words), post_filter=stages)

    assert max(lags) <= 4


async def test_white_space_is_not_held_without_end():
    words = QUOTATION.split()[:3]
    given = [Chunk(" ".join(words)), *(Chunk(" " * 100) for _ in range(40)), Chunk(finish_reason="stop")]
    passed = []

    async def post_filter(chunks):
        async for chunk in chunks:
            passed.append((sum(map(len, read)), len(chunk.text)))
            yield chunk

    read = []

    async def note(chunks):
        async for chunk in chunks:
            read.append(chunk.text)
            yield chunk

    note.__name__ = "post_filter"
    stages = [plugin_of(note, name="before"), Use(protected_material, SETTINGS), plugin_of(post_filter, name="after")]
    await answered("hello", FakeModel(*(chunk.text for chunk in given)), post_filter=stages)

    assert passed[0][0] <= MAX_HELD + 512


# --- works and their index -------------------------------------------------------------------------------------------


def test_an_index_holds_no_text_and_is_the_same_after_a_round_trip(tmp_path):
    index = build(works(SAMPLE / "corpus.toml"), protected_material.Config().thresholds())

    save(index, tmp_path / "works.index")
    again = load(tmp_path / "works.index")

    assert {kind: part.parts for kind, part in again.items()} == {kind: part.parts for kind, part in index.items()}
    assert {kind: part.thresholds for kind, part in again.items()} == protected_material.Config().thresholds()
    content = (tmp_path / "works.index").read_bytes().lower()
    assert not any(token in content for token in (b"tyger", b"vorpal", b"julian", b"nation"))


@pytest.mark.parametrize("damage", ["flipped", "cut", "something else", "empty"])
def test_a_damaged_index_stops_the_start(tmp_path, damage):
    path = tmp_path / "works.index"
    save(build(works(SAMPLE / "corpus.toml"), protected_material.Config().thresholds()), path)
    content = path.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    path.write_bytes({"flipped": flipped, "cut": content[:-1], "something else": b"MZ" * 90, "empty": b""}[damage])

    with pytest.raises(StartupError, match="build it again"):
        load(path)


async def test_an_index_is_built_by_a_command_and_used(tmp_path):
    path = tmp_path / "works.index"
    command = [sys.executable, "-m", "plugins.protected_material", str(SAMPLE / "corpus.toml"), "--output", str(path)]

    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=SAMPLE.parents[2])

    assert done.stdout.startswith("5 works, ")
    with pytest.raises(Refused):
        await post_filtered(protected_material, TYGER, index=str(path))


async def test_what_is_common_is_nobodys(tmp_path):
    header = "Licensed under the Example Licence; you may not use this file except in compliance with it. " * 4
    (tmp_path / "own.c").write_text(f"/* {header} */ {FUNCTION}")
    (tmp_path / "header.txt").write_text(header)
    manifest = '[[sources]]\nfiles = ["own.c"]\nkind = "code"\nurl = "https://a.example"\nlicense = "Own"\n'
    common = '[[sources]]\nfiles = ["header.txt"]\nkind = "code"\ncommon = true\n'
    (tmp_path / "own.toml").write_text(manifest)
    (tmp_path / "both.toml").write_text(manifest + common)

    async def detected(text, name):
        given = [Chunk(text, finish_reason="stop")]
        [*_, last] = await post_filtered(protected_material, given, manifests=[str(tmp_path / name)])
        return last.content_filter_results[CODE]["detected"]

    assert await detected(header, "own.toml")
    assert not await detected(header, "both.toml")
    assert await detected(FUNCTION, "both.toml")


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("sources = []", "sources"),
        ('[[sources]]\nfiles = ["a.txt"]\nkind = "music"', "kind"),
        ('[[sources]]\nfiles = ["a.txt"]\nkind = "text"\nlicence = "x"', "licence"),
        ('[[sources]]\nfiles = ["missing/*.txt"]\nkind = "text"', "missing"),
        ("[[sources", "works.toml"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(tmp_path, manifest, said):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "works.toml").write_text(manifest)

    with pytest.raises(StartupError, match=said):
        list(works(tmp_path / "works.toml"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"manifests": ["nowhere.toml"]}, "nowhere.toml"),
        ({"index": "nowhere.index"}, "nowhere.index"),
        ({**SETTINGS, "index": SETTINGS["manifests"][0]}, "not both"),
        ({"text_noise": 21}, "guarantee"),
        ({"code_noise": 3}, "at least 8"),
    ],
)
def test_settings_that_do_not_fit_together_stop_the_start(settings, said):
    with pytest.raises(StartupError, match=said):
        check_plugin(protected_material, **settings)


# --- tokens ----------------------------------------------------------------------------------------------------------


@given(text=st.text(alphabet="aB1 é'\u2019\u0301\u200b-_.中かﬁ\n", max_size=300), kind=st.sampled_from(Kind))
def test_tokens_do_not_depend_on_how_a_text_arrives(text, kind):
    arrived, done, seen = [], 0, ""
    for char in text:
        seen += char
        for token in tokens(seen, kind, done, final=False):
            arrived.append(token)
            done = token.end
    arrived += tokens(seen, kind, done, final=True)

    assert arrived == list(tokens(text, kind))


@pytest.mark.parametrize("text", ["", " ", "\ud800", "\x00" * 50, "😀" * 500, "a" * 5000, "一" * 3000, "\\u" * 500])
async def test_odd_text_passes_as_it_is(text):
    assert await post_filtered(protected_material, text, policy=BLOCKING_CODE, **SETTINGS) == text
