"""What the official worker remembers of requests that are long over."""

from __future__ import annotations

from pathlib import Path

import httpx

from sluicegate import worker_memory

ROOT = Path(__file__).parents[2]


def test_the_worker_does_not_remember_every_request_it_served(worker, tmp_path):
    url = worker(
        ROOT,
        {
            "SLUICEGATE_STORAGE": f"folder:{tmp_path / 'storage'}",
            "SLUICEGATE_KEYS": f"folder:{tmp_path / 'keys'}",
            "SLUICEGATE_REGION": "local",
            "SLUICEGATE_CONFIG": "tests/wire/deployments/full.toml",
            "PURGE_SCHEDULE": "0 0 0 1 1 *",
            "FINE_TUNE_SCHEDULE": "0 0 0 1 1 *",
            "ABUSE_SCHEDULE": "0 0 0 1 1 *",
            "PYTHONPATH": str(ROOT / "tests" / "wire" / "site"),
        },
    )

    with httpx.Client(base_url=url) as client:
        remembered = [
            int(client.get("/openai/v1/models").headers["x-invocations-remembered"])
            for _ in range(2 * worker_memory.EVERY + 1)
        ]

    assert max(remembered) <= worker_memory.EVERY
