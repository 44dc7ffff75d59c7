"""Loading: everything that is wrong with a plugin stops the start, with a message that names plugin and rule."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType

import pytest

from sluicegate import hookimpl
from sluicegate.config import Pipeline
from sluicegate.errors import InvalidRequest, PluginFailed, Refused, StartupError
from sluicegate.plugins import Plugins, log_failure
from sluicegate.policies import DEFAULT_V2
from sluicegate.requests import FEATURES
from sluicegate.testing import (
    FakeModel,
    MemoryKeys,
    MemoryStorage,
    Use,
    answered,
    chat_request,
    check_plugin,
    plugin_of,
    pre_filtered,
)
from sluicegate.testing.harness import PRINCIPAL
from sluicegate.types import Model, PluginConfig, Principal, Role
from tests.conftest import write

PASSES = "@hookimpl\nasync def pre_filter(request): return request\n"
SECRET = "s3cr3t-value"


def module(source):
    """Return a module of this source; everything that authors import is there."""
    made = ModuleType("made", "A plugin.")
    exec("from sluicegate import *\n" + source, vars(made))
    return made


def pipeline(**stages):
    return Pipeline.model_validate({"authenticate": [], "models": ["fake"], **stages})


def configured(settings=None, *, plugins=None, **stages):
    """Return plugins with a fake model, loaded and configured."""
    loaded = Plugins()
    for name, plugin in {"fake": FakeModel(), **(plugins or {})}.items():
        loaded.add(plugin, name)
    loaded.configure(settings or {}, pipeline(**stages))
    return loaded


# --- what a plugin may look like -------------------------------------------------------------------------------------

MISTAKES = {
    "a filter that is not async": ("@hookimpl\ndef pre_filter(request): return request", "hook pre_filter: must be async def$"),
    "a filter that yields": ("@hookimpl\nasync def pre_filter(request): yield request", "hook pre_filter: must be async def$"),
    "a post-filter that returns": ("@hookimpl\nasync def post_filter(chunks): return chunks", "hook post_filter: must be async def with yield"),
    "a post-filter that is not async": ("@hookimpl\ndef post_filter(chunks): yield from chunks", "hook post_filter: must be async def with yield"),
    "an async registration": ("@hookimpl\nasync def register_config(): return PluginConfig", "hook register_config: must be def$"),
    "an async factory": ("@hookimpl\nasync def open_storage(url): return None", "hook open_storage: must be def$"),
    "an unknown hook": ("@hookimpl\nasync def pre_fliter(request): return request", r"hook pre_fliter: there is no such hook; is it pre_filter\?$"),
    "an unknown parameter": ("@hookimpl\nasync def pre_filter(req): return req", "hook pre_filter: there is no parameter 'req'; it may take request, principal, policy, config$"),
    "a parameter with a default": ("@hookimpl\nasync def pre_filter(request, config=None): return request", "hook pre_filter: parameters must be positional without defaults"),
    "a keyword-only parameter": ("@hookimpl\nasync def pre_filter(request, *, config): return request", "parameters must be positional without defaults"),
    "variadic parameters": ("@hookimpl\nasync def pre_filter(*args): return args[0]", "parameters must be positional without defaults"),
    "variadic keywords": ("@hookimpl\nasync def pre_filter(request, **rest): return request", "parameters must be positional without defaults"),
    "positional-only parameters": ("@hookimpl\nasync def pre_filter(request, /): return request", "parameters must be positional without defaults"),
    "a wrapper": ("@hookimpl(wrapper=True)\ndef pre_filter(request):\n  return (yield)", "hook pre_filter: wrappers cannot see"),
    "an old wrapper": ("@hookimpl(hookwrapper=True)\ndef pre_filter(request):\n  yield", "hook pre_filter: wrappers cannot see"),
    "tryfirst": (PASSES.replace("@hookimpl", "@hookimpl(tryfirst=True)"), "hook pre_filter: the order of plugins is decided in the deployment file"),
    "trylast": (PASSES.replace("@hookimpl", "@hookimpl(trylast=True)"), "hook pre_filter: the order of plugins is decided in the deployment file"),
    "optionalhook": ("@hookimpl(optionalhook=True)\nasync def pre_fliter(request): return request", "optionalhook would let a misspelt hook pass"),
    "specname": ("@hookimpl(specname='pre_filter')\nasync def redact(request): return request", "hook redact: a function is named like its hook"),
    "a hook that is not marked": ("async def pre_filter(request): return request", "hook pre_filter: must be marked with @hookimpl"),
    "one hook of two that is not marked": (PASSES + "async def post_filter(chunks):\n  async for c in chunks: yield c", "hook post_filter: must be marked with @hookimpl"),
    "no hook": ("x = 1", "implements no hook"),
    "data that nobody purges": ("@hookimpl\nasync def retain(exchange): ...", "retains data but cannot purge it"),
    "inference without models": ("@hookimpl\nasync def inference(request): yield Chunk()", "serves models but registers none"),
    "embeddings without models": ("@hookimpl\nasync def embed(request): return None", "serves models but registers none"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found_when_the_plugin_is_loaded(source, message):
    with pytest.raises(StartupError, match=message) as error:
        Plugins().add(module(source), "mine")

    assert "plugin 'mine'" in str(error.value)


def test_a_plugin_may_leave_out_parameters_and_reorder_them():
    Plugins().add(module("@hookimpl\nasync def pre_filter(config, request): return request"), "mine")


def test_an_object_is_a_plugin_as_well():
    class Filter:
        @hookimpl
        async def pre_filter(self, request):
            return request

    plugins = Plugins()
    plugins.add(Filter(), "object")

    assert plugins.implementing("pre_filter") == ("object",)


def test_an_objects_hook_must_be_marked_too():
    class Filter:
        async def pre_filter(self, request):
            return request

    with pytest.raises(StartupError, match="must be marked with @hookimpl"):
        Plugins().add(Filter(), "object")


def test_two_plugins_of_one_name_are_refused():
    plugins = Plugins()
    plugins.add(module(PASSES), "mine")

    with pytest.raises(StartupError, match="two plugins are called 'mine'"):
        plugins.add(module(PASSES), "mine")


# --- where plugins come from -----------------------------------------------------------------------------------------

PLUGIN = '"""Says what it does.\n\nAnd more."""\nfrom sluicegate import hookimpl\n' + PASSES


def test_every_module_of_the_folder_is_loaded_in_order(make_app):
    root = make_app(b_second=PLUGIN, a_first=PLUGIN)
    write(root / "plugins" / "c_package" / "__init__.py", PLUGIN)
    plugins = Plugins()

    plugins.load_folder(root / "plugins")

    assert plugins.names() == ("a_first", "b_second", "c_package")
    assert plugins.implementing("pre_filter") == ("a_first", "b_second", "c_package")
    assert plugins.source_of("a_first") == "plugins/"
    assert plugins.summary_of("a_first") == "Says what it does."


GREETS = """
'A plugin.'
from sluicegate import *

class Config(PluginConfig):
    greeting: str = "hello"

@hookimpl
def register_config(): return Config

@hookimpl
async def authenticate(config): return Principal("a", Role.CALLER, config.greeting)
"""


async def test_one_module_can_be_loaded_alone_with_its_default_settings(make_app):
    root = make_app(greets=GREETS, broken="1 / 0")
    plugins = Plugins()

    plugins.load_one(root / "plugins", "greets")

    assert plugins.names() == ("greets",)
    assert plugins.source_of("greets") == "plugins/"
    found = await plugins.call("greets", "authenticate", Principal, headers={}, accounts=None, role=Role.CALLER)
    assert found.name == "hello"


def test_a_module_that_is_loaded_alone_and_needs_settings_is_refused(make_app):
    root = make_app(greets=GREETS.replace(' = "hello"', ""))

    with pytest.raises(StartupError, match=r"^\[plugins.greets\] greeting: is missing$"):
        Plugins().load_one(root / "plugins", "greets")


def test_a_module_whose_name_begins_with_an_underscore_is_left_out(make_app):
    root = make_app(fine=PLUGIN, _draft="raise RuntimeError('imported')")
    plugins = Plugins()

    plugins.load_folder(root / "plugins")

    assert plugins.names() == ("fine",)


@pytest.mark.parametrize("source", ["import nonexistent_package", "def x(:", "raise RuntimeError('at import')"])
def test_a_module_that_cannot_be_imported_stops_the_start(make_app, source):
    root = make_app(broken=source)

    with pytest.raises(StartupError, match="plugin 'broken' cannot be imported: "):
        Plugins().load_folder(root / "plugins")


def test_a_folder_that_is_not_there_stops_the_start(make_app):
    root = make_app()
    (root / "plugins" / "__init__.py").unlink()

    with pytest.raises(StartupError, match=r"__init__\.py: not found"):
        Plugins().load_folder(root / "plugins")


def test_an_installed_package_called_plugins_does_not_take_the_folders_place(make_app, tmp_path, monkeypatch):
    root = make_app(fine=PLUGIN)
    write(tmp_path / "site" / "plugins" / "__init__.py", "raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    plugins = Plugins()

    plugins.load_folder(root / "plugins")

    assert plugins.names() == ("fine",)


def test_another_package_called_plugins_that_is_loaded_already_stops_the_start(make_app, tmp_path, monkeypatch):
    root = make_app(fine=PLUGIN)
    other = ModuleType("plugins")
    other.__file__ = str(tmp_path / "site" / "plugins" / "__init__.py")
    monkeypatch.setitem(sys.modules, "plugins", other)

    with pytest.raises(StartupError, match=r"another package called 'plugins' is loaded from .*site"):
        Plugins().load_folder(root / "plugins")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution with two entry points, of which one cannot be imported."""
    site = tmp_path / "site"
    write(site / "sg_demo.py", PLUGIN)
    write(site / "sg_other.py", "raise RuntimeError('imported')")
    write(site / "sg_demo-1.5.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: sg-demo\nVersion: 1.5\n")
    write(site / "sg_demo-1.5.dist-info" / "entry_points.txt", "[sluicegate]\ndemo = sg_demo\nother = sg_other\n")
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("sg_demo", None)


@pytest.mark.usefixtures("installed")
def test_an_installed_plugin_is_imported_only_when_it_is_named():
    plugins = Plugins()

    plugins.load_installed([])
    assert "sg_demo" not in sys.modules

    plugins.load_installed(["demo"])
    assert plugins.implementing("pre_filter") == ("demo",)
    assert plugins.source_of("demo") == "sg-demo 1.5"
    assert "sg_other" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_an_installed_plugin_that_is_not_there_stops_the_start():
    with pytest.raises(StartupError, match="no installed plugin is called 'nope'"):
        Plugins().load_installed(["nope"])


@pytest.mark.usefixtures("installed")
def test_an_installed_plugin_that_cannot_be_imported_stops_the_start():
    with pytest.raises(StartupError, match="plugin 'other' cannot be imported: RuntimeError"):
        Plugins().load_installed(["other"])


def test_two_installed_plugins_of_one_name_stop_the_start(installed):
    write(installed / "sg_more-1.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: sg-more\nVersion: 1\n")
    write(installed / "sg_more-1.dist-info" / "entry_points.txt", "[sluicegate]\ndemo = sg_more\n")

    with pytest.raises(StartupError, match="2 installed plugins are called 'demo'"):
        Plugins().load_installed(["demo"])


@pytest.mark.usefixtures("installed")
def test_an_installed_plugin_does_not_replace_one_of_the_folder(make_app):
    plugins = Plugins()
    plugins.load_folder(make_app(demo=PLUGIN) / "plugins")

    with pytest.raises(StartupError, match="two plugins are called 'demo'"):
        plugins.load_installed(["demo"])


# --- settings --------------------------------------------------------------------------------------------------------


class Settings(PluginConfig):
    words: tuple[str, ...] = ()
    limit: int = 3


def with_settings(returned=Settings):
    def register_config():
        return returned

    async def pre_filter(request):
        return request

    return plugin_of(register_config, pre_filter)


def test_settings_are_validated_and_have_defaults():
    plugins = configured({"mine": {"limit": 5}}, plugins={"mine": with_settings()})

    assert plugins.config_of("mine") == Settings(limit=5)
    assert plugins.config_of("fake") == PluginConfig()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"limt": SECRET}, "limt: there is no such setting"),
        ({"limit": SECRET}, "limit: Input should be a valid integer"),
        ({"words": [SECRET, 7]}, r"words\.1: Input should be a valid string"),
        ({"words": SECRET}, "words: should be a list"),
    ],
)
@pytest.mark.parametrize("stages", [{}, {"pre_filter": ["mine"]}])
def test_a_wrong_setting_is_named_and_its_value_is_not(settings, named, stages):
    with pytest.raises(StartupError, match=rf"\[plugins\.mine\] {named}") as error:
        configured({"mine": settings}, plugins={"mine": with_settings()}, **stages)

    assert SECRET not in str(error.value)


def test_a_setting_of_a_plugin_that_takes_none_is_unknown():
    with pytest.raises(StartupError, match=r"\[plugins\.mine\] limit: there is no such setting"):
        configured({"mine": {"limit": 1}}, plugins={"mine": module(PASSES)})


def test_settings_of_a_plugin_that_is_not_there_stop_the_start():
    with pytest.raises(StartupError, match=r"\[plugins\.absent\] configures a plugin that is not there"):
        configured({"absent": {}})


def test_a_plugin_nobody_uses_may_lack_settings_it_needs():
    class Needy(PluginConfig):
        endpoint: str

    plugins = configured(plugins={"needy": with_settings(Needy)})

    assert plugins.configured("pre_filter") == ()
    with pytest.raises(StartupError, match=r"\[plugins\.needy\] endpoint: is missing"):
        configured(plugins={"needy": with_settings(Needy)}, pre_filter=["needy"])


@pytest.mark.parametrize("returned", [None, dict, Settings()])
def test_settings_that_are_no_class_of_settings_stop_the_start(returned):
    with pytest.raises(
        StartupError, match="plugin 'mine', hook register_config: must return a subclass of PluginConfig"
    ):
        configured(plugins={"mine": with_settings(returned)})


# --- the pipeline ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["authenticate", "pre_filter", "models", "post_filter", "retain"])
def test_a_stage_that_names_an_absent_plugin_stops_the_start(stage):
    with pytest.raises(StartupError, match=f"pipeline.{stage} names 'absent', which is not there"):
        configured(**{stage: ["absent"]})


@pytest.mark.parametrize(
    ("stage", "hook"),
    [
        ("authenticate", "authenticate"),
        ("models", "register_models"),
        ("post_filter", "post_filter"),
        ("retain", "retain"),
    ],
)
def test_a_stage_that_names_a_plugin_without_its_hook_stops_the_start(stage, hook):
    with pytest.raises(StartupError, match=f"pipeline.{stage} names 'mine', which does not implement {hook}"):
        configured(plugins={"mine": module(PASSES)}, **{stage: ["mine"]})


# --- models ----------------------------------------------------------------------------------------------------------


def serving(*models, hooks=("inference", "embed")):
    def register_models():
        return models

    async def inference(request):
        yield

    async def embed(request): ...

    functions = {"inference": inference, "embed": embed}
    return plugin_of(register_models, *(functions[hook] for hook in hooks))


CHAT = frozenset({"chat.completions"})


def test_models_are_registered_with_the_plugin_that_serves_them():
    model = Model("parrot", CHAT)

    plugins = configured(plugins={"mine": serving(model)}, models=["mine"])

    assert plugins.models() == {"parrot": (model, "mine")}


@pytest.mark.parametrize(
    ("models", "hooks", "message"),
    [
        ([Model("a", CHAT, frozenset({"sed"}))], ["inference"], "model 'a': unknown features sed"),
        ([Model("a", frozenset({"chat"}))], ["inference"], "model 'a': its operations must be some of"),
        ([Model("a", frozenset())], ["inference"], "model 'a': its operations must be some of"),
        ([Model("a", CHAT)], ["embed"], "model 'a': the plugin must implement inference"),
        ([Model("a", frozenset({"completions"}))], ["embed"], "model 'a': the plugin must implement inference"),
        ([Model("a", frozenset({"embeddings"}))], ["inference"], "model 'a': the plugin must implement embed"),
        (
            [Model("a", CHAT, frozenset({"token_input"}))],
            ["inference"],
            "model 'a': the plugin must implement detokenize",
        ),
        ([Model("a", CHAT), Model("a", CHAT)], ["inference"], "model 'a': 'mine' already registers it"),
        (["a"], ["inference"], "hook register_models: must return objects of Model"),
    ],
)
def test_a_model_that_could_not_be_served_stops_the_start(models, hooks, message):
    with pytest.raises(StartupError, match=f"plugin 'mine', {message}"):
        configured(plugins={"mine": serving(*models, hooks=hooks)}, models=["mine"])


def test_a_plugin_that_returns_nothing_for_its_models_stops_the_start():
    def register_models(): ...

    with pytest.raises(StartupError, match="hook register_models: must return objects of Model"):
        configured(plugins={"mine": plugin_of(register_models)}, models=["mine"])


def test_two_plugins_that_register_one_model_stop_the_start():
    with pytest.raises(StartupError, match="plugin 'mine', model 'fake': 'fake' already registers it"):
        configured(plugins={"mine": serving(Model("fake", CHAT))}, models=["fake", "mine"])


def test_every_feature_there_is_may_be_claimed():
    plugins = configured(plugins={"all": FakeModel(id="all", features=FEATURES)}, models=["all"])

    assert plugins.models()["all"][0].features == FEATURES.keys()


def test_a_plugin_that_no_stage_names_registers_no_models():
    plugins = configured(plugins={"mine": serving(Model("parrot", CHAT))})

    assert plugins.models().keys() == {"fake"}


# --- storage and keys ------------------------------------------------------------------------------------------------


def opening(kind, opened):
    def open_storage(url):
        return opened if url == f"{kind}:" else None

    def open_keys(url):
        return opened if url == f"{kind}:" else None

    return plugin_of(open_storage, open_keys)


def test_the_plugin_that_knows_a_url_opens_it():
    storage, keys = MemoryStorage(), MemoryKeys()
    plugins = configured(plugins={"one": opening("one", storage), "two": opening("two", keys)})

    assert plugins.open_storage("one:") is storage
    assert plugins.open_keys("two:") is keys


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (f"https://user:{SECRET}@host", "https"),
        (f"folder:{SECRET}", "folder"),
        (f"AccountKey={SECRET}", "AccountKey"),
    ],
)
def test_a_url_nobody_knows_stops_the_start_and_is_not_quoted(url, kind):
    plugins = configured(plugins={"one": opening("one", MemoryStorage())})

    for open_it, what in ((plugins.open_storage, "storage"), (plugins.open_keys, "key")):
        with pytest.raises(StartupError, match=f"no plugin opens {what} URLs of the kind '{kind}'") as error:
            open_it(url)
        assert SECRET not in str(error.value)


# --- calling one plugin ----------------------------------------------------------------------------------------------


def marking(mark):
    async def pre_filter(request):
        return request.map_text(lambda text: text + mark)

    return plugin_of(pre_filter)


async def test_a_call_reaches_one_plugin_with_its_own_settings():
    seen = []

    async def pre_filter(request, config):
        seen.append(config)
        return request

    def register_config():
        return Settings

    plugins = configured(
        {"mine": {"limit": 7}}, plugins={"mine": plugin_of(pre_filter, register_config), "other": marking("!")}
    )

    arguments = {"request": chat_request("hello"), "principal": PRINCIPAL, "policy": DEFAULT_V2}
    returned = await plugins.call("mine", "pre_filter", object, **arguments)

    assert seen == [Settings(limit=7)]
    assert returned.messages[0].content == "hello"


async def test_a_plugin_added_late_is_not_called_in_anothers_name():
    plugins = configured(plugins={"mine": marking("1")})
    arguments = {"request": chat_request("hello"), "principal": PRINCIPAL, "policy": DEFAULT_V2}
    await plugins.call("mine", "pre_filter", object, **arguments)

    plugins.add(marking("2"), "late")

    returned = await plugins.call("mine", "pre_filter", object, **arguments)
    assert returned.messages[0].content == "hello1"


def test_a_plugin_that_is_not_there_cannot_be_called():
    with pytest.raises(StartupError, match="no plugin is called 'absent'"):
        configured()["absent"]


@pytest.mark.parametrize("error", [InvalidRequest("no"), Refused({"x": {}}), StartupError("no")])
async def test_what_a_plugin_raises_on_purpose_is_passed_on(error):
    async def startup():
        raise error

    plugins = configured(plugins={"mine": plugin_of(startup)})

    with pytest.raises(type(error)) as raised:
        await plugins.call("mine", "startup", object)

    assert raised.value is error


async def test_anything_else_is_the_plugins_failure_and_is_not_quoted(caplog):
    async def startup():
        raise KeyError(SECRET)

    plugins = configured(plugins={"mine": plugin_of(startup)})

    with pytest.raises(PluginFailed, match="plugin 'mine' failed in startup") as raised:
        await plugins.call("mine", "startup", object)

    assert raised.value.__suppress_context__
    assert "plugin mine failed in startup: KeyError" in caplog.text
    assert SECRET not in caplog.text


async def test_a_call_that_is_cancelled_is_not_the_plugins_failure():
    async def startup():
        await asyncio.Event().wait()

    plugins = configured(plugins={"mine": plugin_of(startup)})
    call = asyncio.create_task(plugins.call("mine", "startup", object))
    await asyncio.sleep(0)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call


def test_a_failure_is_logged_without_its_message_or_causes(caplog):
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as cause:
            raise KeyError(SECRET) from cause
    except KeyError as error:
        log_failure("mine", "retain", error)

    assert "plugin mine failed in retain: KeyError" in caplog.text
    assert "test_plugins.py" in caplog.text
    assert SECRET not in caplog.text


# --- what authors test with ------------------------------------------------------------------------------------------


def test_a_plugin_that_does_not_say_what_it_does_is_found():
    silent = module(PASSES)
    silent.__doc__ = None

    with pytest.raises(AssertionError, match="plugin 'made': has no docstring"):
        check_plugin(silent)


def test_a_setting_that_does_not_say_what_it_does_is_found():
    with pytest.raises(AssertionError, match="plugin 'plugin', setting words: has no docstring"):
        check_plugin(with_settings())


def test_a_plugin_that_would_not_load_is_found():
    with pytest.raises(StartupError, match="must be async def"):
        check_plugin(module("@hookimpl\ndef pre_filter(request): return request"))


async def test_a_plugin_under_test_is_started_and_shut_down():
    events = []

    async def startup():
        events.append("startup")

    async def pre_filter(request):
        events.append("pre_filter")
        return request

    async def shutdown():
        events.append("shutdown")

    mine = plugin_of(startup, pre_filter, shutdown)

    await pre_filtered(mine, "hello")
    await answered("hello", pre_filter=[mine])

    assert events == ["startup", "pre_filter", "shutdown"] * 2


async def test_one_plugin_in_two_stages_is_loaded_once():
    seen = []

    async def pre_filter(request, config):
        seen.append(config)
        return request

    async def post_filter(chunks, config):
        seen.append(config)
        async for chunk in chunks:
            yield chunk

    def register_config():
        return Settings

    mine = plugin_of(pre_filter, post_filter, register_config)

    await answered("hello", pre_filter=[Use(mine, {"limit": 9})], post_filter=[mine])

    assert [config.limit for config in seen] == [9, 9]
    assert seen[0] is seen[1]
