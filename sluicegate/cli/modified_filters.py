"""The command ``modified-filters``: approve an account for policies in which a harm does not block, or withdraw that.

It is the operator's way to decide on an application that was made in another way than over the wire: the approval is kept, ends
and is withdrawn as any other.
"""

from __future__ import annotations

import argparse
from datetime import timedelta
from pathlib import Path

from sluicegate.app import Sluicegate
from sluicegate.errors import NotFound, SluicegateError, StartupError
from sluicegate.monitoring.applications import LONGEST
from sluicegate.monitoring.questions import Kind

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
    command.add_argument(
        "--days", type=int, default=LONGEST.days, help="how long an approval lasts, %(default)s at most"
    )
    command.add_argument("--reason", required=True, help="a reference, such as a ticket's number, for the audit log")
    command.add_argument("--data", type=Path, default=Path(".data"), help="folder of the embedded storage and keys")


async def set_approval(gate: Sluicegate, account: str, *, approved: bool, days: int, reason: str) -> None:
    """Approve an account, or withdraw what is approved of it.

    Raises:
        StartupError: There is no such account or approval, or the days or the reason cannot be used.
    """
    kind, applications = Kind.CONTENT_FILTERS, gate.applications
    try:
        if approved:
            expires = gate.now() + timedelta(days=days)
            await applications.grant(account, kind, ACTOR, expires=expires, reason=reason)
            return
        found = [each for each in await applications.of_account(account) if each.kind is kind and each.covers(account)]
        if not found:
            raise NotFound("There is no approval to withdraw.")
        for each in found:
            if each.account is None:
                raise StartupError(f"{each.id} is for the whole subscription: an operator withdraws it over the wire")
            await applications.withdraw(each.id, ACTOR, subscription=None, reason=reason)
    except SluicegateError as error:
        raise StartupError(f"account {account!r} is not changed: {error}") from None
