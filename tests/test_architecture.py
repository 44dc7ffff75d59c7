"""Who may know whom, and that what is offered to plugin authors is what the contract says."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import sluicegate
from sluicegate.hookspecs import Hooks
from sluicegate.plugins import Plugins
from sluicegate.testing import plugin_of
from tests.conftest import ROOT

PUBLIC = {
    "sluicegate",
    "sluicegate.abuse",
    "sluicegate.accounts",
    "sluicegate.errors",
    "sluicegate.expressions",
    "sluicegate.hookspecs",
    "sluicegate.policies",
    "sluicegate.requests",
    "sluicegate.scopes",
    "sluicegate.services",
    "sluicegate.store",
    "sluicegate.streams",
    "sluicegate.testing",
    "sluicegate.training",
    "sluicegate.types",
    "sluicegate.vetting",
}
"""What plugins may import of Sluicegate; everything else may change without notice."""
HOOKS = {name: hook for name, hook in vars(Hooks).items() if hasattr(hook, "sluicegate_spec")}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield each (module, name) that a file imports, wherever in it, by statement or by ``import_module``."""
    package = module_of(path).split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                yield from ((alias.name, None) for alias in node.names)
            case ast.ImportFrom():
                base = package[: len(package) + 1 - node.level] if node.level else []
                module = ".".join([*base, *filter(None, [node.module])])
                yield from ((module, alias.name) for alias in node.names)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
                match node.args:
                    case [ast.Constant(value=str(name)), *_]:
                        yield name, None


def modules_imported(path: Path) -> set[str]:
    """Return the modules a file imports, ``from package import module`` among them."""
    found = set()
    for module, name in imports(path):
        inner = f"{module}.{name}"
        is_module = (ROOT / inner.replace(".", "/")).is_dir() or (ROOT / (inner.replace(".", "/") + ".py")).exists()
        found.add(inner if name and is_module else module)
    return found


def examples(hook: str) -> list[str]:
    """Return the source of each example in a hook's docstring."""
    doc = inspect.getdoc(HOOKS[hook]) or ""
    return [
        textwrap.dedent(block) for block in re.findall(r"^Example::\n\n((?:    .*\n|\n)+)", doc + "\n", re.MULTILINE)
    ]


def loaded(source: str) -> ModuleType:
    module = ModuleType("example")
    exec(compile(source, "example", "exec"), vars(module))
    return module


@pytest.mark.parametrize("path", sources("sluicegate"), ids=module_of)
def test_the_core_imports_no_plugin(path):
    assert not {name for name in modules_imported(path) if name.split(".")[0] == "plugins"}


@pytest.mark.parametrize("path", [path for path in sources("sluicegate") if "testing" not in path.parts], ids=module_of)
def test_what_is_for_tests_is_not_used_by_the_app(path):
    assert not {name for name in modules_imported(path) if name.startswith(("sluicegate.testing", "tests"))}


@pytest.mark.parametrize("path", sources("plugins"), ids=module_of)
def test_a_plugin_imports_only_what_is_public(path):
    used = {name for name in modules_imported(path) if name.split(".")[0] == "sluicegate"}
    private = {
        name for module, name in imports(path) if module.split(".")[0] == "sluicegate" and (name or "")[:1] == "_"
    }

    assert used <= PUBLIC
    assert not private


@pytest.mark.parametrize("path", sources("plugins"), ids=module_of)
def test_a_plugin_imports_no_other_plugin(path):
    own = path.relative_to(ROOT / "plugins").parts[0].removesuffix(".py")
    used = {name.split(".")[1] for name in modules_imported(path) if name.startswith("plugins.")}

    assert not {name for name in used if name != own and not name.startswith("_")}


@pytest.mark.parametrize("name", ["sluicegate", "sluicegate.requests", "sluicegate.testing", "sluicegate.host"])
def test_all_that_a_package_lists_is_all_that_it_exports(name):
    package = importlib.import_module(name)
    exported = {imported or "" for _, imported in imports(Path(package.__file__))} - {"annotations"}

    assert sorted(set(package.__all__)) == sorted(package.__all__)
    assert set(package.__all__) == exported
    assert all(hasattr(package, each) for each in package.__all__)


def test_every_error_for_callers_that_a_plugin_may_raise_is_at_the_top():
    raised = {
        "FilterUnavailable",
        "Forbidden",
        "InvalidRequest",
        "ModelUnavailable",
        "NotFound",
        "Refused",
        "TooManyRequests",
    }

    assert {*raised, "Unauthorized", "Unsupported", "UpstreamError"} <= set(sluicegate.__all__)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_says_what_it_is_for_and_since_when(hook):
    doc = inspect.getdoc(HOOKS[hook])

    assert doc.partition("\n")[0].endswith((".", ";"))
    assert re.search(r"^\.\. versionadded:: \d+\.\d+$", doc, re.MULTILINE)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_complete_example_that_loads(hook):
    referred = re.search(r"See ``(\w+)`` for an example", inspect.getdoc(HOOKS[hook]) or "")
    sources = examples(referred[1] if referred else hook)
    plugins = Plugins()

    for number, source in enumerate(sources):
        plugins.add(loaded(source), f"example_{number}")

    assert plugins.implementing(hook)


def test_an_example_that_would_not_load_is_found():
    async def pre_filter(prompt): ...

    with pytest.raises(sluicegate.errors.StartupError):
        Plugins().add(plugin_of(pre_filter), "example")


@pytest.fixture(scope="module")
def built_in():
    plugins = Plugins()
    plugins.load_folder(ROOT / "plugins")
    return plugins


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_implemented_by_a_plugin_that_comes_with_sluicegate(built_in, hook):
    assert built_in.implementing(hook)


def test_every_plugin_that_comes_with_sluicegate_says_what_it_does(built_in):
    assert {name for name in built_in.names() if not built_in.summary_of(name)} == set()
