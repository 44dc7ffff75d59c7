"""Uploads in parts: a file is there whole once it is completed, or not at all, and nothing is left of what came to nothing."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import openai
import pytest

from sluicegate.errors import StorageUnavailable
from sluicegate.storage import part_uploads, upload_checks
from sluicegate.testing import FrozenClock
from tests.inside import Tenant, client, folders, open_app

UPLOADS = "/openai/v1/uploads"
ONE, TWO = b'{"canary": "my number"}\n' * 40, b'{"last": true}\n' * 3
WHOLE = ONE + TWO


@pytest.fixture
def clock():
    return FrozenClock(datetime(2026, 3, 1, 12, tzinfo=UTC))


@pytest.fixture
async def gate(tmp_path, clock):
    gate = open_app(tmp_path, folders(tmp_path, "local"), now=clock)
    await gate.start()
    yield gate
    await gate.shutdown()


@pytest.fixture
async def contoso(gate):
    return await Tenant.create(gate, "contoso", "local")


async def announce(tenant, size=None, **more):
    size = len(WHOLE) if size is None else size
    body = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": size, "mime_type": "application/jsonl", **more}
    return await tenant.caller.post(UPLOADS, json=body)


async def add(tenant, upload, data):
    return await tenant.caller.post(f"{UPLOADS}/{upload}/parts", files={"data": data})


async def complete(tenant, upload, *parts, **more):
    return await tenant.caller.post(f"{UPLOADS}/{upload}/complete", json={"part_ids": list(parts), **more})


async def sent(tenant, *pieces, **more):
    """Return an upload's id, and its parts'."""
    announced = await announce(tenant, **more)
    assert announced.status_code == 200, announced.text
    upload = announced.json()["id"]
    return upload, [(await add(tenant, upload, piece)).json()["id"] for piece in pieces]


async def files(tenant):
    return (await tenant.caller.get("/openai/v1/files")).json()["data"]


def stored(tmp_path, *containers):
    """Return what storage holds of files and uploads."""
    return sorted(
        str(path.relative_to(tmp_path / "local" / "storage"))
        for container in containers or ("file-heads", "file-segments", "pending-uploads", "uploaded-files")
        for path in (tmp_path / "local" / "storage" / container).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )


async def test_the_sdk_sends_a_file_in_pieces(gate, contoso, tmp_path):
    path = tmp_path / "training.jsonl"
    path.write_bytes(WHOLE)
    sdk = openai.AsyncOpenAI(
        api_key=contoso.keys[next(iter(contoso.keys))], base_url="http://gate/openai/v1", http_client=client(gate)
    )

    upload = await sdk.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="fine-tune", part_size=100, md5=hashlib.md5(WHOLE).hexdigest()
    )

    assert (upload.status, upload.bytes, upload.file.filename) == ("completed", len(WHOLE), "training.jsonl")
    assert (await sdk.files.content(upload.file.id)).content == WHOLE
    await sdk.close()


async def test_parts_become_one_file_in_the_order_that_is_named(contoso, tmp_path):
    upload, (two, one) = await sent(contoso, TWO, ONE, expires_after={"anchor": "created_at", "seconds": 3600})

    done = await complete(contoso, upload, one, two)

    file = done.json()["file"]
    content = await contoso.caller.get(f"/openai/v1/files/{file['id']}/content", headers={"range": "bytes=700-740"})
    assert (done.status_code, done.json()["status"]) == (200, "completed")
    assert file["expires_at"] - file["created_at"] == 3600
    assert content.content == WHOLE[700:741]
    assert [name for name in stored(tmp_path) if "upload_" in name and "pending" not in name] == []


async def test_a_part_that_is_not_named_is_no_part_of_the_file(contoso, tmp_path):
    upload, (one, _, two) = await sent(contoso, ONE, b"mistake", TWO)

    done = await complete(contoso, upload, one, two)

    assert done.status_code == 200
    assert (await files(contoso))[0]["bytes"] == len(WHOLE)
    assert [name for name in stored(tmp_path, "file-heads", "file-segments") if "part_" in name] == []


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (lambda one, two: {"part_ids": [one]}, "part_ids"),
        (lambda one, two: {"part_ids": [one, one, two]}, "part_ids"),
        (lambda one, two: {"part_ids": [one, "part_" + "0" * 32]}, "part_ids[1]"),
        (lambda one, two: {"part_ids": [two, one], "md5": hashlib.md5(WHOLE).hexdigest()}, "md5"),
    ],
    ids=["bytes are missing", "a part twice", "an unknown part", "another order than the hash says"],
)
async def test_what_is_not_the_file_that_was_announced_is_refused_and_can_be_mended(contoso, change, param):
    upload, (one, two) = await sent(contoso, ONE, TWO)

    refused = await contoso.caller.post(f"{UPLOADS}/{upload}/complete", json=change(one, two))

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert await files(contoso) == []
    assert (await complete(contoso, upload, one, two)).status_code == 200


async def test_a_batch_file_in_parts_goes_by_the_rules_of_batch_files(contoso, tmp_path):
    brief = await announce(contoso, purpose="batch", expires_after={"anchor": "created_at", "seconds": 1_209_599})
    upload, parts = await sent(contoso, b"\xef\xbb", b"\xbf" + ONE, size=len(ONE) + 3, purpose="batch")
    before = stored(tmp_path)

    done = await complete(contoso, upload, *parts)

    assert (brief.status_code, brief.json()["error"]["param"]) == (400, "expires_after.seconds")
    assert (done.status_code, done.json()["error"]["code"]) == (400, "jsonlValidationFailed")
    assert stored(tmp_path) == before


async def test_a_completed_upload_is_completed_again_as_it_is(contoso):
    upload, parts = await sent(contoso, ONE, TWO)
    first = await complete(contoso, upload, *parts)

    again = await complete(contoso, upload, *parts)

    assert again.json()["file"]["id"] == first.json()["file"]["id"]
    assert len(await files(contoso)) == 1
    assert (await add(contoso, upload, b"more")).status_code == 400


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_of_a_completed_upload_whose_file_is_deleted_no_name_is_left(
    gate, contoso, monkeypatch, tmp_path, is_interrupted
):
    upload, parts = await sent(contoso, ONE, TWO)
    if is_interrupted:

        async def dies(account, id):
            raise StorageUnavailable("gone")

        monkeypatch.setattr(gate.regions.home.uploads, "erase", dies)
    await complete(contoso, upload, *parts)
    monkeypatch.undo()
    [file] = await files(contoso)
    await contoso.caller.delete(f"/openai/v1/files/{file['id']}")
    if is_interrupted:
        await gate.purge()

    assert [name.partition("/")[0] for name in stored(tmp_path)] == ["pending-uploads"]


async def test_an_upload_that_is_given_up_leaves_nothing_but_a_receipt(contoso, tmp_path):
    upload, _ = await sent(contoso, ONE)

    cancelled = await contoso.caller.post(f"{UPLOADS}/{upload}/cancel")

    assert (cancelled.json()["status"], cancelled.json()["filename"]) == ("cancelled", "a.jsonl")
    assert stored(tmp_path, "file-heads", "file-segments") == []
    [receipt] = (await contoso.officer.get("/governance/receipts")).json()["data"]
    assert (receipt["kind"], receipt["subject"]) == ("delete.upload", upload)
    assert (await add(contoso, upload, ONE)).status_code == 400


async def test_an_upload_that_nobody_completes_expires_and_goes(gate, contoso, clock, tmp_path):
    upload, parts = await sent(contoso, ONE, TWO)
    clock.advance(part_uploads.LIVES_FOR)
    late = [await add(contoso, upload, TWO), await complete(contoso, upload, *parts)]
    clock.advance(part_uploads._GRACE)

    await gate.purge()

    assert [each.status_code for each in late] == [400, 400]
    assert stored(tmp_path, "file-heads", "file-segments") == []
    clock.advance(timedelta(days=1))
    await gate.purge()
    assert stored(tmp_path, "pending-uploads") == []


async def test_a_removal_that_was_stopped_before_its_receipt_gets_it_from_the_timer(gate, contoso, monkeypatch):
    upload, _ = await sent(contoso, ONE)
    erase = part_uploads.PartUploads.erase

    async def stopped(uploads, account, id):
        await erase(uploads, account, id)
        raise StorageUnavailable("gone")

    monkeypatch.setattr(part_uploads.PartUploads, "erase", stopped)
    await contoso.caller.post(f"{UPLOADS}/{upload}/cancel")
    monkeypatch.undo()

    await gate.purge()

    [receipt] = (await contoso.officer.get("/governance/receipts")).json()["data"]
    assert (receipt["kind"], receipt["subject"]) == ("delete.upload", upload)
    assert await gate.regions.home.receipts.unfinished(gate.now()) == 0


async def test_a_process_that_dies_while_completing_leaves_the_parts_and_no_file(gate, contoso, monkeypatch):
    upload, parts = await sent(contoso, ONE, TWO)
    put = gate.regions.home.blobs.put

    async def dies(container, name, *rest, **options):
        if container == "file-heads" and "/file-" in name:
            raise StorageUnavailable("gone")
        return await put(container, name, *rest, **options)

    monkeypatch.setattr(gate.regions.home.blobs, "put", dies)
    interrupted = await complete(contoso, upload, *parts)
    monkeypatch.undo()

    assert interrupted.status_code == 503
    assert await files(contoso) == []
    assert (await complete(contoso, upload, *parts)).status_code == 200
    assert len(await files(contoso)) == 1


async def test_of_two_who_complete_it_one_file_comes(contoso):
    upload, parts = await sent(contoso, ONE, TWO)

    answers = await asyncio.gather(*(complete(contoso, upload, *parts) for _ in range(3)))

    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len(await files(contoso)) == 1


async def test_what_is_announced_counts_towards_what_an_account_may_have(contoso):
    refused = [await announce(contoso, size=8 << 30), await announce(contoso, size=8 << 30)]

    assert [each.status_code for each in refused] == [200, 429]
    assert (await announce(contoso, size=(8 << 30) + 1)).status_code == 400


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"bytes": "10"}, "bytes", "invalid_type"),
        ({"bytes": 0}, "bytes", "integer_below_min_value"),
        ({"filename": ""}, "filename", "empty_string"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor", "invalid_value"),
        ({"expires_after": {"anchor": "created_at", "seconds": 60}}, "expires_after.seconds", "invalid_value"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
    ],
)
async def test_a_bad_announcement_is_refused_in_azures_words(contoso, change, param, code):
    refused = (await announce(contoso, **change)).json()["error"]

    assert (refused["param"], refused["code"], refused["type"]) == (param, code, "invalid_request_error")


async def test_as_many_parts_as_there_may_be_can_be_named(contoso):
    upload, _ = await sent(contoso)

    done = await complete(contoso, upload, *(f"part_{number:032x}" for number in range(part_uploads.MOST_PARTS)))

    assert (done.status_code, done.json()["error"]["param"]) == (400, "part_ids[0]")


async def test_another_account_sees_no_upload(gate, contoso):
    fabrikam = await Tenant.create(gate, "fabrikam", "local")
    upload, parts = await sent(contoso, ONE, TWO)

    answers = [
        await add(fabrikam, upload, TWO),
        await complete(fabrikam, upload, *parts),
        await fabrikam.caller.post(f"{UPLOADS}/{upload}/cancel"),
    ]

    assert {answer.status_code for answer in answers} == {404}


async def test_a_deleted_account_leaves_no_upload(gate, contoso, tmp_path):
    await sent(contoso, ONE)

    await gate.erasure.account(await gate.tenants.get("contoso"), actor="test")

    assert stored(tmp_path) == []


async def test_nothing_is_stored_in_plain_text(contoso, tmp_path):
    upload, parts = await sent(contoso, ONE, TWO)
    await complete(contoso, upload, *parts)

    found = [path for path in tmp_path.rglob("*") if path.is_file() and b"my number" in path.read_bytes()]
    assert found == []


# --- what is found in training data ----------------------------------------------------------------------------------

GOOD = b'{"messages": [{"role": "user", "content": "Is it the canary?"}, {"role": "assistant", "content": "Here."}]}\n'


async def uploaded(tenant, data, purpose="fine-tune"):
    form = {"files": {"file": ("a.jsonl", data)}, "data": {"purpose": purpose}}
    return (await tenant.caller.post("/openai/v1/files", **form)).json()


@pytest.mark.parametrize(
    ("data", "purpose", "status"),
    [
        (GOOD * 12, "fine-tune", "processed"),
        (GOOD, "fine-tune", "processed"),
        (GOOD * 12 + b"{canary\n", "fine-tune", "error"),
        (b"\xff\xfecanary", "fine-tune", "error"),
        (b"{canary", "batch", "processed"),
    ],
    ids=["good", "too few for a job", "a line that is no JSON", "another encoding", "no training data"],
)
async def test_training_data_that_is_no_json_lines_says_so(contoso, data, purpose, status):
    file = await uploaded(contoso, data, purpose)

    again = (await contoso.caller.get(f"/openai/v1/files/{file['id']}")).json()

    assert file["status"] == again["status"] == status
    assert file == again
    assert ("status_details" in file) == (status == "error")
    assert "canary" not in str(file)


async def test_the_report_names_line_and_remedy_and_goes_with_its_file(contoso, tmp_path):
    file = await uploaded(contoso, GOOD * 12 + b"{canary\n")
    path = f"/openai/v1/files/{file['id']}"

    report = (await contoso.caller.get(f"{path}/report")).json()
    await contoso.caller.delete(path)

    [finding] = [each for each in report["findings"] if each["code"] == "json_invalid"]
    assert (finding["line"], report["examples"]) == (13, 12)
    assert "Write it with a JSON library" in finding["fix"]
    assert "canary" not in str(report)
    assert "the first in line 13" in file["status_details"]
    assert (await contoso.caller.get(f"{path}/report")).status_code == 404
    assert stored(tmp_path) == []


async def test_what_comes_in_parts_is_looked_at_too(contoso):
    upload, parts = await sent(contoso, b"{canary\n", size=8)

    done = (await complete(contoso, upload, *parts)).json()

    assert (done["status"], done["file"]["status"]) == ("completed", "error")
    assert (await contoso.caller.get(f"/openai/v1/files/{done['file']['id']}/report")).status_code == 200


async def test_a_check_that_was_interrupted_is_made_by_whoever_asks_or_by_the_timer(gate, contoso, monkeypatch):
    async def away(content):
        raise StorageUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(upload_checks, "validate_async", away)
        found = [(await uploaded(contoso, GOOD * 12))["id"] for _ in range(3)]
        assert [each["status"] for each in await files(contoso)] == ["pending"] * 3

    asked = (await contoso.caller.get(f"/openai/v1/files/{found[0]}")).json()
    report = await contoso.caller.get(f"/openai/v1/files/{found[1]}/report")
    assert sorted(each["status"] for each in await files(contoso)) == ["pending", "processed", "processed"]
    await gate.purge()

    assert (asked["status"], report.json()["examples"]) == ("processed", 12)
    assert [each["status"] for each in await files(contoso)] == ["processed"] * 3
    assert (await contoso.caller.get(f"/openai/v1/files/{found[2]}/report")).status_code == 200


async def test_a_file_that_is_deleted_while_it_is_looked_at_leaves_no_report(gate, contoso, monkeypatch, tmp_path):
    files = gate.regions.home.files
    validate = upload_checks.validate_async

    async def deleted_meanwhile(content):
        report = await validate(content)
        [id] = [name.rpartition("/")[2] for name in await files._about.names("contoso/")]
        await files.delete("contoso", id, actor="contoso/key1")
        return report

    monkeypatch.setattr(upload_checks, "validate_async", deleted_meanwhile)
    await uploaded(contoso, GOOD)

    assert stored(tmp_path) == []
