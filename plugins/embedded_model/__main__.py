"""Fetch the weights and exit, as a step of building an image: ``python -m plugins.embedded_model [chat] [embedding]``."""

from __future__ import annotations

import sys

from plugins.embedded_model import weights
from sluicegate.errors import StartupError

_KINDS = {"chat": weights.CHAT, "embedding": weights.EMBEDDING}


def main(kinds: list[str]) -> int:
    """Fetch the named kinds, or both; return the process's exit status."""
    if unknown := set(kinds) - set(_KINDS):
        sys.stderr.write(f"embedded_model: unknown: {', '.join(sorted(unknown))}; there are {', '.join(_KINDS)}\n")
        return 2
    try:
        for kind in kinds or _KINDS:
            sys.stdout.write(f"{weights.ensure(_KINDS[kind])}\n")
    except StartupError as error:
        sys.stderr.write(f"embedded_model: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
