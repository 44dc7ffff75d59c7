"""Which role each operation needs, in one table: what nobody is named for here, nobody may do."""

from __future__ import annotations

from collections.abc import Mapping

from sluicegate.types import Role

ROLES: Mapping[str, Role] = {
    # the data plane
    "chat.completions": Role.CALLER,
    "completions": Role.CALLER,
    "embeddings": Role.CALLER,
    "models.list": Role.CALLER,
    "models.read": Role.CALLER,
    "models.delete": Role.CALLER,
    "files.create": Role.CALLER,
    "files.list": Role.CALLER,
    "files.read": Role.CALLER,
    "files.content": Role.CALLER,
    "files.delete": Role.CALLER,
    "fine_tuning.jobs.create": Role.CALLER,
    "fine_tuning.jobs.list": Role.CALLER,
    "fine_tuning.jobs.read": Role.CALLER,
    "fine_tuning.jobs.cancel": Role.CALLER,
    "fine_tuning.jobs.pause": Role.CALLER,
    "fine_tuning.jobs.resume": Role.CALLER,
    "fine_tuning.jobs.delete": Role.CALLER,
    "fine_tuning.jobs.events": Role.CALLER,
    "fine_tuning.jobs.checkpoints": Role.CALLER,
    # governance
    "retained.list": Role.OFFICER,
    "retained.read": Role.OFFICER,
    "retained.delete": Role.OFFICER,
    "retained.export": Role.OFFICER,
    "receipts.list": Role.OFFICER,
    "receipts.read": Role.OFFICER,
    "checkpoint.read": Role.OFFICER,
    "audit.list": Role.OFFICER,
    # what the customer asks for, and who decides
    "applications.create": Role.CALLER,
    "applications.withdraw": Role.CALLER,
    "notices.list": Role.CALLER,
    "appeals.create": Role.CALLER,
    "appeals.list": Role.REVIEWER,
    "appeals.read": Role.REVIEWER,
    "appeals.rule": Role.REVIEWER,
    "ledger.read": Role.CALLER,
    "ledger.export": Role.CALLER,
    "ledger.delete": Role.CALLER,
    "ledger.receipts": Role.CALLER,
    "ledger.receipt": Role.CALLER,
    "ledger.retention": Role.CALLER,
    "applications.list": Role.OPERATOR,
    "applications.read": Role.OPERATOR,
    "applications.decide": Role.OPERATOR,
    # the control plane
    "accounts.list": Role.OPERATOR,
    "accounts.read": Role.OPERATOR,
    "accounts.write": Role.OPERATOR,
    "accounts.delete": Role.OPERATOR,
    "accounts.purge": Role.OPERATOR,
    "keys.list": Role.OPERATOR,
    "keys.regenerate": Role.OPERATOR,
    "deployments.read": Role.OPERATOR,
    "deployments.write": Role.OPERATOR,
    "deployments.delete": Role.OPERATOR,
    "policies.read": Role.OPERATOR,
    "policies.write": Role.OPERATOR,
    "policies.delete": Role.OPERATOR,
    "blocklists.read": Role.OPERATOR,
    "blocklists.write": Role.OPERATOR,
    "blocklists.delete": Role.OPERATOR,
    "catalogue.read": Role.OPERATOR,
}
"""Operation -> the role of whoever may do it."""
