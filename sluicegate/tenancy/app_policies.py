"""Policies and blocklists of the deployment file, which every account may use by name, beside those that are built in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sluicegate.config import Deployment
from sluicegate.errors import InvalidRequest, StartupError
from sluicegate.policies import BUILT_IN, Blocklist, Policy
from sluicegate.tenancy.policy_documents import check_items, read_item, read_policy

_BUILT_IN = {name.lower(): policy for name, policy in BUILT_IN.items()}


@dataclass(frozen=True, slots=True)
class AppPolicies:
    """What the operator offers to all accounts; names are looked up in lower case.

    Attributes:
        default: The policy of deployments that name none.
    """

    default: Policy
    policies: Mapping[str, Policy] = field(default_factory=lambda: _BUILT_IN)
    lists: Mapping[str, Blocklist] = field(default_factory=dict)


def read_app_policies(deployment: Deployment) -> AppPolicies:
    """Read ``[policies]``, ``[blocklists]`` and ``default_policy`` of a deployment file.

    Raises:
        StartupError: One is malformed, or names what is not there.
    """
    try:
        lists = {name.lower(): _list(name, table) for name, table in deployment.blocklists.items()}
        policies = dict(_BUILT_IN)
        for name, properties in deployment.policies.items():
            where = f"policies.{name}"
            if name.lower().startswith("microsoft."):
                raise StartupError(f"[{where}] names that begin with Microsoft. are built in")
            policies[name.lower()] = _policy(name, properties, where, lists)
    except InvalidRequest as error:
        raise StartupError(f"deployment file: {error.message}") from None
    default = policies.get(deployment.default_policy.lower())
    if default is None:
        raise StartupError(f"default_policy names {deployment.default_policy!r}, which is not there")
    if default.weakened:
        raise StartupError(
            f"default_policy names {default.name!r}, in which {', '.join(default.weakened)} does not block: only "
            "deployments of accounts that are approved for it may use such a policy"
        )
    return AppPolicies(default, policies, lists)


def _policy(name: str, properties: Mapping[str, Any], where: str, lists: Mapping[str, Blocklist]) -> Policy:
    document = read_policy(properties, where)
    base = _BUILT_IN.get(document.base.lower())
    if base is None:
        raise StartupError(f"[{where}] basePolicyName: must be one of {', '.join(BUILT_IN)}")
    if missing := sorted(used for used in document.list_names if used.lower() not in lists):
        raise StartupError(f"[{where}] customBlocklists: there is no [blocklists.{missing[0]}]")
    return document.resolved(name, base, {used: lists[used.lower()] for used in document.list_names})


def _list(name: str, table: Mapping[str, Any]) -> Blocklist:
    where = f"blocklists.{name}"
    items = table.get("items")
    if table.keys() - {"items"} or not isinstance(items, list):
        raise StartupError(f"[{where}] must hold items, an array such as [{{ pattern = 'term' }}], and nothing else")
    read = tuple(read_item(item, f"{where}.items[{number}]") for number, item in enumerate(items))
    check_items(read, where)
    return Blocklist(name, read)
