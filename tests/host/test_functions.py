import sys

import azure.functions as func
import pytest

from sluicegate.errors import StartupError
from sluicegate.host.functions import HttpFunction, TimerFunction, index, load_app


async def handler(req):
    pass


async def timer_handler(timer):
    pass


def test_functions_come_in_the_hosts_order(app, http):
    for name in ("chatter", "chat_list", "Beta", "alpha"):
        http(handler, "x", name=name)

    names = [function.name for function in index(app, {}, route_prefix="")]

    assert names == ["alpha", "Beta", "chatter", "chat_list"]


def test_triggers_are_read_with_their_settings_substituted(app, http, timer):
    http(handler, "%VERSION%/files/{id}", name="files", methods=["GET"])
    timer(timer_handler, "%SCHEDULE%", name="purge", run_on_startup=True)

    files, purge = index(app, {"VERSION": "v1", "SCHEDULE": "0 0 3 * * *"}, route_prefix="openai")

    assert isinstance(files, HttpFunction)
    assert files.route.match("GET", "/openai/v1/files/7") == {"id": "7"}
    assert files.route.match("POST", "/openai/v1/files/7") is None
    assert isinstance(purge, TimerFunction)
    assert (purge.schedule, purge.run_on_startup) == ("0 0 3 * * *", True)


def test_a_function_without_a_route_is_routed_by_its_name(app, http):
    app.function_name("health")(app.route()(handler))

    (health,) = index(app, {}, route_prefix="api")

    assert health.route.match("GET", "/api/health") == {}


def test_a_missing_setting_stops_the_app(app, timer):
    timer(timer_handler, "%SCHEDULE%", name="purge")

    with pytest.raises(StartupError, match="function purge: the setting SCHEDULE is missing"):
        index(app, {}, route_prefix="")


@pytest.mark.parametrize("level", [func.AuthLevel.FUNCTION, func.AuthLevel.ADMIN, None])
def test_a_function_that_wants_keys_is_not_served_without_them(level):
    app = func.FunctionApp()
    options = {} if level is None else {"auth_level": level}
    app.function_name("secret")(app.route("secret", **options)(handler))

    with pytest.raises(StartupError, match="function secret: its auth level"):
        index(app, {}, route_prefix="")


@pytest.mark.parametrize("route", ["admin", "admin/x", "Administration", "runtime/y"])
def test_the_hosts_own_routes_are_refused(app, http, route):
    http(handler, route, name="f")

    with pytest.raises(StartupError, match="belongs to the host"):
        index(app, {}, route_prefix="")


@pytest.mark.parametrize("name", ["1st", "a.b", "host", "a" * 129])
def test_a_name_that_azure_refuses_is_refused(app, http, name):
    http(handler, "x", name=name)

    with pytest.raises(StartupError, match="function "):
        index(app, {}, route_prefix="")


def test_the_same_name_twice_is_refused(app, http):
    http(handler, "x", name="files")
    http(handler, "y", name="files")

    with pytest.raises(StartupError, match="files does not have a unique function name"):
        index(app, {}, route_prefix="")


def test_an_app_can_be_indexed_again(app, http):
    http(handler, "x", name="files")

    assert index(app, {}, route_prefix="") == index(app, {}, route_prefix="")


def test_names_that_differ_only_in_case_are_refused(app, http):
    http(handler, "x", name="files")
    http(handler, "y", name="Files")

    with pytest.raises(StartupError, match=r"two functions are named (?i:files)"):
        index(app, {}, route_prefix="")


def test_another_kind_of_trigger_is_named_and_left_out(app, http, caplog):
    http(handler, "x", name="files")
    decorate = app.queue_trigger(arg_name="message", queue_name="q", connection="c")
    app.function_name("listener")(decorate(lambda message: None))

    functions = index(app, {}, route_prefix="")

    assert [function.name for function in functions] == ["files"]
    assert "function listener: a queueTrigger is not served here" in caplog.text


def test_an_app_is_imported_from_its_folder_which_comes_last_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "an_app_in_a_folder.py").write_text("import azure.functions as func\napp = func.FunctionApp()\n")

    app = load_app(tmp_path, {"PYTHON_SCRIPT_FILE_NAME": "an_app_in_a_folder.py"})

    assert isinstance(app, func.FunctionApp)
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("app_none", "", "found 0"),
        ("app_two", "import azure.functions as f\na = f.FunctionApp()\nb = f.FunctionApp()", "found 2"),
        ("app_breaks", "import no_such_module", "app_breaks.py cannot be imported: ModuleNotFoundError"),
        ("app_refuses", "from sluicegate.errors import StartupError\nraise StartupError('no key')", "^no key$"),
    ],
)
def test_a_module_that_holds_no_app_stops_with_the_reason(tmp_path, monkeypatch, name, source, complaint):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / f"{name}.py").write_text(source)

    with pytest.raises(StartupError, match=complaint):
        load_app(tmp_path, {"PYTHON_SCRIPT_FILE_NAME": f"{name}.py"})


def test_a_module_of_the_same_name_that_comes_first_is_named(tmp_path, monkeypatch):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "app_shadowed.py").write_text("")
    (tmp_path / "app_shadowed.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), *sys.path])

    with pytest.raises(StartupError, match=r"first/app_shadowed\.py comes before "):
        load_app(tmp_path, {"PYTHON_SCRIPT_FILE_NAME": "app_shadowed.py"})


def test_a_folder_without_an_app_is_named(tmp_path):
    with pytest.raises(StartupError, match=r"function_app\.py is missing"):
        load_app(tmp_path, {})
