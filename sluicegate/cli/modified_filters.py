"""The command ``modified-filters``: approve an account for policies in which a harm does not block, or withdraw that."""

from __future__ import annotations

import argparse
from pathlib import Path

from sluicegate.accounts import Accounts
from sluicegate.audit.entries import Event
from sluicegate.audit.log import Audit
from sluicegate.errors import StartupError

ACTOR = "operator/command-line"


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``modified-filters ACCOUNT --approve | --withdraw --reason REFERENCE``."""
    command = commands.add_parser("modified-filters", help="let an account's policies switch harms off, or no longer")
    command.add_argument("account")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--approve", action="store_true", help="hate, sexual, violence and self-harm may be off, or annotate"
    )
    what.add_argument("--withdraw", action="store_true", help="they block again, in every policy, within 30 seconds")
    command.add_argument("--reason", required=True, help="a reference, such as a ticket's number, for the audit log")
    command.add_argument("--data", type=Path, default=Path(".data"), help="folder of the embedded storage and keys")


async def set_approval(accounts: Accounts, audit: Audit, account: str, *, approved: bool, reason: str) -> None:
    """Write the decision to the audit log, then to the account.

    Raises:
        StartupError: There is no such account, or the reason is not one for the log.
    """
    if await accounts.get(account) is None:
        raise StartupError(f"there is no account {account!r}")
    action = "modified-filters.approve" if approved else "modified-filters.withdraw"
    try:
        event = Event(ACTOR, action, account=account, reason=reason)
    except ValueError as error:
        raise StartupError(f"{error}: use at most 200 letters, digits, spaces and ._:/#()+-") from None
    await audit.append(event)
    await accounts.set_modified_filters(account, approved)
