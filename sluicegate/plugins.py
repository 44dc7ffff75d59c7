"""Find the plugins of a deployment, check them before any request is served, and call one plugin at a time.

``await plugins["redact_pii"].pre_filter(...)`` goes through pluggy, so hook-call monitoring sees it, but to one plugin
only: it has a name to blame and its own settings, and filters chain. pluggy never awaits and knows neither order nor
kind of an async hook, which is why so much is refused here rather than tolerated.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import importlib.util
import inspect
import logging
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import UnionType
from typing import Any, cast

import pluggy
from pydantic import ValidationError

from sluicegate.config import Pipeline, describe
from sluicegate.errors import ApiError, PluginFailed, Refused, StartupError, TrainingFailed
from sluicegate.hookspecs import Hooks
from sluicegate.requests import FEATURES
from sluicegate.services import BlobStore, KeyService
from sluicegate.types import Model, PluginConfig

PACKAGE = "plugins"
STAGES = {
    "authenticate": ("authenticate",),
    "pre_filter": ("pre_filter",),
    "models": ("register_models",),
    "post_filter": ("post_filter",),
    "retain": ("retain", "purge"),
    "observe": ("observe",),
    "review": ("review",),
    "notify": ("notify",),
}
"""Stage of the pipeline -> the hooks a plugin named there must implement."""
OPERATIONS = {"chat.completions": "inference", "completions": "inference", "embeddings": "embed"}
"""Operation of a model -> the hook that serves it."""
log = logging.getLogger(__name__)
_HOOKS = frozenset(name for name, value in vars(Hooks).items() if hasattr(value, "sluicegate_spec"))


class Plugins:
    """The loaded plugins by name."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("sluicegate")
        self._manager.add_hookspecs(Hooks)
        self._handles: dict[str, Hooks] = {}
        self._sources: dict[str, str] = {}
        self._configs: dict[str, PluginConfig] = {}
        self._models: dict[str, tuple[Model, str]] = {}

    # --- loading -----------------------------------------------------------------------------------------------------

    def load_folder(self, folder: Path) -> None:
        """Load every module of the folder, in alphabetical order, except ``_private`` ones."""
        package = _package(folder)
        for found in sorted(pkgutil.iter_modules([str(folder)]), key=lambda module: module.name):
            if not found.name.startswith("_"):
                self.add(_imported(f"{package}.{found.name}", found.name), found.name, source=f"{folder.name}/")

    def load_one(self, folder: Path, name: str) -> None:
        """Load one module of the folder, with its default settings: for a command that needs no deployment.

        Raises:
            StartupError: It cannot be imported, breaks a rule, or has a setting without a default.
        """
        self.add(_imported(f"{_package(folder)}.{name}", name), name, source=f"{folder.name}/")
        try:
            self._configs[name] = self._settings_class(name)()
        except ValidationError as error:
            raise StartupError(f"[plugins.{name}] {describe(error)}") from None

    def load_installed(self, names: Iterable[str]) -> None:
        """Load the named entry points of the group ``sluicegate``; one that is not named is not imported."""
        for name in names:
            found = entry_points(group="sluicegate", name=name)
            if len(found) != 1:
                what = "no installed plugin is" if not found else f"{len(found)} installed plugins are"
                raise StartupError(f"{what} called {name!r}")
            [entry] = found
            source = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "installed"
            self.add(_imported(entry.module, name), name, source=source)

    def add(self, plugin: object, name: str, *, source: str = "added") -> None:
        """Load one plugin object, usually a module.

        Args:
            source: Where it came from, for ``describe``.

        Raises:
            StartupError: One of the rules of ``docs/writing-plugins.md`` is broken; the message names plugin and rule.
        """
        if self._manager.has_plugin(name):
            raise StartupError(f"two plugins are called {name!r}")
        for hook in _HOOKS:
            function = inspect.getattr_static(plugin, hook, None)
            if inspect.isfunction(function) and not hasattr(function, "sluicegate_impl"):
                raise StartupError(f"plugin {name!r}, hook {hook}: must be marked with @hookimpl")
        for attribute in dir(plugin):
            options = getattr(inspect.getattr_static(plugin, attribute, None), "sluicegate_impl", None)
            if options is not None:
                where = f"plugin {name!r}, hook {attribute}"
                _check_options(where, options)
                _check_signature(where, attribute, getattr(plugin, attribute))
        try:
            self._manager.register(plugin, name=name)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise StartupError(f"plugin {name!r}: {error}") from error
        self._check(name)
        self._sources[name] = source
        # A handle calls one plugin by leaving out the others, of which there is one more now.
        self._handles.clear()

    def configure(self, settings: Mapping[str, Mapping[str, Any]], pipeline: Pipeline) -> None:
        """Validate all settings and the pipeline, then register the models.

        Raises:
            StartupError: An unknown or mistyped setting, a step whose plugin lacks the stage's hook, or two models of one id.
        """
        for name in settings:
            if not self._manager.has_plugin(name):
                raise StartupError(f"[plugins.{name}] configures a plugin that is not there")
        for stage, hooks in STAGES.items():
            for step in getattr(pipeline, stage):
                if not self._manager.has_plugin(step.plugin):
                    raise StartupError(f"pipeline.{stage} names {step.plugin!r}, which is not there")
                for hook in hooks:
                    if step.plugin not in self.implementing(hook):
                        raise StartupError(f"pipeline.{stage} names {step.plugin!r}, which does not implement {hook}")
        for name in self.names():
            try:
                self._configs[name] = self._settings_class(name).model_validate(settings.get(name, {}))
            except ValidationError as error:
                # A plugin nobody named needs no settings; its hooks are not called.
                if name in settings or name in pipeline.plugins():
                    raise StartupError(f"[plugins.{name}] {describe(error)}") from None
        for step in pipeline.models:
            self._register_models(step.plugin)

    # --- use ---------------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Hooks:
        """Return one plugin; calling a hook's name on it calls that plugin alone."""
        if name not in self._handles:
            if not self._manager.has_plugin(name):
                raise StartupError(f"no plugin is called {name!r}")
            self._handles[name] = cast(Hooks, _Handle(self._manager, name))
        return self._handles[name]

    async def call(self, name: str, hook: str, expected: type[Any] | UnionType, /, **arguments: Any) -> Any:
        """Await one plugin's hook with its own settings.

        Args:
            expected: The class of what it must return.

        Raises:
            ApiError: What the plugin raised on purpose; ``Refused``, ``TrainingFailed`` and ``StartupError`` likewise.
            PluginFailed: Anything else. It is logged without its message, which may quote the prompt.
        """
        try:
            returned = await getattr(self[name], hook)(**arguments, config=self._configs[name])
            if not isinstance(returned, expected):
                raise TypeError(f"{hook} returned {type(returned).__name__} instead of {expected}")
            return returned
        except (ApiError, Refused, StartupError, TrainingFailed):
            raise
        except (Exception, asyncio.CancelledError) as error:
            if not is_failure(error):
                raise
            log_failure(name, hook, error)
            raise PluginFailed(name, hook) from None

    def names(self) -> tuple[str, ...]:
        """Return every loaded plugin's name, sorted."""
        return tuple(sorted(name for name, _ in self._manager.list_name_plugin()))

    def implementing(self, hook: str) -> tuple[str, ...]:
        """Return the plugins that implement a hook, sorted."""
        return tuple(sorted(impl.plugin_name for impl in getattr(self._manager.hook, hook).get_hookimpls()))

    def configured(self, hook: str) -> tuple[str, ...]:
        """Return the plugins that implement a hook and have valid settings, sorted."""
        return tuple(name for name in self.implementing(hook) if name in self._configs)

    def config_of(self, name: str) -> PluginConfig:
        """Return a plugin's validated settings."""
        return self._configs[name]

    def source_of(self, name: str) -> str:
        """Return where a plugin came from: ``plugins/`` or the distribution that installed it."""
        return self._sources[name]

    def summary_of(self, name: str) -> str:
        """Return the first paragraph of a plugin's own description."""
        return " ".join((inspect.getdoc(self._manager.get_plugin(name)) or "").partition("\n\n")[0].split())

    def models(self) -> Mapping[str, tuple[Model, str]]:
        """Return model id -> the model and the plugin that serves it."""
        return self._models

    def open_storage(self, url: str) -> BlobStore:
        """Return the store some plugin opens for ``url``; the message of a failure never holds the URL's secrets."""
        store = self._manager.hook.open_storage(url=url)
        if store is None:
            raise StartupError(f"no plugin opens storage URLs of the kind {_scheme(url)!r}")
        return cast(BlobStore, store)

    def open_keys(self, url: str, identity: str | None = None) -> KeyService:
        """Return the key service some plugin opens for ``url``."""
        keys = self._manager.hook.open_keys(url=url, identity=identity)
        if keys is None:
            raise StartupError(f"no plugin opens key URLs of the kind {_scheme(url)!r}")
        return cast(KeyService, keys)

    # --- checks ------------------------------------------------------------------------------------------------------

    def _check(self, name: str) -> None:
        plugin = self._manager.get_plugin(name)
        implemented = {caller.name for caller in self._manager.get_hookcallers(plugin) or ()}
        if not implemented:
            raise StartupError(f"plugin {name!r} implements no hook")
        if "retain" in implemented and "purge" not in implemented:
            raise StartupError(f"plugin {name!r} retains data but cannot purge it")
        if implemented & {"inference", "embed"} and "register_models" not in implemented:
            raise StartupError(f"plugin {name!r} serves models but registers none: it needs register_models")

    def _settings_class(self, name: str) -> type[PluginConfig]:
        if name not in self.implementing("register_config"):
            return PluginConfig
        returned = self[name].register_config()
        if not (isinstance(returned, type) and issubclass(returned, PluginConfig)):
            raise StartupError(f"plugin {name!r}, hook register_config: must return a subclass of PluginConfig")
        return returned

    def _register_models(self, name: str) -> None:
        registered = self[name].register_models(config=self._configs[name])
        models = tuple(registered) if isinstance(registered, Iterable) else (registered,)
        if not all(isinstance(model, Model) for model in models):
            raise StartupError(f"plugin {name!r}, hook register_models: must return objects of Model")
        for model in models:
            where = f"plugin {name!r}, model {model.id!r}"
            if model.id in self._models:
                raise StartupError(f"{where}: {self._models[model.id][1]!r} already registers it")
            if unknown := model.features - FEATURES.keys():
                raise StartupError(f"{where}: unknown features {', '.join(sorted(unknown))}")
            if not model.operations or model.operations - OPERATIONS.keys():
                raise StartupError(f"{where}: its operations must be some of {', '.join(OPERATIONS)}")
            needed = {OPERATIONS[operation] for operation in model.operations}
            if "token_input" in model.features:
                needed.add("detokenize")
            for hook in sorted(needed):
                if name not in self.implementing(hook):
                    raise StartupError(f"{where}: the plugin must implement {hook}")
            self._models[model.id] = (model, name)


class _Handle:
    """One plugin's hooks. Calls go through pluggy, so hook-call monitoring sees them."""

    def __init__(self, manager: pluggy.PluginManager, name: str) -> None:
        self._manager = manager
        self._others = [plugin for other, plugin in manager.list_name_plugin() if other != name and plugin]

    def __getattr__(self, hook: str) -> Any:
        caller = self._manager.subset_hook_caller(hook, self._others)
        first = hook in ("open_storage", "open_keys")

        def call(**arguments: Any) -> Any:
            if first:
                return caller(**arguments)
            # pluggy leaves None out of its list.
            [returned] = caller(**arguments) or [None]
            return returned

        setattr(self, hook, call)
        return call


def is_failure(error: BaseException) -> bool:
    """Return whether a plugin is to blame for ``error``: for a CancelledError it is, unless its task is being cancelled."""
    task = asyncio.current_task()
    return not (isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling())


def log_failure(plugin: str, hook: str, error: BaseException) -> None:
    """Log where a plugin failed: class and frames. Never the message, because it may quote the prompt."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("plugin %s failed in %s: %s\n%s", plugin, hook, type(error).__name__, frames)


def _check_options(where: str, options: Mapping[str, Any]) -> None:
    if options.get("wrapper") or options.get("hookwrapper"):
        raise StartupError(f"{where}: wrappers cannot see an awaited result")
    if options.get("tryfirst") or options.get("trylast"):
        raise StartupError(f"{where}: the order of plugins is decided in the deployment file, not here")
    if options.get("specname"):
        raise StartupError(f"{where}: a function is named like its hook, so specname is not needed")
    if options.get("optionalhook"):
        raise StartupError(f"{where}: optionalhook would let a misspelt hook pass")


def _check_signature(where: str, hook: str, function: Any) -> None:
    if hook not in _HOOKS:
        likely = difflib.get_close_matches(hook, _HOOKS, n=1)
        raise StartupError(f"{where}: there is no such hook" + "".join(f"; is it {name}?" for name in likely))
    spec = getattr(Hooks, hook)
    if (kind := _kind(spec)) != _kind(function):
        raise StartupError(f"{where}: must be {kind}")
    known = [name for name in inspect.signature(spec).parameters if name != "self"]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not parameter.empty or parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise StartupError(f"{where}: parameters must be positional without defaults")
        if parameter.name not in known:
            raise StartupError(
                f"{where}: there is no parameter {parameter.name!r}; it may take {', '.join(known) or 'none'}"
            )


def _kind(function: Any) -> str:
    if inspect.isasyncgenfunction(function):
        return "async def with yield"
    return "async def" if inspect.iscoroutinefunction(function) else "def"


def _package(folder: Path) -> str:
    """Import the folder itself as the package ``plugins``, whatever else of that name is installed."""
    location = folder / "__init__.py"
    loaded = sys.modules.get(PACKAGE)
    if loaded is None:
        spec = importlib.util.spec_from_file_location(PACKAGE, location, submodule_search_locations=[str(folder)])
        if spec is None or spec.loader is None or not location.exists():
            raise StartupError(f"{location}: not found")
        loaded = sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    if Path(str(loaded.__file__)).resolve() != location.resolve():
        raise StartupError(f"another package called {PACKAGE!r} is loaded from {loaded.__file__}")
    return PACKAGE


def _imported(module: str, name: str) -> object:
    try:
        return importlib.import_module(module)
    except Exception as error:
        # Import runs no request, so the message quotes no prompt and helps the operator.
        raise StartupError(f"plugin {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _scheme(url: str) -> str:
    return url.partition("://")[0].partition(":")[0].partition("=")[0][:40]
