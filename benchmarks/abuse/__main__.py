"""What signals cost, and what the score finds: precision, recall and time to detection.

    python -m benchmarks.abuse [--weeks 3] [--seeds 3]

First the CPU that signals add to a request, on this machine: making the signal, counting it, and its share of the writing. Then
simulated accounts, see :mod:`benchmarks.abuse.populations`: a subject is an account or an end user; an alarm is right if the subject
is abusive. The time to detection runs from the first abusive act to the end of the hour in which the score alarms.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict

from benchmarks.abuse import cost
from benchmarks.abuse.populations import Account, Alarm, population, simulate

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7)
SHIPPED = 0.6


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weeks", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    cost.report()
    runs = []
    for seed in range(options.seeds):
        accounts = population(seed)
        runs.append((accounts, simulate(accounts, options.weeks * 7 * 24, THRESHOLDS, seed)))
    _report_thresholds(runs)
    _report_kinds(runs)


def _report_thresholds(runs: list[tuple[list[Account], dict[float, list[Alarm]]]]) -> None:
    print("\n| threshold | right alarms | wrong alarms | precision | recall | hours to detection, median | 90 % |")
    print("|---|---|---|---|---|---|---|")
    for threshold in THRESHOLDS:
        right, wrong, abusive = [], 0, 0
        for accounts, alarms in runs:
            begun = {subject: hour for account in accounts for subject, hour in account.abusive.items()}
            abusive += len(begun)
            for alarm in alarms[threshold]:
                if alarm.subject in begun:
                    right.append(alarm.hour + 1 - begun[alarm.subject])
                else:
                    wrong += 1
        precision = len(right) / max(1, len(right) + wrong)
        print(
            f"| {threshold} | {len(right)} | {wrong} | {precision:.3f} | {len(right) / abusive:.3f} "
            f"| {statistics.median(right or [0]):.0f} | {sorted(right or [0])[len(right) * 9 // 10 - 1]} |"
        )


def _report_kinds(runs: list[tuple[list[Account], dict[float, list[Alarm]]]]) -> None:
    count: dict[str, int] = defaultdict(int)
    wrong: dict[str, int] = defaultdict(int)
    hours: dict[str, list[int]] = defaultdict(list)
    for accounts, alarms in runs:
        by_name = {account.name: account for account in accounts}
        for account in accounts:
            count[account.kind] += 1
        for alarm in alarms[SHIPPED]:
            account = by_name[alarm.subject[0]]
            if alarm.subject in account.abusive:
                hours[account.kind].append(alarm.hour + 1 - account.abusive[alarm.subject])
            else:
                wrong[account.kind] += 1
    print(f"\n| at {SHIPPED} | accounts | found | wrong alarms | hours to detection, median | longest |")
    print("|---|---|---|---|---|---|")
    for kind, number in count.items():
        found = hours[kind]
        times = f"{statistics.median(found):.0f} | {max(found)}" if found else "- | -"
        print(f"| {kind} | {number} | {len(found)} | {wrong[kind]} | {times} |")


if __name__ == "__main__":
    main()
