"""The commands ``account``, ``deployment``, ``key``, ``policy`` and ``role``: the everyday operations of the control plane.

They do on this machine what the HTTP operations do, by the same code: the same checks, the same entries in the audit log.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sluicegate.cli.tables import table
from sluicegate.errors import StartupError
from sluicegate.types import Principal, Role

if TYPE_CHECKING:
    from sluicegate.app import Sluicegate

COMMANDS = ("account", "deployment", "key", "policy", "role")
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP = "default"
OPERATOR = Principal("", Role.OPERATOR, "command-line")
_PROVIDER = "providers/Microsoft.CognitiveServices"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands, each with its actions."""
    account = _command(commands, "account", "create, list, show, delete, restore and purge accounts")
    _action(account, "list", "list the accounts", deleted="those that are deleted and can be restored")
    for name, words in (
        ("show", "show an account"),
        ("delete", "delete an account; it can be restored for 48 hours"),
        ("restore", "bring back a deleted account"),
        ("purge", "leave nothing of a deleted account; nobody gets its name for a month"),
    ):
        _action(account, name, words, "account")
    for name, words in (("create", "create an account"), ("update", "change an account's settings")):
        action = _action(account, name, words, "account")
        action.add_argument("--location", help="where its data lives; this deployment's region unless given")
        action.add_argument("--retention-days", type=int, metavar="N", help="how long content is kept, 1 to 30")
        action.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", help="may be given again")
        action.add_argument(
            "--local-auth", choices=("on", "off"), help="whether API keys get in, or tokens of Entra ID only"
        )

    deployment = _command(commands, "deployment", "create, list and delete an account's deployments")
    _action(deployment, "list", "list them", "account")
    _action(deployment, "delete", "delete one", "account", "deployment")
    create = _action(deployment, "create", "create or replace one", "account", "deployment")
    create.add_argument("--model", required=True, help="the model's id")
    create.add_argument("--policy", help="content-filter policy; the deployment file's default unless given")
    create.add_argument("--capacity", type=int, default=1, metavar="N", help="thousands of tokens a minute")

    key = _command(commands, "key", "show and replace an account's two API keys")
    _action(key, "list", "show both keys", "account")
    _action(key, "regenerate", "replace one, and show both", "account").add_argument("key", choices=("key1", "key2"))

    policy = _command(commands, "policy", "list, show, set and delete content-filter policies")
    _action(policy, "list", "list those that an account's deployments may use", "account")
    _action(policy, "show", "show one, as JSON", "account", "policy")
    _action(policy, "delete", "delete one", "account", "policy")
    _action(policy, "set", "create or replace one", "account", "policy").add_argument(
        "file", type=Path, help="its properties as JSON, in the form that 'policy show' prints"
    )

    role = _command(commands, "role", "say what people and applications of Entra ID may do in an account")
    _action(role, "list", "list who may do what", "account")
    for name, words in (("assign", "give somebody a role"), ("withdraw", "take it away")):
        action = _action(role, name, words, "account")
        action.add_argument("identity", help="object id of a user, a group or an application")
        action.add_argument("role", choices=[each.value for each in Role if each is not Role.OPERATOR])


async def run(gate: Sluicegate, arguments: argparse.Namespace) -> str:
    """Do what a command says, and return what to print.

    Raises:
        ApiError: What a caller of the operation over HTTP would be told.
        StartupError: A file cannot be read.
    """
    if (arguments.subscription, arguments.group) == (SUBSCRIPTION, GROUP) and hasattr(arguments, "account"):
        found = await gate.tenants.get(arguments.account)
        if found is not None and not found.is_purged:
            arguments.subscription, arguments.group = found.resource["subscription"], found.resource["group"]
    work, show = _ACTIONS[arguments.command, arguments.action]
    try:
        answer = await work(gate, arguments)
    except ValueError as error:
        raise StartupError(str(error)) from None
    return json.dumps(answer, indent=2, ensure_ascii=False) if arguments.json else show(answer)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, words: str
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    return commands.add_parser(name, help=words, description=words).add_subparsers(dest="action", required=True)


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    words: str,
    *positional: str,
    deleted: str | None = None,
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=words, description=words)
    for each in positional:
        action.add_argument(each)
    if deleted is not None:
        action.add_argument("--deleted", action="store_true", help=deleted)
    action.add_argument("--json", action="store_true", help="print what the operation answers over HTTP")
    action.add_argument("--subscription", default=SUBSCRIPTION, help="of a new account, or to list")
    action.add_argument("--group", default=GROUP, help="resource group of a new account")
    action.add_argument("--data", type=Path, default=Path(".data"), help="folder of the embedded storage and keys")
    return action


# --- accounts --------------------------------------------------------------------------------------------------------

Work: TypeAlias = "Callable[[Sluicegate, argparse.Namespace], Awaitable[Any]]"
Show: TypeAlias = Callable[[Any], str]


def _subscription(arguments: argparse.Namespace) -> str:
    return f"/subscriptions/{arguments.subscription}/{_PROVIDER}"


def _account(arguments: argparse.Namespace, *further: str) -> str:
    group = f"/subscriptions/{arguments.subscription}/resourceGroups/{arguments.group}"
    return "/".join([f"{group}/{_PROVIDER}/accounts/{arguments.account}", *further])


async def _ask(gate: Sluicegate, method: str, path: str, body: object = None) -> Any:
    from sluicegate.api.arm.routing import ask

    return await ask(gate, OPERATOR, method, path, body)


async def _all(gate: Sluicegate, path: str) -> list[dict[str, Any]]:
    from sluicegate.api.arm.routing import ask_all

    return [each async for each in ask_all(gate, OPERATOR, path)]


async def _list_accounts(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _all(gate, f"{_subscription(arguments)}/{'deletedAccounts' if arguments.deleted else 'accounts'}")


async def _show_account(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _ask(gate, "GET", _account(arguments))


async def _create_account(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    body = {"location": gate.deployment.region, "kind": "OpenAI", "sku": {"name": "S0"}, **_settings(arguments)}
    found = await gate.tenants.get(arguments.account)
    if found is not None and not found.is_purged and found.deleted is None:
        raise StartupError(f"there is an account {arguments.account!r}: change it with 'account update'")
    return await _ask(gate, "PUT", _account(arguments), body)


async def _update_account(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _ask(gate, "PATCH", _account(arguments), _settings(arguments))


async def _delete_account(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    await _ask(gate, "GET", _account(arguments))
    return await _ask(gate, "DELETE", _account(arguments))


async def _restore_account(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    await _ask(gate, "GET", await _deleted(gate, arguments))
    return await _ask(gate, "PUT", _account(arguments), {"properties": {"restore": True}})


async def _purge_account(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _ask(gate, "DELETE", await _deleted(gate, arguments))


async def _deleted(gate: Sluicegate, arguments: argparse.Namespace) -> str:
    found = await gate.tenants.get(arguments.account)
    location = found.location if found is not None and found.location else gate.deployment.region
    return (
        f"{_subscription(arguments)}/locations/{location}/resourceGroups/{arguments.group}"
        f"/deletedAccounts/{arguments.account}"
    )


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    if arguments.location is not None:
        settings["location"] = arguments.location
    if arguments.tag:
        if not all("=" in tag for tag in arguments.tag):
            raise ValueError("a tag is NAME=VALUE")
        settings["tags"] = dict(tag.split("=", 1) for tag in arguments.tag)
    if arguments.retention_days is not None:
        properties["apiProperties"] = {"retentionDays": arguments.retention_days}
    if arguments.local_auth is not None:
        properties["disableLocalAuth"] = arguments.local_auth == "off"
    return {**settings, "properties": properties} if properties else settings


def _accounts_table(answer: list[dict[str, Any]]) -> str:
    rows = [(each["name"], each["location"], _days(each), _own_key(each), _tags(each), _group(each)) for each in answer]
    return table(("name", "location", "kept, days", "own key", "tags", "resource group"), rows)


def _account_lines(answer: dict[str, Any]) -> str:
    properties = answer["properties"]
    lines = {
        "name": answer["name"],
        "id": answer["id"],
        "location": answer["location"],
        "kept, days": _days(answer),
        "encryption key of its own": _own_key(answer) or "none",
        "API keys get in": "no" if properties.get("disableLocalAuth") else "yes",
        "tags": _tags(answer) or "none",
        "created": answer["systemData"]["createdAt"],
    }
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines.items())


def _group(account: dict[str, Any]) -> str:
    parts = account["id"].split("/")
    return str(parts[parts.index("resourceGroups") + 1])


def _days(account: dict[str, Any]) -> int:
    return int(account["properties"]["apiProperties"]["retentionDays"])


def _own_key(account: dict[str, Any]) -> str:
    return str(account["properties"]["encryption"].get("keyVaultProperties", {}).get("keyName", ""))


def _tags(account: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in account["tags"].items())


# --- what belongs to an account --------------------------------------------------------------------------------------


async def _list_deployments(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _all(gate, _account(arguments, "deployments"))


async def _create_deployment(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    properties: dict[str, Any] = {"model": {"format": "OpenAI", "name": arguments.model}}
    if arguments.policy is not None:
        properties["raiPolicyName"] = arguments.policy
    body = {"sku": {"name": "Standard", "capacity": arguments.capacity}, "properties": properties}
    return await _ask(gate, "PUT", _account(arguments, "deployments", arguments.deployment), body)


async def _delete_deployment(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    path = _account(arguments, "deployments", arguments.deployment)
    await _ask(gate, "GET", path)
    return await _ask(gate, "DELETE", path)


def _deployments_table(answer: list[dict[str, Any]]) -> str:
    rows = [
        (
            each["name"],
            each["properties"]["model"]["name"],
            each["properties"]["raiPolicyName"],
            "no limit"
            if (capacity := each["properties"]["currentCapacity"]) is None
            else f"{1000 * capacity:,} tokens/min",
        )
        for each in answer
    ]
    return table(("name", "model", "policy", "capacity"), rows)


async def _list_keys(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _ask(gate, "POST", _account(arguments, "listKeys"))


async def _regenerate_key(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _ask(
        gate, "POST", _account(arguments, "regenerateKey"), {"keyName": arguments.key.replace("key", "Key")}
    )


def _keys_table(answer: dict[str, str]) -> str:
    return table(("key", "value"), list(answer.items()))


async def _list_policies(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _all(gate, _account(arguments, "raiPolicies"))


async def _show_policy(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _ask(gate, "GET", _account(arguments, "raiPolicies", arguments.policy))


async def _set_policy(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    try:
        document = json.loads(arguments.file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartupError(f"{arguments.file}: {error.strerror}") from None
    except ValueError:
        raise StartupError(f"{arguments.file}: not JSON") from None
    body = document if isinstance(document, dict) and "properties" in document else {"properties": document}
    return await _ask(gate, "PUT", _account(arguments, "raiPolicies", arguments.policy), body)


async def _delete_policy(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    path = _account(arguments, "raiPolicies", arguments.policy)
    await _ask(gate, "GET", path)
    return await _ask(gate, "DELETE", path)


def _policies_lines(answer: list[dict[str, Any]]) -> str:
    return "\n".join(line for each in answer for line in _policy_lines(each["name"], each["properties"]))


def _policy_lines(name: str, properties: dict[str, Any]) -> Iterator[str]:
    yield f"{name}: {properties.get('type', 'UserManaged')}, {properties.get('mode', 'Default')}"
    for source in ("Prompt", "Completion"):
        named = [each["name"] for each in properties.get("contentFilters", []) if each["source"] == source]
        if named:
            yield f"   {source}: {', '.join(named)}"


def _as_json(answer: Any) -> str:
    return json.dumps(answer, indent=2, ensure_ascii=False)


async def _list_roles(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    tenant = await _ask(gate, "GET", _account(arguments))
    found = await gate.accounts.roles_in(tenant["name"].lower())
    return [{"identity": identity, "roles": sorted(roles)} for identity, roles in sorted(found.items())]


async def _assign_role(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _change_role(gate, arguments, "role.assign", gate.accounts.assign_role)


async def _withdraw_role(gate: Sluicegate, arguments: argparse.Namespace) -> Any:
    return await _change_role(gate, arguments, "role.withdraw", gate.accounts.withdraw_role)


async def _change_role(
    gate: Sluicegate,
    arguments: argparse.Namespace,
    action: str,
    change: Callable[[str, str, Role], Awaitable[None]],
) -> Any:
    from sluicegate.audit.entries import Event

    tenant = await _ask(gate, "GET", _account(arguments))
    account = tenant["name"].lower()
    subject = f"{arguments.identity}/{arguments.role}"
    region = await gate.region(tenant["location"])
    await region.audit.append(Event("deployment/command-line", action, account=account, subject=subject))
    await change(account, arguments.identity, Role(arguments.role))
    return await _list_roles(gate, arguments)


def _roles_table(answer: list[dict[str, Any]]) -> str:
    return table(("identity", "roles"), [(each["identity"], ", ".join(each["roles"])) for each in answer])


def _done(_: Any) -> str:
    return "done"


_ACTIONS: dict[tuple[str, str], tuple[Work, Show]] = {
    ("account", "list"): (_list_accounts, _accounts_table),
    ("account", "show"): (_show_account, _account_lines),
    ("account", "create"): (_create_account, _account_lines),
    ("account", "update"): (_update_account, _account_lines),
    ("account", "delete"): (_delete_account, _done),
    ("account", "restore"): (_restore_account, _account_lines),
    ("account", "purge"): (_purge_account, _done),
    ("deployment", "list"): (_list_deployments, _deployments_table),
    ("deployment", "create"): (_create_deployment, lambda answer: _deployments_table([answer])),
    ("deployment", "delete"): (_delete_deployment, _done),
    ("key", "list"): (_list_keys, _keys_table),
    ("key", "regenerate"): (_regenerate_key, _keys_table),
    ("policy", "list"): (_list_policies, _policies_lines),
    ("policy", "show"): (_show_policy, _as_json),
    ("policy", "set"): (_set_policy, _as_json),
    ("policy", "delete"): (_delete_policy, _done),
    ("role", "list"): (_list_roles, _roles_table),
    ("role", "assign"): (_assign_role, _roles_table),
    ("role", "withdraw"): (_withdraw_role, _roles_table),
}
