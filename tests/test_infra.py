"""The Bicep files: they parse, grant only what infra/README.md gives a reason for, and let nothing outlive a delete."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pycep
import pytest

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
FILES = sorted(INFRA.rglob("*.bicep"))
ROLE_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@functools.cache
def parse(path: Path) -> dict[str, Any]:
    return pycep.BicepParser().parse(text=path.read_text(encoding="utf-8"))


def resources(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (file name, configuration) of every resource of that type."""
    return [
        (path.name, resource["config"])
        for path in FILES
        for resource in parse(path).get("resources", {}).values()
        if resource["type"] == kind
    ]


def app_settings() -> dict[str, Any]:
    [(_, site)] = resources("Microsoft.Web/sites")
    return {setting["name"]: setting["value"] for setting in site["properties"]["siteConfig"]["appSettings"]}


def local_sample() -> dict[str, str]:
    return json.loads((ROOT / "local.settings.sample.json").read_text(encoding="utf-8"))["Values"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_module_parses_and_uses_raw_resources_only(path):
    text = path.read_text(encoding="utf-8")

    assert parse(path)["globals"]["scope"]["value"] in {"resourceGroup", "subscription"}
    assert "br:" not in text
    assert "br/public" not in text
    assert [name for name in parse(path)["parameters"] if len(re.findall(rf"\b{name}\b", text)) < 2] == []
    assert not re.search(r"^\s*\.\.\.", text, re.MULTILINE)


def test_every_module_gets_exactly_its_parameters_and_gives_the_outputs_that_are_used():
    main = parse(INFRA / "main.bicep")
    text = (INFRA / "main.bicep").read_text(encoding="utf-8")

    for name, module in main["modules"].items():
        target = parse(INFRA / module["detail"]["path"])
        config = module["config"]
        # That of a module under a condition is one level deeper.
        assert set(config.get("config", config)["params"]) == set(target["parameters"]), name
        assert set(re.findall(rf"\b{name}\.outputs\.(\w+)", text)) <= set(target.get("outputs", {})), name


def test_the_parameters_file_names_every_parameter_without_a_default():
    parameters = parse(INFRA / "main.bicep")["parameters"]
    given = json.loads((INFRA / "main.parameters.json").read_text(encoding="utf-8"))["parameters"]

    assert set(given) == {name for name, parameter in parameters.items() if parameter.get("default") is None}


def test_storage_takes_no_shared_key_and_no_anonymous_reader():
    accounts = resources("Microsoft.Storage/storageAccounts")

    assert len(accounts) == 2
    for name, account in accounts:
        assert account["properties"]["allowSharedKeyAccess"] is False, name
        assert account["properties"]["allowBlobPublicAccess"] is False, name
        assert account["properties"]["supportsHttpsTrafficOnly"] is True, name


def test_no_key_or_connection_string_is_asked_for():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"listKeys|listAccountSas|AccountKey=|SharedAccessKey|@secure", text), path.name
    assert "AzureWebJobsStorage" not in app_settings()


def test_nothing_in_the_data_account_outlives_a_delete():
    [blobs] = [blobs for name, blobs in resources("Microsoft.Storage/storageAccounts/blobServices") if "data" in name]

    assert blobs["properties"] == {
        "changeFeed": {"enabled": False},
        "containerDeleteRetentionPolicy": {"enabled": False},
        "deleteRetentionPolicy": {"enabled": False},
        "isVersioningEnabled": False,
        "restorePolicy": {"enabled": False},
    }


def test_data_is_never_copied_to_a_second_region():
    text = (INFRA / "main.bicep").read_text(encoding="utf-8")

    assert "@allowed(['Standard_LRS', 'Standard_ZRS'])" in text
    assert not re.search(r"Standard_(RA)?GZ?RS", text)


def test_a_purged_key_is_gone_at_once():
    [(_, vault)] = resources("Microsoft.KeyVault/vaults")

    assert "enablePurgeProtection" not in vault["properties"]
    assert vault["properties"]["softDeleteRetentionInDays"] == 7
    assert vault["properties"]["enableRbacAuthorization"] is True


def test_the_app_can_destroy_keys_but_not_keep_copies_of_them():
    [(_, role)] = resources("Microsoft.Authorization/roleDefinitions")
    [permissions] = role["properties"]["permissions"]

    assert permissions["actions"] == []
    assert set(permissions["dataActions"]) == {
        f"Microsoft.KeyVault/vaults/keys/{verb}"
        for verb in ("read", "create/action", "wrap/action", "unwrap/action", "sign/action", "delete", "purge/action")
    }


def test_every_role_assignment_has_a_row_with_its_reason_and_every_row_an_assignment():
    readme = (INFRA / "README.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in readme.splitlines() if line.count("|") == 5
    ]
    documented = {match[0] for row in rows if (match := ROLE_ID.search(row[1]))}
    custom = [row for row in rows if "custom" in row[0]]
    granted = {role for path in FILES for role in ROLE_ID.findall(path.read_text(encoding="utf-8"))}

    assert documented == granted
    assert len(resources("Microsoft.Authorization/roleAssignments")) == len(documented) + len(custom)
    assert all(len(row[3]) > 40 for row in rows if ROLE_ID.search(row[1]) or row in custom)


def test_the_app_gets_every_setting_of_the_local_sample():
    sample = local_sample()
    # Flex Consumption takes the runtime from functionAppConfig, and the host's storage by identity.
    needed = set(sample) - {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage"}

    assert needed <= set(app_settings())
    assert {f"AzureWebJobsStorage__{part}" for part in ("credential", "clientId", "blobServiceUri")} <= set(
        app_settings()
    )


def test_settings_that_flex_consumption_refuses_are_left_out():
    refused = {
        "ENABLE_ORYX_BUILD",
        "FUNCTIONS_EXTENSION_VERSION",
        "FUNCTIONS_WORKER_PROCESS_COUNT",
        "FUNCTIONS_WORKER_RUNTIME",
        "SCM_DO_BUILD_DURING_DEPLOYMENT",
        "WEBSITE_RUN_FROM_PACKAGE",
    }

    assert not refused & set(app_settings())


@pytest.mark.parametrize(("setting", "timer"), [("PURGE", "purge"), ("ABUSE", "abuse"), ("FINE_TUNE", "fineTune")])
def test_timers_run_as_often_as_in_the_local_sample(setting, timer):
    schedule = local_sample()[f"{setting}_SCHEDULE"]

    assert f"param {timer}Schedule string = '{schedule}'" in (INFRA / "main.bicep").read_text(encoding="utf-8")


def test_the_app_runs_on_the_python_whose_worker_is_tested_and_says_how_many_requests_at_a_time():
    [(_, site)] = resources("Microsoft.Web/sites")
    config = site["properties"]["functionAppConfig"]

    assert config["runtime"] == {"name": "python", "version": "3.13"}
    assert "perInstanceConcurrency" in config["scaleAndConcurrency"]["triggers"]["http"]
