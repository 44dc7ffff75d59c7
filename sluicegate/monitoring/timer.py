"""What the timer ``abuse`` does in each region, step by step: one that fails does not stop the others, and fails the invocation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from traceback import format_tb
from typing import TypeAlias

from sluicegate.errors import MonitoringIncomplete, SluicegateError
from sluicegate.regions import Region, Regions
from sluicegate.storage.lease import Lease, LeaseHeld, LeaseLost

STEP_TIME = timedelta(minutes=2)
"""For one step in one region; what it leaves, the next run goes on with."""
log = logging.getLogger(__name__)

Step: TypeAlias = Callable[[], Awaitable[None]]
"""Does its part in a region. What is stopped anywhere must go on when it is run again."""


async def monitor(regions: Regions, steps: Mapping[str, Mapping[str, Step]], clock: Callable[[], datetime]) -> None:
    """Run the steps of each region, in order, in every region by itself, under a lease of its own.

    Args:
        steps: By region and name.

    Raises:
        MonitoringIncomplete: A step failed; it names step and region. Everything else is done.
    """
    left: list[str] = []

    async def in_region(region: Region) -> None:
        try:
            left.extend(
                regions.told(region, line)
                for line in await Lease(region.blobs, "abuse", clock=clock).run(
                    lambda: _run(region, steps[region.name])
                )
            )
        except LeaseHeld:
            log.info("another process is monitoring region %s", region.name)
        except (LeaseLost, SluicegateError) as error:
            left.append(regions.told(region, f"storage or keys cannot be reached ({type(error).__name__})"))

    await asyncio.gather(*map(in_region, regions))
    if left:
        raise MonitoringIncomplete(left)


async def _run(region: Region, steps: Mapping[str, Step]) -> list[str]:
    await region.start()
    left = []
    for name, step in steps.items():
        try:
            async with asyncio.timeout(STEP_TIME.total_seconds()):
                await step()
        except MonitoringIncomplete as error:
            left += [f"{name}: {line}" for line in error.left]
        except (SluicegateError, TimeoutError) as error:
            left.append(f"{name} ({type(error).__name__})")
        except Exception as error:  # noqa: BLE001 - whatever fails here, the other steps must still be taken
            left.append(f"{name} ({type(error).__name__})")
            # The message may quote content; the frames do not.
            frames = "".join(format_tb(error.__traceback__))
            log.error("monitoring: %s failed with %s\n%s", name, type(error).__name__, frames)
    return left
