"""The commands ``encryption``, which gives an account a key of its own, and ``rewrap``, which lets data keys follow it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.audit.entries import Event
from sluicegate.errors import BlobNotFound, StartupError

if TYPE_CHECKING:
    from sluicegate.app import Sluicegate

ACTOR = "operator/command-line"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``encryption ACCOUNT (--key NAME --vault URL | --none) --reason REFERENCE`` and ``rewrap``."""
    command = commands.add_parser("encryption", help="give an account an encryption key of its own, or take it away")
    command.add_argument("account")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--key", metavar="NAME", help="a key in --vault: RSA of 3072 bits, which permits wrap and unwrap"
    )
    which.add_argument("--none", action="store_true", help="the deployment's keys alone")
    command.add_argument("--vault", metavar="URL", help="the customer's vault, such as https://NAME.vault.azure.net")
    command.add_argument("--version", help="the key's version; the latest unless given")
    command.add_argument("--identity", metavar="CLIENT_ID", help="which identity opens it; the app's own unless given")
    command.add_argument("--reason", required=True, help="a reference, such as a ticket's number, for the audit log")
    again = commands.add_parser("rewrap", help="wrap data keys under customers' present keys, as the purge timer does")
    for each in (command, again):
        each.add_argument("--data", type=Path, default=Path(".data"), help="folder of the embedded storage and keys")


async def set_encryption(gate: Sluicegate, arguments: argparse.Namespace) -> str:
    """Try the key, write the decision to the audit log, then to the account; return what to say.

    Raises:
        StartupError: There is no such account, the key cannot be used, or the reason is not one for the log.
    """
    try:
        event = Event(ACTOR, "encryption.change", account=arguments.account, reason=arguments.reason)
        account = await gate.accounts.get(arguments.account)
        if account is None:
            raise StartupError(f"there is no account {arguments.account!r}")
        encryption = None if arguments.none else _encryption(arguments)
        await gate.prove_encryption(encryption)
        await (await gate.region(account.location)).audit.append(event)
        await gate.accounts.set_encryption(arguments.account, encryption)
    except ValueError as error:
        raise StartupError(str(error)) from None
    except BlobNotFound:
        raise StartupError(f"there is no account {arguments.account!r}") from None
    what = "no key of its own any more" if arguments.none else f"the key {arguments.key!r} of its own"
    return f"account {arguments.account!r}: {what}; {await rewrap(gate)}"


async def rewrap(gate: Sluicegate) -> str:
    """Wrap data keys under customers' present keys, and return what to say."""
    done = await gate.rewrap()
    left = [f"{count} of account {account!r} not yet" for account, count in sorted(done.left.items())]
    return "; ".join([f"{done.wrapped} data keys wrapped anew", *left])


def _encryption(arguments: argparse.Namespace) -> dict[str, Any]:
    properties = {
        "keyVaultUri": arguments.vault,
        "keyName": arguments.key,
        "keyVersion": arguments.version,
        "identityClientId": arguments.identity,
    }
    given = {name: value for name, value in properties.items() if value is not None}
    return {"keySource": "Microsoft.KeyVault", "keyVaultProperties": given}
