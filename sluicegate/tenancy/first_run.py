"""What the first start on a laptop makes: embedded settings, an account, its keys, and the file that holds them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from sluicegate.app import Sluicegate
from sluicegate.errors import BlobExists, StartupError
from sluicegate.storage.day_layout import CEILING_DAYS
from sluicegate.tenancy.deployments import Deployment
from sluicegate.tenancy.tenants import Scope
from sluicegate.types import Role

ACCOUNT = "default"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP = "default"
CREDENTIALS = "credentials.json"
MAX_REQUEST_BYTES = 513 << 20
"""A file of 512 MiB and the form around it."""
EMBEDDED_KEYS = "folder:"


def use_embedded_settings(environment: MutableMapping[str, str], data: Path) -> None:
    """Fill in the app settings that are not set: everything in one local folder."""
    defaults = {
        "SLUICEGATE_STORAGE": f"folder:{data.resolve() / 'storage'}",
        "SLUICEGATE_KEYS": f"folder:{data.resolve() / 'keys'}",
        "SLUICEGATE_REGION": "local",
        "PURGE_SCHEDULE": "0 5 * * * *",
        "FINE_TUNE_SCHEDULE": "*/15 * * * * *",
        "ABUSE_SCHEDULE": "0 */5 * * * *",
        "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(MAX_REQUEST_BYTES),
    }
    for name, value in defaults.items():
        environment.setdefault(name, value)


async def write_credentials(gate: Sluicegate, data: Path, endpoint: str) -> Path:
    """Make the account and its keys unless they exist, and write ``credentials.json``, readable by its owner only.

    Returns:
        The file; on later starts only its ``endpoint`` changes, and its ``api_key`` where that was regenerated.

    Raises:
        StartupError: The file and the stored account do not belong together.
    """
    path = data / CREDENTIALS
    account = await gate.accounts.get(ACCOUNT)
    if path.exists():
        document = _read(path)
        if account is None and await gate.accounts.by_key(str(document.get("operator_key"))) is None:
            raise StartupError(
                f"{path} names an account that storage does not know; move the file away to make a new one"
            )
    elif account is not None:
        raise StartupError(f"{path} is missing, and keys cannot be read back; restore it or choose another DATA folder")
    else:
        document = await _issue_keys(gate)
        _write_private(path, document)
    if account is None:
        # Last, because what comes before can be done again or gone on with by a start after one that was cut short.
        await _create_account(gate)
    api_key = (await gate.accounts.api_keys(ACCOUNT))["key1"]
    _write_private(path, {**document, "endpoint": endpoint, "api_key": api_key})
    return path


async def _create_account(gate: Sluicegate) -> None:
    for name, model in _deployments(gate).items():
        with suppress(BlobExists):
            await gate.deployments.create(ACCOUNT, Deployment(name, model))
    resource = {
        "name": ACCOUNT,
        "subscription": SUBSCRIPTION,
        "group": GROUP,
        "kind": "OpenAI",
        "sku": {"name": "S0"},
        "tags": {},
        "properties": {},
    }
    await gate.tenants.create(Scope(SUBSCRIPTION, GROUP), gate.deployment.region, resource, CEILING_DAYS, instead=None)


def _read(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        # A JSON error quotes nothing, but its position is of no use here.
        raise StartupError(
            f"{path} cannot be read ({type(error).__name__}); restore it or choose another DATA folder"
        ) from None
    if not isinstance(document, dict):
        raise StartupError(f"{path} is not what the first start wrote; restore it or choose another DATA folder")
    return document


async def _issue_keys(gate: Sluicegate) -> dict[str, object]:
    deployments = _deployments(gate)
    issue = gate.accounts.issue_key
    return {
        "endpoint": "",
        "account": ACCOUNT,
        "api_key": "",
        "chat_deployment": "chat" if "chat" in deployments else None,
        "embedding_deployment": "embedding" if "embedding" in deployments else None,
        "operator_key": await issue(ACCOUNT, Role.OPERATOR, "operator"),
        "reviewer_keys": [await issue(ACCOUNT, Role.REVIEWER, f"reviewer{number}") for number in (1, 2)],
        "officer_key": await issue(ACCOUNT, Role.OFFICER, "officer"),
    }


def _deployments(gate: Sluicegate) -> dict[str, str]:
    """Return deployment -> model."""
    operations = {"chat": "chat.completions", "embedding": "embeddings"}
    return {name: model for name, operation in operations.items() if (model := _first_model(gate, operation))}


def _first_model(gate: Sluicegate, operation: str) -> str | None:
    return next((model.id for model, _ in gate.plugins.models().values() if operation in model.operations), None)


def _write_private(path: Path, document: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(json.dumps(document, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
