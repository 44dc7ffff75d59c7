"""Commands about receipts: ``verify-receipt``, which needs nothing but two files, and ``receipts``, which saves them.

For ``sluicegate.__main__``: ``add_commands`` adds both; ``verify_receipt_command`` runs the first before any setting is
read, and ``save_receipts`` does the work of the second once there is an app.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from sluicegate.audit.checkpoints import read_checkpoint
from sluicegate.errors import KeyNotFound, SealBroken
from sluicegate.retention.receipt_check import MAX_BYTES, NotVerified, Verified, verify_receipt
from sluicegate.retention.receipts import Receipt, Receipts

PUBLIC = "public.jwk"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``verify-receipt FILE --key PUBLIC`` and ``receipts --save DIR``."""
    verify = commands.add_parser("verify-receipt", help="check a receipt, offline, with nothing but its public key")
    verify.add_argument("file", type=Path, help="the receipt, a JSON file")
    verify.add_argument(
        "--key", type=Path, required=True, help=f"the public key, such as {PUBLIC} beside saved receipts"
    )
    save = commands.add_parser("receipts", help="save all receipts, and the public key to check them with")
    save.add_argument(
        "--save",
        type=Path,
        required=True,
        metavar="DIR",
        help="the folder to write to; those of further regions go to a folder in it by the region's name",
    )


def verify_receipt_command(arguments: argparse.Namespace, out: TextIO | None = None) -> int:
    """Say what a receipt proves and what it cannot; 1 when it does not hold, 2 when a file cannot be read.

    Args:
        arguments: ``file`` and ``key``, from the parser.
        out: Standard output unless given.
    """
    out = out or sys.stdout
    try:
        verified = verify_receipt(_read(arguments.file), _read_key(arguments.key))
    except OSError as error:
        out.write(f"NOT CHECKED: {error.filename}: {error.strerror}\n")
        return 2
    except NotVerified as error:
        out.write(f"NOT VERIFIED: {error}\nThis receipt proves nothing.\n")
        return 1
    out.write(_in_words(verified))
    return 0


async def save_receipts(receipts: Receipts, folder: Path, out: TextIO | None = None) -> int:
    """Write each receipt to ``{account or deployment}-{id}.json``, and the newest public key beside them.

    A receipt that a former version of the key signed gets that version's key too, as ``public-{version}.jwk``.

    Returns:
        0, or 1 when one does not hold; it is written all the same, and named.
    """
    out = out or sys.stdout
    count, broken = 0, []
    newest = await _newest(receipts)
    if newest is not None:
        _write_key(folder / PUBLIC, newest)
    async for receipt in receipts.every():
        path = folder / f"{receipt.account or 'deployment'}-{receipt.id}.json"
        _write(path, receipt.data)
        count += 1
        try:
            key = await _key_of(receipts, receipt)
            verify_receipt(receipt.data, key)
        except (NotVerified, KeyNotFound) as error:
            broken.append(f"{path.name}: {error}")
            continue
        if key != newest:
            _write_key(folder / f"public-{key['kid'].rpartition('/')[2]}.jwk", key)
    out.write(f"receipts in {folder}: {count}\n")
    for line in broken:
        out.write(f"NOT VERIFIED: {line}\n")
    return 1 if broken else 0


async def _newest(receipts: Receipts) -> dict[str, str] | None:
    try:
        return await receipts.public_key()
    except KeyNotFound:
        return None


async def _key_of(receipts: Receipts, receipt: Receipt) -> dict[str, str]:
    try:
        return await receipts.public_key(read_checkpoint(receipt.document["audit"]["checkpoint"]).key_id)
    except (ValueError, KeyError, TypeError, RecursionError, SealBroken):
        raise NotVerified("form", "the receipt cannot be read") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _read_key(path: Path) -> dict[str, Any]:
    try:
        key = json.loads(_read(path))
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, dict):
        raise NotVerified("key", f"{path}: not a JSON Web Key")
    return key


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_key(path: Path, key: dict[str, str]) -> None:
    _write(path, json.dumps(key, indent=2).encode() + b"\n")


def _in_words(verified: Verified) -> str:
    return (
        f"VERIFIED: receipt {verified.statement['id']}\n\n"
        f"It proves that this was recorded and signed, and not changed since:\n{_list(verified.proves)}\n"
        f"It does not prove:\n{_list(verified.not_proven)}\n"
        f"The text that was signed:\n{_list(verified.checkpoint.text.splitlines())}"
    )


def _list(sentences: Iterable[str]) -> str:
    return "".join(f"  - {sentence}\n" for sentence in sentences)
