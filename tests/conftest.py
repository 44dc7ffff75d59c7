"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# A shell that runs the tests in the background ignores interrupts, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A busy machine must not fail a property, and neither must luck: each run tries the same examples.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", settings.get_profile("patient"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))


@pytest.fixture
def make_app(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Return a function that writes an app's folder: its plugins by module name, and its deployment file.

    Its package ``plugins`` takes the place of ours until the test ends.
    """
    for name in [name for name in sys.modules if name == "plugins" or name.startswith("plugins.")]:
        monkeypatch.delitem(sys.modules, name)

    def make(deployment: str = "", **plugins: str) -> Path:
        write(tmp_path / "plugins" / "__init__.py", "")
        for name, source in plugins.items():
            write(tmp_path / "plugins" / f"{name}.py", source)
        write(tmp_path / "config" / "deployment.toml", deployment)
        return tmp_path

    yield make
    for name in [name for name in sys.modules if name == "plugins" or name.startswith("plugins.")]:
        del sys.modules[name]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
