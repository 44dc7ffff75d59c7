"""Checks a receipt offline, with nothing but its bytes and the log's public key.

A receipt, version 1, is a JSON object of ASCII strings, whole numbers, booleans, nulls, arrays and objects::

    {"version": 1,
     "id", "kind", "account", "subject",       what was to go: see receipts.Kind; account is null for all accounts
     "began", "time",                          when the removal began, and when this was stated
     "removed": [{"time", "blobs", "bytes", "records", "names_sha256"}, …],  what each attempt found, and then removed
     "keys": [{"name", "destroyed", "recoverable_until"}, …],
     "checked": {"what was listed afterwards": how many were found, 0, …},
     "recoverable_until", "weaknesses": […],   what was known to make the removal less than final
     "not_proven": […],                        sentences
     "audit": {"entry": one line of the audit log, as text,
               "inclusion": {"leaf_index", "tree_size", "path": [base64, …]},
               "checkpoint": {"algorithm", "key_id", "signature", "text"}}}

It holds when all of these do:

1. The checkpoint's signature (:mod:`sluicegate.audit.checkpoints`) fits the public key.
2. The RFC 9162 leaf hash of ``entry``, in UTF-8, leads along ``path`` to the checkpoint's root, with the entry's ``seq``
   as ``leaf_index`` and the checkpoint's size as ``tree_size``.
3. The entry's ``evidence.statement`` is the SHA-256, in hex, of the canonical JSON (:mod:`sluicegate.audit.entries`) of the
   receipt without ``audit``; its ``action``, ``account`` and ``subject`` are the receipt's ``kind``, ``account`` and
   ``subject``.

So every value of a receipt is held by the signature; spaces and the order of keys are not, and mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sluicegate.audit.checkpoints import Checkpoint, OtherKey, check_signature, decoded, read_checkpoint
from sluicegate.audit.entries import canonical
from sluicegate.audit.merkle import HASH_BYTES, inclusion_root, leaf_hash
from sluicegate.errors import SealBroken, SluicegateError

VERSION = 1
MAX_BYTES = 1 << 20


class NotVerified(SluicegateError):
    """Whoever checks a receipt sees it: the receipt proves nothing.

    Args:
        reason: ``form``, ``version``, ``key`` (another key, or not a key), ``signature``, ``proof`` (entry, index, path or
            root) or ``statement`` (the receipt's own text).
    """

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Verified:
    """What a receipt proves.

    Attributes:
        statement: The receipt without ``audit``.
        entry: The audit log's entry.
        checkpoint: What was signed.
        proves, not_proven: Sentences for whoever reads it.
    """

    statement: Mapping[str, Any]
    entry: Mapping[str, Any]
    checkpoint: Checkpoint
    proves: tuple[str, ...]
    not_proven: tuple[str, ...]


def verify_receipt(receipt: bytes, public_jwk: Mapping[str, Any]) -> Verified:
    """Check a receipt; nothing but the arguments is read.

    Args:
        receipt: The file's bytes.
        public_jwk: The log's public key, a JSON Web Key with ``kid``, obtained from somewhere that you trust.

    Raises:
        NotVerified: It does not hold; ``reason`` says what does not.
    """
    try:
        return _verify(receipt, public_jwk)
    except RecursionError:
        raise NotVerified("form", "nested deeper than any receipt") from None


def statement_hash(statement: Mapping[str, Any]) -> str:
    """Return what an entry's ``evidence.statement`` must be."""
    return sha256(canonical(statement)).hexdigest()


def _verify(receipt: bytes, public_jwk: Mapping[str, Any]) -> Verified:
    statement, audit = _parts(receipt)
    try:
        checkpoint = read_checkpoint(audit["checkpoint"])
    except SealBroken as error:
        raise NotVerified("form", str(error)) from None
    _check_key(checkpoint, public_jwk)
    entry = _included(audit, checkpoint)
    _check_statement(statement, entry)
    try:
        return Verified(statement, entry, checkpoint, _proves(statement, entry, checkpoint), _not_proven(statement))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise NotVerified("form", "the receipt was signed, but its text cannot be read") from None


def _parts(receipt: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    if len(receipt) > MAX_BYTES:
        raise NotVerified("form", "larger than any receipt")
    document = _json(receipt, "the receipt")
    if "version" not in document:
        raise NotVerified("form", "this is not a receipt")
    if type(document["version"]) is not int or document["version"] != VERSION:
        raise NotVerified("version", f"a receipt of a version other than {VERSION}: use a newer release to check it")
    audit = document.pop("audit", None)
    if not isinstance(audit, dict) or set(audit) != {"entry", "inclusion", "checkpoint"}:
        raise NotVerified("form", "the receipt's audit must be entry, inclusion and checkpoint")
    return document, audit


def _check_key(checkpoint: Checkpoint, public_jwk: Mapping[str, Any]) -> None:
    try:
        check_signature(checkpoint, public_jwk)
    except ValueError as error:
        raise NotVerified("key", str(error)) from None
    except OtherKey:
        why = f"it was signed with the key {checkpoint.key_id!r}, not with the given one, {public_jwk['kid']!r}"
        raise NotVerified("key", why) from None
    except SealBroken:
        why = "the checkpoint was changed, or signed with another key: the signature does not fit"
        raise NotVerified("signature", why) from None


def _included(audit: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    line, inclusion = audit["entry"], audit["inclusion"]
    if not isinstance(line, str) or not isinstance(inclusion, dict):
        raise NotVerified("form", "the entry must be text, and its inclusion an object")
    if set(inclusion) != {"leaf_index", "tree_size", "path"} or not isinstance(inclusion["path"], list):
        raise NotVerified("form", "the inclusion must be leaf_index, tree_size and path")
    data = line.encode(errors="surrogatepass")
    entry = _json(data, "the entry")
    index, size = inclusion["leaf_index"], inclusion["tree_size"]
    if type(index) is not int or index != entry.get("seq"):
        raise NotVerified("proof", "the index is not the entry's number")
    if type(size) is not int or size != checkpoint.size:
        raise NotVerified("proof", "the proof is for another tree than the signed one")
    try:
        path = [decoded(each, HASH_BYTES) for each in inclusion["path"]]
    except SealBroken as error:
        raise NotVerified("form", f"the inclusion path: {error}") from None
    if inclusion_root(leaf_hash(data), index, size, path) != checkpoint.root:
        raise NotVerified("proof", "the entry is not in the signed log: it, its index or the path was changed")
    return entry


def _check_statement(statement: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    evidence = entry.get("evidence")
    if not isinstance(evidence, dict) or evidence.get("statement") != statement_hash(statement):
        raise NotVerified("statement", "the text of the receipt is not what the log recorded")
    for mine, theirs in (("kind", "action"), ("account", "account"), ("subject", "subject")):
        if statement[mine] != entry.get(theirs):
            raise NotVerified("statement", f"the log's entry is about another {mine}")


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data, object_pairs_hook=_once, parse_float=_refuse, parse_constant=_refuse)
    except ValueError:
        raise NotVerified("form", f"{what} is not JSON, or not in the form that is hashed") from None
    if not isinstance(found, dict):
        raise NotVerified("form", f"{what} is not a JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # A reader may see the first of two, and a parser takes the last.
        raise ValueError("a key twice")
    return found


def _refuse(_: str) -> Any:
    raise ValueError("not a whole number")


def _proves(statement: Mapping[str, Any], entry: Mapping[str, Any], checkpoint: Checkpoint) -> tuple[str, ...]:
    account = statement["account"]
    whose = "all accounts" if account is None else f"account {account}"
    return (
        f"The log {checkpoint.origin} holds this removal as entry {entry['seq']} of {checkpoint.size}; "
        f"that was signed with {checkpoint.key_id}.",
        f"{statement['kind']} of {statement['subject']}, {whose}: begun {statement['began']}, stated {statement['time']} "
        f"by {entry['actor']}.",
        *(
            f"{_counts(found)}, {found['bytes']} bytes, were there at {found['time']}."
            for found in statement["removed"]
        ),
        *(_key_sentence(key) for key in statement["keys"]),
        *(f"Listed afterwards, {what}: {count} found." for what, count in statement["checked"].items()),
    )


def _counts(found: Mapping[str, Any]) -> str:
    blobs = f"{found['blobs']} blobs"
    return blobs if found["records"] is None else f"{found['records']} records and {blobs}"


def _key_sentence(key: Mapping[str, Any]) -> str:
    if key["destroyed"]:
        return f"The key {key['name']} was destroyed and was absent afterwards, recoverable states included."
    return f"The key {key['name']} was deleted; it can be recovered until {key['recoverable_until']}."


def _not_proven(statement: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(sentence) for sentence in (*statement["weaknesses"], *statement["not_proven"]))
