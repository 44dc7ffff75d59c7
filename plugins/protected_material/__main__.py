"""Index works for ``plugins.protected_material.index``: ``python -m plugins.protected_material MANIFEST... --output FILE``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from sluicegate.errors import StartupError

from . import Config
from .corpus import works
from .index import build, save
from .tokens import Kind


def main() -> int:
    """Write an index and say what it holds; the thresholds are the plugin's own unless given."""
    parser = argparse.ArgumentParser(prog="python -m plugins.protected_material", description=__doc__)
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    names = [f"{kind}_{limit}" for kind in Kind for limit in ("noise", "guarantee")]
    for name in names:
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, metavar="TOKENS", default=Config.model_fields[name].default
        )
    options = parser.parse_args()
    begun = time.perf_counter()
    try:
        config = Config.model_validate({name: getattr(options, name) for name in names})
        found = [work for manifest in options.manifests for work in works(manifest)]
        index = build(found, config.thresholds())
    except (StartupError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    save(index, options.output)
    read, written = sum(work.path.stat().st_size for work in found), options.output.stat().st_size
    counts = ", ".join(f"{len(part):,} fingerprints of {kind}" for kind, part in index.items())
    seconds = time.perf_counter() - begun
    sys.stdout.write(
        f"{len(found):,} works, {read:,} bytes; {counts or 'nothing long enough'}; {written:,} bytes in {seconds:.1f} s\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
