"""Run the benchmarks: ``python -m benchmarks [NAME …]``; without names, all of them."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    "abuse",
    "fine_tuning",
    "fine_tuning_served",
    "gateway",
    "retention",
    "tenants",
    "training_data",
    "upstream_client",
    "vetting",
)


def main() -> int:
    """Run what is named, each in a process of its own; each prints a table and what it was measured on."""
    names = sys.argv[1:] or BENCHMARKS
    if unknown := [name for name in names if name not in BENCHMARKS]:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names:
        print(f"\n## {name}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
