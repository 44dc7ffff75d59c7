"""Personal data is reported, replaced or blocked as configured, and no part of it is sent, however the model cuts its text."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugins import redact_pii
from sluicegate import Chunk, Refused, Source, ToolCall
from sluicegate.errors import StartupError
from sluicegate.policies import DEFAULT_V2, ContentFilter, Mode
from sluicegate.testing import (
    FakeModel,
    Use,
    answered,
    chat_request,
    check_chunking,
    check_plugin,
    plugin_of,
    post_filtered,
    pre_filtered,
)

CATEGORY = "personally_identifiable_information"
NAME = "PII"
ANNOTATING = DEFAULT_V2.replacing(ContentFilter(NAME, Source.COMPLETION, blocking=False))
BLOCKING = DEFAULT_V2.replacing(ContentFilter(NAME, Source.COMPLETION))
KEY = "Zm9vYmFy" * 10 + "Zm9vYm" + "=="

WIDE = {ord(digit): chr(ord(digit) + 0xFEE0) for digit in "0123456789"}

ENTITIES = [
    ("Email", "mail {} or call", "jo.doe+news@mail.example.co.uk"),
    ("Email", "({}),", "o'brien@example.com"),
    ("Email", "schreib an {}!", "jörg@müller-example.de"),
    ("Email", "请联系{}。谢谢", "li@example.cn"),
    ("PhoneNumber", "reach me at {} today", "+1 415-555-2671"),
    ("PhoneNumber", "reach me at {}, today", "(415) 555-2671"),
    ("PhoneNumber", "London: {}.", "020 7946 0958"),
    ("PhoneNumber", "phone: {}", "4155552671"),
    ("PhoneNumber", "ruf {} an", "+49 30 901820"),
    ("CreditCardNumber", "card {} please", "4111 1111 1111 1111"),
    ("CreditCardNumber", "card no 12 {} 2027", "5500-0000-0000-0004"),
    ("CreditCardNumber", "amex {}", "378282246310005"),
    ("CreditCardNumber", "wide {}", "4111 1111 1111 1111".translate(WIDE)),
    ("CreditCardNumber", "invisible {}", "4111\u200b1111\u200b1111\u200b1111"),
    ("InternationalBankingAccountNumber", "to {}, thanks", "GB82 WEST 1234 5698 7654 32"),
    ("InternationalBankingAccountNumber", "to {}", "DE89370400440532013000"),
    ("USSocialSecurityNumber", "it is {}.", "536-90-4399"),
    ("USSocialSecurityNumber", "my SSN: {}", "536904399"),
    ("UKNationalInsuranceNumber", "NI {}", "AB 12 34 56 C"),
    ("UKNationalHealthNumber", "NHS no {}", "943 476 5870"),
    ("DETaxIdentificationNumber", "Meine Steuer-ID: {}", "36 574 261 809"),
    ("FRSocialSecurityNumber", "numéro {}", "2 95 10 99 126 111 93"),
    ("ESDNI", "DNI {}", "54362315K"),
    ("ESTaxIdentificationNumber", "NIE {}", "X-2482300W"),
    ("ITFiscalCode", "codice {}", "RCCMNL83S18D969H"),
    ("NLCitizensServiceNumber", "BSN {}", "111222333"),
    ("CHSocialSecurityNumber", "AHV {}", "756.9217.0769.85"),
    ("SENationalID", "född {}", "880320-0016"),
    ("BRCPFNumber", "CPF {}", "390.533.447-05"),
    ("INUniqueIdentificationNumber", "Aadhaar {}", "2341 2341 2346"),
    ("INPermanentAccount", "PAN {}", "ACUPA7085R"),
    ("FINationalID", "hetu {}", "131052-308T"),
    ("BENationalNumber", "nr {}", "85.07.30-033.28"),
    ("DKPersonalIdentificationNumber", "CPR {}", "211062-5629"),
    ("NOIdentityNumber", "nr {}", "060287 29071"),
    ("CNResidentIdentityCardNumber", "号码{}。", "360426199101010071"),
    ("KRResidentRegistrationNumber", "RRN {}", "971013-9019902"),
    ("IPAddress", "from {}:8080", "203.0.113.9"),
    ("IPAddress", "from {} on", "2001:db8::8a2e:370:7334"),
    ("URL", "use postgres://{}@db.example.com/app", "app:hunter22"),
    ("AzureStorageAccountKey", "AccountName=a;AccountKey={};EndpointSuffix=core.windows.net", KEY),
    ("AzureStorageAccountKey", "key: {}", KEY),
    ("AzureDocumentDBAuthKey", "AccountEndpoint=https://a.documents.azure.com:443/;AccountKey={};", KEY),
    ("AzureServiceBusString", "Endpoint=sb://a.servicebus.windows.net/;SharedAccessKey={}", "Zm9v" * 10 + "Zm8="),
    ("AzureIoTConnectionString", "HostName=a.azure-devices.net;DeviceId=b;SharedAccessKey={}", "Zm9v" * 10 + "Zm8="),
    ("AzureRedisCacheString", "a.redis.cache.windows.net:6380,password={},ssl=True", "Zm9v" * 10 + "Zm8="),
    ("AzureSAS", "https://a.blob.core.windows.net/b?sv=2024-11-04&sig={}&sp=r", "Zm9v" * 10 + "Zm8%3D"),
    ("SQLServerConnectionString", "Server=tcp:a.example,1433;User ID=sa;Password={};Encrypt=True", "S3cret!pass"),
]  # fmt: skip
IDS = [f"{name}-{number}" for number, (name, *_) in enumerate(ENTITIES)]

HARD_NEGATIVES = [
    "order 1234567890, order no. 4155552671, invoice #2024-000123",
    "ticket 4111111111111112 and parcel 1Z999AA10123456784",
    "at 2024-05-12T10:20:30.123456Z, epoch 1715509230, 10:20:30 on 12.05.2024",
    "version 1.2.3.4, v10.0.19045.4291 and release 8.8.8.8",
    "sha 9b74c9897bac770ffc029102a200c5de and d3486ae9136e7856bc42212385ea797094475802",
    "uuid 123e4567-e89b-12d3-a456-426614174000, mac 00:1B:44:11:3A:B7",
    "ISBN 978-3-16-148410-0, ISBN-10: 0-306-40615-2, EAN 4006381333931",
    "@property, user@host, a@b, foo@bar.1, me @ home",
    "1990-2000, pages 123-456, 3.14159265358979, $1,234,567.89, 1 234 567 890",
    "lines 120 340 560 780 100 and 52.520008, 13.404954",
    "loopback 127.0.0.1 and ::1, css a::before, c++ std::vector<int>::iterator",
    "https://example.com/a?id=123456789&sig=short and http://localhost:8080/@user",
    "Password= is empty; password=${SECRET}",
    "ABCDE1234F is not it, nor is AB123456E, nor BG123456A",
]


def redacting(**entities):
    return {"default": "off", "entities": {name: "redact" for name in entities or redact_pii.NAMES}}


def result(*found, text, filtered=False, **redacted):
    subs = [
        {"sub_category": name, "filtered": filtered, "detected": True, "redacted": False, **redacted} for name in found
    ]
    return {CATEGORY: {"filtered": filtered, "detected": True, "redacted_text": text, "sub_categories": subs}}


def test_obeys_the_rules():
    check_plugin(redact_pii)


@pytest.mark.parametrize(("name", "carrier", "entity"), ENTITIES, ids=IDS)
async def test_an_entity_is_replaced_and_nothing_else_is_however_the_text_is_cut(name, carrier, entity):
    text = carrier.format(entity)

    assert await post_filtered(redact_pii, text, **redacting()) == carrier.format(f"[{name}]")
    await check_chunking(redact_pii, text, **redacting())


@pytest.mark.parametrize("text", HARD_NEGATIVES)
async def test_what_only_looks_like_personal_data_passes(text):
    assert await post_filtered(redact_pii, text, **redacting()) == text
    await check_chunking(redact_pii, text, **redacting())


async def test_a_policy_without_the_category_leaves_everything_as_it_is():
    text = "mail jo@example.com"

    assert await post_filtered(redact_pii, [Chunk(text, finish_reason="stop")]) == (Chunk(text, finish_reason="stop"),)


async def test_an_annotating_policy_reports_and_shows_what_redacted_text_would_be():
    given = [Chunk("mail jo@exam"), Chunk("ple.com, 203.0.113.9", finish_reason="stop")]

    passed = await post_filtered(redact_pii, given, policy=ANNOTATING)

    assert "".join(chunk.text for chunk in passed) == "mail jo@example.com, 203.0.113.9"
    assert passed[-1].content_filter_results == result("Email", "IPAddress", text="mail [Email], [IPAddress]")
    await check_chunking(redact_pii, "mail jo@example.com, 203.0.113.9", policy=ANNOTATING)


async def test_a_clean_answer_is_reported_as_such():
    passed = await post_filtered(redact_pii, [Chunk("fine", finish_reason="stop")], policy=ANNOTATING)

    assert passed[-1].content_filter_results == {CATEGORY: {"filtered": False, "detected": False}}


def flowing(policy):
    return replace(policy, mode=Mode.ASYNCHRONOUS)


async def sent(*pieces, policy, **settings):
    request = chat_request("hello", stream=True)
    return await answered(request, FakeModel(*pieces), post_filter=[Use(redact_pii, settings)], policy=policy)


async def test_an_answer_flows_and_its_last_chunk_reports_where_the_policy_is_asynchronous():
    got = await sent("mail j", "o@exa", "mple.com", policy=flowing(ANNOTATING))

    assert [chunk.text for chunk in got.chunks] == ["mail j", "o@exa", "mple.com", ""]
    assert got.chunks[-1].content_filter_results == result("Email", text="mail [Email]")


async def test_what_ends_an_answer_that_flows_was_sent():
    got = await sent("mail j", "o@exa", "mple.com", " or call", policy=flowing(BLOCKING))

    assert got.text == "mail jo@example.com"
    assert got.finish_reasons == {0: "content_filter"}


@pytest.mark.parametrize(("mode", "text"), [("redact", "mail [Email] or call"), ("block", "mail ")])
async def test_what_the_settings_redact_or_block_is_not_sent_though_the_answer_flows(mode, text):
    got = await sent("mail j", "o@exa", "mple.com", " or call", policy=flowing(ANNOTATING), entities={"Email": mode})

    assert got.text == text


@pytest.mark.parametrize(
    ("policy", "settings"), [(BLOCKING, {}), (DEFAULT_V2, {"entities": {"Email": "block"}})], ids=["policy", "setting"]
)
async def test_a_blocked_entity_ends_the_answer_before_any_of_it(policy, settings):
    model = FakeModel("Write to j", "o@exa", "mple.com", " now")

    got = await answered("hello", model, post_filter=[Use(redact_pii, settings)], policy=policy)

    assert got.text == "Write to "
    assert got.chunks[-1].finish_reason == "content_filter"
    assert got.chunks[-1].content_filter_results[CATEGORY] == {
        "filtered": True,
        "detected": True,
        "sub_categories": [{"sub_category": "Email", "filtered": True, "detected": True, "redacted": False}],
    }
    await check_chunking(redact_pii, "Write to jo@example.com now", policy=policy, **settings)


async def test_what_is_redacted_is_sent_where_the_policy_blocks_what_is_left():
    settings = {"entities": {"Email": "redact"}}

    passed = await post_filtered(redact_pii, [Chunk("a@b.de", finish_reason="stop")], policy=BLOCKING, **settings)

    assert passed[-1].text == "[Email]"
    assert passed[-1].content_filter_results == result("Email", text="[Email]", redacted=True)
    with pytest.raises(Refused):
        await post_filtered(redact_pii, "a@b.de, 203.0.113.9", policy=BLOCKING, **settings)


async def test_a_type_that_is_off_is_neither_reported_nor_replaced():
    settings = {"default": "redact", "entities": {"IPAddress": "off"}}

    assert await post_filtered(redact_pii, "a@b.de 203.0.113.9", policy=ANNOTATING, **settings) == "[Email] 203.0.113.9"


def sent_pieces(model_pieces):
    return [Chunk(piece) for piece in model_pieces] + [Chunk(finish_reason="stop")]


async def test_text_is_sent_as_soon_as_its_word_is_complete():
    seen = []

    async def post_filter(chunks):
        async for chunk in chunks:
            seen.append(chunk.text)
            yield chunk

    given = ["I ", "know ", "jo", "@example", ".com", " well", "."]
    held = []

    async def watch(chunks):
        async for chunk in chunks:
            held.append((len(seen), chunk.text))
            yield chunk

    watch.__name__ = "post_filter"
    await answered(
        "hello",
        FakeModel(*given),
        post_filter=[
            plugin_of(post_filter, name="before"),
            Use(redact_pii, redacting()),
            plugin_of(watch, name="after"),
        ],
    )

    assert [text for _, text in held] == ["I ", "know ", "[Email]", " well", ".", ""]
    assert held[1][0] <= 3


JSON = [
    ('{"mail": "jo@example.com", "n": 1}', '{"mail": "[Email]", "n": 1}'),
    (r'{"mail": "jo\u0040example.com"}', '{"mail": "[Email]"}'),
    (r'{"text": "call\n+1 415\u002d555-2671\tnow"}', r'{"text": "call\n[PhoneNumber]\tnow"}'),
    ('{"card": 4111111111111111, "x": -4111111111111111}', '{"card": 0, "x": -0}'),
    ('["jo@example.com","\\"jo@example.com\\""]', '["[Email]","\\"[Email]\\""]'),
    ('  {"a": [{"b": "536-90-4399"}]}', '  {"a": [{"b": "[USSocialSecurityNumber]"}]}'),
]


@pytest.mark.parametrize(("arguments", "expected"), JSON)
async def test_arguments_of_tool_calls_are_redacted_and_stay_json(arguments, expected):
    call = Chunk(tool_calls=(ToolCall(0, "call-1", "lookup", arguments),), finish_reason="tool_calls")

    [passed] = await post_filtered(redact_pii, [call], **redacting())

    assert passed.tool_calls[0].arguments == expected
    assert json.loads(expected) is not None
    await check_chunking(redact_pii, arguments, finish_reason="tool_calls", **redacting())


async def test_an_answer_that_was_asked_for_as_json_stays_json():
    request = chat_request("?", response_format={"type": "json_object"})

    got = await answered(
        request, FakeModel('{"card": 4111', "111111111111}"), post_filter=[Use(redact_pii, redacting())]
    )

    assert got.text == '{"card": 0}'


async def test_a_custom_tools_input_need_not_be_json():
    call = Chunk(
        tool_calls=(ToolCall(0, "call-1", "run", 'echo "jo@example.com" 4111111111111111'),), finish_reason="stop"
    )

    [passed] = await post_filtered(redact_pii, [call], **redacting())

    assert passed.tool_calls[0].arguments == 'echo "[Email]" [CreditCardNumber]'


async def test_replaced_text_takes_its_log_probabilities_with_it():
    logprobs = {"content": [{"token": "a@b.de"}]}
    given = [Chunk("hi ", logprobs=logprobs), Chunk("a@b.de", logprobs=logprobs), Chunk(finish_reason="stop")]

    passed = await post_filtered(redact_pii, given, **redacting())

    assert [chunk.logprobs for chunk in passed] == [logprobs, None, None]


async def test_prompts_are_redacted_only_where_the_settings_say_so():
    text = "I am jo@example.com"

    assert await pre_filtered(redact_pii, text, **redacting()) == text
    assert await pre_filtered(redact_pii, text, prompts=True, **redacting()) == "I am [Email]"
    assert await pre_filtered(redact_pii, text, prompts=True, default="annotate", policy=BLOCKING) == text


async def test_prompts_in_json_stay_json():
    text = '{"mail": "jo\\u0040example.com", "card": 4111111111111111}'

    assert await pre_filtered(redact_pii, text, prompts=True, **redacting()) == '{"mail": "[Email]", "card": 0}'
    assert (
        await pre_filtered(redact_pii, "[1] 4111111111111111", prompts=True, **redacting()) == "[1] [CreditCardNumber]"
    )


async def test_a_prompt_with_a_blocked_entity_never_reaches_the_model():
    model = FakeModel()
    settings = {"prompts": True, "entities": {"CreditCardNumber": "block"}}

    got = await answered("pay with 4111 1111 1111 1111", model, pre_filter=[Use(redact_pii, settings)])

    assert isinstance(got.error, Refused)
    assert got.error.results[CATEGORY]["sub_categories"][0]["sub_category"] == "CreditCardNumber"
    assert model.opened == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"entities": {"Emial": "redact"}}, "Emial"), ({"phone_regions": ["XX"]}, "XX"), ({"default": "hide"}, "default")],
)
def test_settings_nobody_knows_stop_the_start(settings, said):
    with pytest.raises(StartupError, match=said):
        check_plugin(redact_pii, **settings)


PIECES = [
    "jo",
    "@",
    "example",
    ".com",
    " ",
    "4111",
    "1111",
    "-",
    "+1",
    " 415 ",
    "555-2671",
    "\\",
    '"',
    "{",
    ",",
    "A",
    "a",
    "é",
    "\u200b",
    "sig=",
    "1 ",
]


@given(pieces=st.lists(st.lists(st.sampled_from(PIECES), max_size=5).map("".join), max_size=10))
@example(pieces=["1 " * 400, "4111 1111 1111 1111", " 2" * 200])
@example(pieces=["a" * 700, "jo@example.com", "b" * 700])
@example(pieces=["{", '"', "\\", "u0040"])
async def test_any_cut_of_any_text_gives_the_same_result(pieces):
    whole = "".join(pieces)

    uncut = await answered("hello", FakeModel(whole), post_filter=[Use(redact_pii, redacting())], policy=ANNOTATING)
    cut = await answered("hello", FakeModel(*pieces), post_filter=[Use(redact_pii, redacting())], policy=ANNOTATING)
    single = await answered("hello", FakeModel(*whole), post_filter=[Use(redact_pii, redacting())], policy=ANNOTATING)

    assert cut.text == uncut.text == single.text
    assert cut.chunks[-1].content_filter_results == uncut.chunks[-1].content_filter_results


async def test_an_entity_amid_a_very_long_word_is_found():
    word = "x" * 5000
    text = f"{word}/jo@example.com/{word}"

    assert await post_filtered(redact_pii, text, **redacting()) == f"{word}/[Email]/{word}"


@pytest.mark.parametrize("text", ["", " ", "\ud800", "\x00" * 50, "😀" * 500, "1" * 3000, "\\u" * 500, "(" * 2000])
async def test_odd_text_passes_as_it_is(text):
    assert await post_filtered(redact_pii, text, **redacting()) == text
