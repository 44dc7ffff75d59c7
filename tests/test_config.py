"""The deployment file: what it says, what app settings add, and what stops the start."""

from __future__ import annotations

import tomllib

import pytest

from sluicegate import config
from sluicegate.config import Pipeline, Step
from sluicegate.errors import StartupError
from tests.conftest import ROOT, write

SECRET = "s3cr3t-value"
MINIMAL = """
storage = "folder:data"
keys = "folder:keys"
region = "local"
[pipeline]
authenticate = ["api_keys"]
models = ["fake"]
"""


@pytest.fixture
def load(tmp_path):
    """Return a function that loads a deployment file of this text."""

    def load(text, **environment):
        write(tmp_path / "config" / "deployment.toml", text)
        return config.load(tmp_path, environment)

    return load


def test_a_deployment_is_read(load):
    deployment = load(
        MINIMAL
        + """
        pre_filter = ["one", { plugin = "two", required = false }]
        retain = [{ plugin = "keep", required = false }]
        [plugins.one]
        limit = 3
        """
    )

    assert (deployment.storage, deployment.keys, deployment.region) == ("folder:data", "folder:keys", "local")
    assert deployment.installed == ()
    assert deployment.pipeline.pre_filter == (Step(plugin="one"), Step(plugin="two", required=False))
    assert deployment.pipeline.retain == (Step(plugin="keep", required=False),)
    assert deployment.pipeline.post_filter == ()
    assert deployment.plugins == {"one": {"limit": 3}}


def test_the_plugins_in_use_are_named_once_in_order_of_first_use():
    pipeline = Pipeline.model_validate(
        {
            "authenticate": ["keys"],
            "pre_filter": ["b", "a"],
            "models": ["m"],
            "post_filter": ["a", "c"],
            "retain": ["k"],
        }
    )

    assert pipeline.plugins() == ("keys", "b", "a", "m", "c", "k")


def test_the_projects_own_deployment_file_is_valid():
    names = config._SETTING.findall((ROOT / "config" / "deployment.toml").read_text(encoding="utf-8"))

    deployment = config.load(ROOT, dict.fromkeys(names, "value"))

    assert deployment.pipeline.models


def test_another_file_can_be_named(tmp_path):
    write(tmp_path / "other.toml", MINIMAL)

    by_name = config.load(tmp_path, {"SLUICEGATE_CONFIG": "other.toml"})
    by_path = config.load(tmp_path / "elsewhere", {"SLUICEGATE_CONFIG": str(tmp_path / "other.toml")})

    assert by_name == by_path


def test_app_settings_take_the_place_of_their_names(load):
    text = MINIMAL.replace("folder:data", "%SCHEME%:%FOLDER%") + '[plugins.one]\nlist = [{ key = "%FOLDER%" }]\n'

    deployment = load(text, SCHEME="folder", FOLDER="%SCHEME%/x")

    assert deployment.storage == "folder:%SCHEME%/x"
    assert deployment.plugins["one"] == {"list": [{"key": "%SCHEME%/x"}]}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (MINIMAL.replace("folder:data", "%MISSING%"), "deployment.toml: storage"),
        (MINIMAL + '[plugins.one]\nkey = "a%MISSING%b"\n', "deployment.toml: plugins: one: key"),
        (MINIMAL + '[plugins.one]\nkeys = ["%MISSING%"]\n', "deployment.toml: plugins: one: keys"),
    ],
)
def test_an_app_setting_that_is_not_set_stops_the_start(load, text, where):
    with pytest.raises(StartupError, match=f"{where} refers to the app setting MISSING, which is not set"):
        load(text, OTHER=SECRET)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storage = ", "not TOML"),
        ("[a\n", "not TOML"),
        ("storage = 'a'\nstorage = 'b'", "not TOML"),
        ("", "storage: is missing.*pipeline: is missing"),
        (MINIMAL.replace('region = "local"', ""), "region: is missing"),
        (MINIMAL.replace('"local"', "7"), "region: Input should be a valid string"),
        (f"sotrage = '{SECRET}'\n" + MINIMAL, "sotrage: there is no such setting"),
        (MINIMAL + "filters = ['x']", "pipeline.filters: there is no such setting"),
        (MINIMAL + "pre_filter = 'blocklists'", "pipeline.pre_filter: should be a list"),
        (MINIMAL + "pre_filter = 7", "pipeline.pre_filter: should be a list"),
        (MINIMAL + "pre_filter = [7]", r"pipeline.pre_filter\.0: should be a table"),
        (
            MINIMAL + "pre_filter = [{ plugin = 'x', requierd = false }]",
            "pre_filter.0.requierd: there is no such setting",
        ),
        (MINIMAL + "pre_filter = [{ required = false }]", "pre_filter.0.plugin: is missing"),
        (MINIMAL.replace('["fake"]', "[]"), "pipeline.models: should name at least one"),
        (MINIMAL.replace('authenticate = ["api_keys"]', ""), "pipeline.authenticate: is missing"),
    ],
)
def test_a_file_that_says_something_else_stops_the_start(load, text, message):
    with pytest.raises(StartupError, match=f"(?s)deployment.toml: .*{message}") as error:
        load(text)

    assert SECRET not in str(error.value)


@pytest.mark.parametrize("stage", ["authenticate", "models", "post_filter"])
def test_only_pre_filters_and_retaining_may_be_relaxed(load, stage):
    document = tomllib.loads(MINIMAL)
    document["pipeline"].pop(stage, None)
    lines = [f'{name} = ["{plugins[0]}"]' for name, plugins in document["pipeline"].items()]
    lines.append(f'{stage} = [{{ plugin = "x", required = false }}]')
    text = MINIMAL.partition("[pipeline]")[0] + "[pipeline]\n" + "\n".join(lines)

    with pytest.raises(StartupError, match=f"pipeline.{stage}: .*possible for pre_filter and retain only"):
        load(text)


def test_a_file_that_is_not_there_stops_the_start(tmp_path):
    with pytest.raises(StartupError, match=r"deployment\.toml: cannot be read: No such file"):
        config.load(tmp_path, {})


def test_a_file_that_is_not_text_stops_the_start(tmp_path):
    write(tmp_path / "config" / "deployment.toml", "")
    (tmp_path / "config" / "deployment.toml").write_bytes(b"storage = '\xff'")

    with pytest.raises(StartupError, match="not TOML"):
        config.load(tmp_path, {})
