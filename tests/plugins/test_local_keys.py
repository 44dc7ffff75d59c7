import asyncio
import json
import os
import stat
import subprocess
import sys

import pytest

from plugins import local_keys
from sluicegate.errors import KeyNotFound, KeyUnavailable, SealBroken, StartupError
from sluicegate.services import WrappedKey
from sluicegate.testing import check_keys

SECRET = bytes(range(32))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def keys(folder):
    return local_keys.open_keys(f"folder:{folder}")


async def test_keeps_the_contract_of_a_key_service(folder):
    await check_keys(lambda: local_keys.open_keys(f"folder:{folder}"))


@pytest.mark.parametrize("url", ["https://vault.example", "memory:", ""])
def test_other_urls_are_not_this_plugins(url):
    assert local_keys.open_keys(url) is None


def test_a_folder_must_be_named():
    with pytest.raises(StartupError, match="names no folder"):
        local_keys.open_keys("folder:")


def test_opening_touches_nothing(keys, folder):
    assert not folder.exists()


async def test_asking_for_names_touches_nothing(keys, folder):
    assert await keys.names() == ()
    assert not folder.exists()


async def test_only_its_owner_may_read_a_key(keys, folder):
    old = os.umask(0)
    try:
        await keys.create("ret-20260101")
    finally:
        os.umask(old)

    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())} == {
        "keys": 0o700,
        ".lock": 0o600,
        "ret-20260101.jwk": 0o600,
    }


async def test_a_key_is_256_random_bits_as_a_json_web_key(keys, folder):
    await keys.create("a")
    await keys.create("b")

    a, b = (json.loads((folder / f"{name}.jwk").read_text()) for name in "ab")
    assert (a["kty"], a["key_ops"], len(a["k"])) == ("oct", ["wrapKey", "unwrapKey"], 43)
    assert a["k"] != b["k"]


async def test_wrapping_is_rfc_3394(keys, folder):
    """The test vector of RFC 3394 §4.6."""
    await keys.create("rfc")
    path = folder / "rfc.jwk"
    jwk = json.loads(path.read_text())
    jwk["k"] = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    path.write_text(json.dumps(jwk))

    wrapped = await keys.wrap("rfc", bytes.fromhex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"))

    expected = "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"
    assert (wrapped.algorithm, wrapped.ciphertext.hex().upper()) == ("A256KW", expected)


async def test_destroying_overwrites_the_key_wherever_it_is_linked(keys, folder, tmp_path):
    await keys.create("ret-20260101")
    os.link(folder / "ret-20260101.jwk", tmp_path / "forgotten")

    assert await keys.destroy("ret-20260101") is True
    assert [path.name for path in folder.iterdir()] == [".lock"]
    assert set((tmp_path / "forgotten").read_bytes()) == {0}


async def test_keys_are_flushed_before_they_are_used_and_when_they_are_gone(keys, folder, monkeypatch):
    steps = []
    fsync, rename, unlink = os.fsync, os.rename, os.unlink

    monkeypatch.setattr(
        os, "fsync", lambda fd: (steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd))
    )
    monkeypatch.setattr(os, "rename", lambda *paths, **options: (steps.append("rename"), rename(*paths, **options)))
    monkeypatch.setattr(os, "unlink", lambda *paths, **options: (steps.append("unlink"), unlink(*paths, **options)))

    await keys.create("ret-20260101")
    assert steps == ["file", "rename", "folder"]
    steps.clear()
    await keys.destroy("ret-20260101")
    assert steps == ["file", "unlink", "folder"]


async def test_destroying_takes_a_half_made_key_with_it(keys, folder):
    await keys.create("ret-20260101")
    (folder / ".new").write_text("half")

    await keys.destroy("ret-20260101")

    assert [path.name for path in folder.iterdir()] == [".lock"]


async def test_a_half_made_key_does_not_get_in_the_way(keys, folder):
    folder.mkdir()
    (folder / ".new").write_text("half")

    wrapped = await keys.wrap("ret-20260101", SECRET)

    assert await keys.unwrap(wrapped) == SECRET
    assert await keys.names() == ("ret-20260101",)


async def test_a_half_destroyed_key_opens_nothing_and_is_not_replaced(keys, folder):
    wrapped = await keys.wrap("ret-20260101", SECRET)
    path = folder / "ret-20260101.jwk"
    path.write_bytes(bytes(path.stat().st_size))

    with pytest.raises(KeyNotFound):
        await keys.unwrap(wrapped)
    with pytest.raises(KeyUnavailable, match="being destroyed"):
        await keys.wrap("ret-20260101", SECRET)
    assert await keys.names() == ("ret-20260101",)
    assert await keys.destroy("ret-20260101") is True
    assert await keys.names() == ()


@pytest.mark.parametrize(
    "content",
    [
        '{"kty": "oct", "kid": "a/1"}',
        '{"kty": "oct", "kid": "a/1", "k": "AAAA"}',
        '{"kty": "RSA", "kid": "a/1", "k": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}',
        '{"kty": "oct", "kid": "b/1", "k": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}',
        "[]",
        "not json",
        "\ufeff",
    ],
    ids=["no k", "short k", "not oct", "another name", "list", "text", "mark"],
)
async def test_a_damaged_key_file_is_never_used(keys, folder, content):
    folder.mkdir()
    (folder / "a.jwk").write_text(content)

    with pytest.raises(KeyUnavailable, match="'a' is damaged"):
        await keys.wrap("a", SECRET)
    with pytest.raises(KeyUnavailable, match="'a' is damaged"):
        await keys.unwrap(WrappedKey("a/1", "A256KW", bytes(40)))


@pytest.mark.parametrize("key_id", ["", "/", "../../etc/passwd", "A/1", "missing/1"])
async def test_a_strange_key_id_is_not_found(keys, key_id):
    with pytest.raises(KeyNotFound):
        await keys.unwrap(WrappedKey(key_id, "A256KW", bytes(40)))


async def test_another_algorithm_is_refused(keys):
    wrapped = await keys.wrap("a", SECRET)

    with pytest.raises(SealBroken, match="algorithm"):
        await keys.unwrap(WrappedKey(wrapped.key_id, "RSA-OAEP-256", wrapped.ciphertext))


async def test_a_folder_that_cannot_be_used_is_named_by_its_role_only(tmp_path):
    (tmp_path / "contoso-file").write_text("")
    keys = local_keys.open_keys(f"folder:{tmp_path}/contoso-file/keys")

    for step in (keys.create("a"), keys.wrap("a", SECRET), keys.destroy("a")):
        with pytest.raises(KeyUnavailable, match=r"^the key folder: Not a directory$") as caught:
            await step
        assert "contoso" not in str(caught.value)


async def test_processes_that_race_to_make_a_key_agree(folder):
    script = (
        "import asyncio, sys\n"
        "from plugins import local_keys\n"
        "keys = local_keys.open_keys(sys.argv[1])\n"
        "sys.stdin.readline()\n"
        "for number in range(30):\n"
        "    print(asyncio.run(keys.wrap(f'k{number}', bytes(32))).key_id)\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"folder:{folder}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate()[0] for racer in racers]

    assert [racer.returncode for racer in racers] == [0] * 4
    assert len(answers[0].split()) == 30
    assert set(answers) == {answers[0]}


async def test_creating_and_destroying_at_once_leaves_a_key_or_none(keys, folder):
    for _ in range(20):
        await asyncio.gather(*(step("a") for step in (keys.create, keys.destroy) * 3))

        assert {path.name for path in folder.iterdir()} <= {".lock", "a.jwk"}
