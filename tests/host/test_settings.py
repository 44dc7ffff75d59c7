import json
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from sluicegate.errors import StartupError
from sluicegate.host.settings import (
    HostSettings,
    apply_local_settings,
    is_disabled,
    read_host_settings,
    substitute,
)


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def test_host_json_gives_the_route_prefix(tmp_path):
    write(tmp_path, "host.json", {"version": "2.0", "extensions": {"http": {"routePrefix": ""}}})

    settings = read_host_settings(tmp_path, {})

    assert settings == HostSettings(route_prefix="", max_body_bytes=104857600, time_zone=UTC)


def test_the_prefix_is_api_unless_host_json_says_otherwise(tmp_path):
    write(tmp_path, "host.json", {"version": "2.0", "functionTimeout": "00:05:00"})

    assert read_host_settings(tmp_path, {}).route_prefix == "api"


def test_the_body_limit_and_the_time_zone_are_app_settings(tmp_path):
    write(tmp_path, "host.json", {"version": "2.0"})
    environ = {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "1000", "WEBSITE_TIME_ZONE": "Europe/Berlin"}

    settings = read_host_settings(tmp_path, environ)

    assert (settings.max_body_bytes, settings.time_zone) == (1000, ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "100 MB"}, "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"),
        ({"WEBSITE_TIME_ZONE": "Europe/Atlantis"}, "WEBSITE_TIME_ZONE"),
        ({"WEBSITE_TIME_ZONE": "../etc"}, "WEBSITE_TIME_ZONE"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path, environ, named):
    write(tmp_path, "host.json", {"version": "2.0"})

    with pytest.raises(StartupError, match=named):
        read_host_settings(tmp_path, environ)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}'])
def test_a_host_json_that_cannot_be_used_is_named(tmp_path, text):
    (tmp_path / "host.json").write_text(text)

    with pytest.raises(StartupError, match=r"host\.json"):
        read_host_settings(tmp_path, {})


def test_a_missing_host_json_is_named(tmp_path):
    with pytest.raises(StartupError, match=r"host\.json is missing"):
        read_host_settings(tmp_path, {})


def test_local_settings_do_not_override_the_environment(tmp_path):
    write(tmp_path, "local.settings.json", {"IsEncrypted": False, "Values": {"A": "file", "B": "file"}})
    environ = {"A": "environment"}

    apply_local_settings(tmp_path, environ)

    assert environ == {"A": "environment", "B": "file"}


def test_local_settings_are_optional(tmp_path):
    environ = {}

    apply_local_settings(tmp_path, environ)

    assert environ == {}


@pytest.mark.parametrize(
    ("content", "named"), [({"IsEncrypted": True}, "encrypted"), ({"Values": {"PORT": 7}}, "value of PORT")]
)
def test_local_settings_that_cannot_be_used_are_refused(tmp_path, content, named):
    write(tmp_path, "local.settings.json", content)

    with pytest.raises(StartupError, match=named):
        apply_local_settings(tmp_path, {})


def test_settings_are_substituted():
    assert substitute("%A%/x/%B%", {"A": "1", "B": "2"}, used_by="function f") == "1/x/2"


def test_a_missing_setting_is_named_with_the_function_that_uses_it():
    with pytest.raises(StartupError, match="function f: the setting SCHEDULE is missing"):
        substitute("%SCHEDULE%", {}, used_by="function f")


@pytest.mark.parametrize(
    ("environ", "disabled"),
    [
        ({}, False),
        ({"AzureWebJobs.purge.Disabled": "true"}, True),
        ({"AzureWebJobs.purge.Disabled": "1"}, True),
        ({"AzureWebJobs_purge_Disabled": "True"}, True),
        ({"AzureWebJobs.purge.Disabled": "false"}, False),
        ({"AzureWebJobs.other.Disabled": "true"}, False),
    ],
)
def test_a_setting_disables_a_function(environ, disabled):
    assert is_disabled("purge", environ) is disabled
