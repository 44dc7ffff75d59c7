"""Files through the openai package, unmodified, on both surfaces; and forms that no SDK would send."""

from __future__ import annotations

import codecs
import json
import os
import time
from contextlib import closing
from http.client import HTTPConnection

import httpx
import openai
import pytest

from sluicegate.retention.receipt_check import verify_receipt
from tests.wire.conftest import API_VERSION, SPELLINGS, raw, sdk

DATA = b'{"messages": [{"role": "user", "content": "hello"}]}\n' * 3
UNKNOWN = "file-" + "0" * 32
BOUNDARY = "7f3a"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(params=["AzureOpenAI", "OpenAI"])
def client(request, server):
    """Both of the SDK's synchronous clients, each with a folder of no files."""
    with sdk(server, request.param) as client:
        yield client
        for file in client.files.list():
            client.files.delete(file.id)


def url(spelling: str, rest: str = "") -> str:
    return f"/openai/v1/files{rest}" if spelling == "v1" else f"/openai/files{rest}?api-version={API_VERSION}"


def upload(client, data: bytes = DATA, name: str = "train.jsonl", purpose: str = "fine-tune", **options):
    return client.files.create(file=(name, data), purpose=purpose, **options)


@pytest.mark.parametrize("name", ["train.jsonl", "träning 訓練 'a'; x=y.jsonl", "👩\u200d🔬\u202f10.31.txt"])
def test_a_file_goes_in_and_comes_back(client, name):
    before = int(time.time())
    file = upload(client, name=name)

    assert file == client.files.retrieve(file.id)
    assert (file.object, file.bytes, file.purpose, file.status) == ("file", len(DATA), "fine-tune", "processed")
    assert file.filename == name
    assert before <= file.created_at <= time.time()
    assert file.expires_at is None
    assert client.files.content(file.id).read() == DATA
    assert client.files.wait_for_processing(file.id, poll_interval=0) == file


def test_a_file_of_several_segments_comes_back_whole_and_in_ranges(client):
    data = os.urandom((9 << 20) + 17)
    file = upload(client, data)

    assert client.files.content(file.id).read() == data
    for asked, expected in {
        "bytes=0-0": data[:1],
        "bytes=4194300-4194310": data[4194300:4194311],
        "bytes=9437184-": data[9437184:],
        "bytes=-5": data[-5:],
        "bytes=9437190-99999999": data[9437190:],
    }.items():
        with client.files.with_streaming_response.content(file.id, extra_headers={"range": asked}) as part:
            assert part.status_code == 206
            assert part.read() == expected
            begin = data.index(expected) if len(expected) > 1 else 0
            assert part.headers["content-range"] == f"bytes {begin}-{begin + len(expected) - 1}/{len(data)}"


@pytest.mark.parametrize("asked", ["bytes=", "bytes=-", "bytes=9-3", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b"])
def test_a_range_that_is_not_understood_is_ignored(client, asked):
    file = upload(client)

    answer = client.files.with_raw_response.content(file.id, extra_headers={"range": asked})

    assert (answer.http_response.status_code, answer.http_response.content) == (200, DATA)


@pytest.mark.parametrize("asked", [f"bytes={len(DATA)}-", "bytes=-0", "bytes=999999999999-"])
def test_a_range_beyond_the_end_is_refused(client, asked):
    file = upload(client)

    with pytest.raises(openai.APIStatusError) as caught:
        client.files.content(file.id, extra_headers={"range": asked})

    assert (caught.value.status_code, caught.value.code) == (416, "416")
    assert str(len(DATA)) in caught.value.message


def test_a_range_of_another_file_is_the_whole_file(client):
    file = upload(client)

    answer = client.files.content(file.id, extra_headers={"range": "bytes=0-0", "if-range": '"file-other"'})

    assert answer.content == DATA


def test_files_are_listed_page_by_page_in_both_orders_and_by_purpose(client):
    files = [upload(client, purpose=purpose) for purpose in ("fine-tune", "batch", "fine-tune", "batch", "fine-tune")]
    ids = [file.id for file in files]

    assert [file.id for file in client.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == ids
    assert [file.id for file in client.files.list(purpose="batch", order="asc", limit=1)] == [ids[1], ids[3]]
    page = client.files.list(order="asc", limit=2, after=ids[1])
    assert ([file.id for file in page.data], page.has_more) == (ids[2:4], True)
    assert [page.model_extra["first_id"], page.model_extra["last_id"]] == ids[2:4]
    # The last one of a page may be deleted before the next is asked for.
    client.files.delete(ids[1])
    assert [file.id for file in client.files.list(order="asc", after=ids[1])] == ids[2:]


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": "many"}, {"order": "up"}, {"after": "../x"}])
def test_a_listing_that_makes_no_sense_is_refused(client, query):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.list(extra_query=query)

    assert caught.value.param == next(iter(query))


def test_a_deleted_file_is_gone_for_every_client_and_has_a_receipt(client, server):
    file = upload(client)

    deleted = client.files.delete(file.id)

    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(file.id)
    assert [each.id for each in client.files.list()] == []
    assert not [path for path in (server.data / "storage").glob("file-[hs]*/**/*") if file.id in str(path)]
    officer = {"api-key": server.credentials["officer_key"]}
    receipt = httpx.get(f"{server.endpoint}/governance/receipts/{deleted.model_extra['receipt']}", headers=officer)
    key = httpx.get(f"{server.endpoint}/governance/checkpoint", headers=officer).json()["public_key"]
    statement = verify_receipt(receipt.content, key).statement
    assert (statement["kind"], statement["subject"]) == ("delete.file", file.id)
    assert statement["removed"][0]["blobs"] == 7
    assert any("the key that wraps the keys of files" in sentence for sentence in statement["not_proven"])


def test_a_deletion_while_a_file_is_read_ends_the_reading_short(server):
    with sdk(server, "OpenAI") as client, raw(server) as http:
        file = upload(client, os.urandom(64 << 20))
        with http.stream("GET", url("v1", f"/{file.id}/content")) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            client.files.delete(file.id)

            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)


def test_surfaces_differ_where_azures_do(http):
    form = {"files": {"file": ("a.jsonl", DATA)}, "data": {"purpose": "fine-tune"}}
    classic, v1 = http.post(url("classic"), **form), http.post(url("v1"), **form)

    assert (classic.status_code, v1.status_code) == (201, 200)
    assert classic.headers["location"] == url("classic", f"/{classic.json()['id']}")
    assert http.get(classic.headers["location"]).json() == classic.json()
    assert "location" not in v1.headers
    for spelling, purpose, status in (("classic", "evals", 400), ("v1", "evals", 200), ("v1", "user_data", 400)):
        answer = http.post(url(spelling), files=form["files"], data={"purpose": purpose})
        assert answer.status_code == status


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("written", ["expires_after[{}]", "expires_after.{}"])
def test_both_spellings_of_the_expiry_are_known(http, spelling, written):
    fields = {"purpose": "batch", written.format("anchor"): "created_at", written.format("seconds"): "1209600"}

    file = http.post(url(spelling), files={"file": ("a.jsonl", DATA)}, data=fields).json()

    assert file["expires_at"] - file["created_at"] == 1_209_600


@pytest.mark.parametrize(
    ("seconds", "status"), [(1_209_599, 400), (1_209_600, 200), (2_592_000, 200), (2_592_001, 400)]
)
@pytest.mark.parametrize("is_purpose_first", [True, False])
def test_a_batch_file_lives_for_fourteen_to_thirty_days(http, seconds, status, is_purpose_first):
    expiry = EXPIRY + part("expires_after[seconds]", str(seconds).encode())
    purpose = part("purpose", b"batch")
    body = (purpose + expiry if is_purpose_first else expiry + purpose) + FILE + END

    answer = http.post(url("v1"), content=body, headers={"content-type": TYPE})

    assert answer.status_code == status
    if status == 400:
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("invalid_value", "expires_after.seconds")


def test_training_data_may_begin_with_a_byte_order_mark(client):
    file = upload(client, codecs.BOM_UTF8 + DATA)

    assert file.status == "processed"
    assert client.files.content(file.id).read() == codecs.BOM_UTF8 + DATA


def test_the_sdk_sets_an_expiry(client):
    file = upload(client, expires_after={"anchor": "created_at", "seconds": 3600})

    assert client.files.retrieve(file.id).expires_at == file.created_at + 3600


def part(name: str, value: bytes, file_name: str | None = None) -> bytes:
    given = "" if file_name is None else f'; filename="{file_name}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{given}\r\n\r\n'
    return head.encode() + value + b"\r\n"


PURPOSE = part("purpose", b"fine-tune")
FILE = part("file", DATA, "a.jsonl")
END = f"--{BOUNDARY}--\r\n".encode()
EXPIRY = part("expires_after[anchor]", b"created_at")


@pytest.mark.parametrize(
    "body", [PURPOSE + FILE + END, FILE + PURPOSE + END, b"preamble\r\n" + FILE + PURPOSE + END + b"x"]
)
def test_the_parts_may_come_in_any_order(http, body):
    answer = http.post(url("v1"), content=body, headers={"content-type": TYPE})

    assert answer.status_code == 200
    assert http.get(url("v1", f"/{answer.json()['id']}/content")).content == DATA


BAD = {
    "no file": (PURPOSE + END, "missing_required_parameter", "file"),
    "no purpose": (FILE + END, "missing_required_parameter", "purpose"),
    "an empty file": (PURPOSE + part("file", b"", "a.jsonl") + END, "invalidPayload", "file"),
    "an unknown purpose": (part("purpose", b"world domination") + FILE + END, "invalid_value", "purpose"),
    "a purpose after the file": (FILE + part("purpose", b"no") + END, "invalid_value", "purpose"),
    "two files": (PURPOSE + FILE + FILE + END, None, "file"),
    "two purposes": (PURPOSE + PURPOSE + FILE + END, None, "purpose"),
    "a second file of another name": (PURPOSE + FILE + part("more", b"x", "b.jsonl") + END, None, "more"),
    "a file without a name": (PURPOSE + part("file", DATA) + END, None, "file"),
    "a path as name": (PURPOSE + part("file", DATA, "../a.jsonl") + END, None, "file"),
    "a name with a control character": (PURPOSE + part("file", DATA, "a\x07b") + END, None, "file"),
    "a long name": (PURPOSE + part("file", DATA, "a" * 256) + END, None, "file"),
    "an unknown field": (PURPOSE + part("colour", b"red") + FILE + END, "unknown_parameter", "colour"),
    "a bare seconds": (PURPOSE + part("seconds", b"3600") + FILE + END, "unknown_parameter", "seconds"),
    "an expiry without seconds": (PURPOSE + EXPIRY + FILE + END, "missing_required_parameter", "expires_after.seconds"),
    "another anchor": (
        PURPOSE + part("expires_after[anchor]", b"now") + FILE + END,
        "invalid_value",
        "expires_after.anchor",
    ),
    "too short a life": (
        PURPOSE + EXPIRY + part("expires_after[seconds]", b"60") + FILE + END,
        "invalid_value",
        "expires_after.seconds",
    ),
    "two spellings at once": (
        PURPOSE + EXPIRY + part("expires_after.anchor", b"created_at") + FILE + END,
        None,
        "expires_after",
    ),
    "a batch file with a byte order mark": (
        part("purpose", b"batch") + part("file", codecs.BOM_UTF8 + DATA, "a.jsonl") + END,
        "jsonlValidationFailed",
        "file",
    ),
    "a batch file of a byte order mark": (
        part("file", codecs.BOM_UTF8, "a.jsonl") + part("purpose", b"batch") + END,
        "jsonlValidationFailed",
        "file",
    ),
    "a long field": (part("purpose", b"x" * 5000) + FILE + END, None, "purpose"),
    "a field that is no text": (part("purpose", b"\xff\xfe") + FILE + END, None, "purpose"),
    "cut in the file": ((PURPOSE + FILE)[:-30], "invalidPayload", None),
    "cut before the end": (PURPOSE + FILE, "invalidPayload", None),
    "nothing": (b"", "invalidPayload", None),
    "another boundary": ((PURPOSE + FILE + END).replace(BOUNDARY.encode(), b"beef"), "invalidPayload", None),
    "another boundary, and large": (b"--beef\r\n" + bytes(1 << 20), "invalidPayload", None),
    "huge headers": (
        PURPOSE + f"--{BOUNDARY}\r\nX: ".encode() + b"x" * (1 << 20) + FILE + END,
        "invalidPayload",
        None,
    ),
    "many parts": (b"".join(part(f"p{n}", b"") for n in range(40)) + FILE + END, "unknown_parameter", "p0"),
    "no name": (f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n".encode() + END, "invalidPayload", None),
    "no disposition": (f"--{BOUNDARY}\r\nX: y\r\n\r\nx\r\n".encode() + END, "invalidPayload", None),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("case", BAD)
def test_a_bad_form_is_refused_with_what_to_fix_and_nothing_stays(http, server, spelling, case):
    body, code, param = BAD[case]
    before = stored(server)

    answer = http.post(url(spelling), content=body, headers={"content-type": TYPE})

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert error["type"] == "invalid_request_error"
    assert stored(server) == before


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/mixed; boundary={BOUNDARY}",
    ],
)
def test_a_body_of_another_type_is_refused(http, content_type):
    answer = http.post(url("v1"), content=PURPOSE + FILE + END, headers={"content-type": content_type})

    assert answer.status_code == 400
    assert "multipart/form-data" in answer.json()["error"]["message"]


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(http, server):
    with closing(HTTPConnection(server.endpoint.removeprefix("http://"), timeout=60)) as connection:
        connection.putrequest("POST", url("v1"))
        for name, value in {**http.headers, "content-type": TYPE, "content-length": str(600 << 20)}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        error = json.loads(answer.read(int(answer.headers["content-length"])))["error"]

    assert (answer.status, error["code"]) == (413, "413")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("id", [UNKNOWN, "file-1", "..%2Fx", "x" * 300])
def test_an_unknown_id_is_not_found(http, spelling, id):
    answers = [
        http.get(url(spelling, f"/{id}")),
        http.get(url(spelling, f"/{id}/content")),
        http.delete(url(spelling, f"/{id}")),
    ]

    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "notFound")


def stored(server) -> set[str]:
    """Return the blobs of files."""
    folders = ("file-heads", "file-segments", "file-changes", "uploaded-files")
    paths = [path for folder in folders for path in (server.data / "storage" / folder).rglob("*")]
    return {str(path) for path in paths if path.is_file()}
