"""Ten thousand accounts and a thousand deployments: lists page through them, and the purge timer counts them, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc

from sluicegate.accounts import CONTAINER, Accounts
from sluicegate.tenancy.deployments import Deployment, Deployments
from sluicegate.tenancy.tenants import Scope, Tenants
from sluicegate.testing import MemoryKeys, MemoryStorage

ACCOUNTS = 10_000
DEPLOYMENTS = 1_000
PAGE = 100
SCOPE = Scope("00000000-1111-2222-3333-444444444444", "all")


async def fill(blobs):
    accounts = Accounts(blobs, MemoryKeys())
    await accounts.create(
        "first", location="local", resource={"subscription": SCOPE.subscription, "group": SCOPE.group}
    )
    document = json.loads((await blobs.get(CONTAINER, "account/first")).data)
    await blobs.delete(CONTAINER, "account/first")
    for number in range(ACCOUNTS):
        name = f"account{number:05d}"
        data = json.dumps({**document, "name": name, "retention_days": 1 + number % 30}).encode()
        await blobs.put(CONTAINER, f"account/{name}", data)
        await blobs.put(CONTAINER, f"scope/{SCOPE.prefix}{name}", b"{}")
    return accounts


async def peak_of(work):
    """Return what some work returns, and the most memory it held at once, in bytes."""
    tracemalloc.start()
    try:
        return await work, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_every_account_and_deployment_is_listed_once_a_page_at_a_time_in_bounded_memory():
    blobs = MemoryStorage()
    accounts = await fill(blobs)
    tenants = Tenants(blobs, accounts)

    async def page_through():
        count, cursor, last = 0, "", ""
        while True:
            found, cursor = await tenants.page(SCOPE, after=cursor, limit=PAGE)
            assert [tenant.id for tenant in found] == sorted(tenant.id for tenant in found)
            assert found[0].id > last
            count, last = count + len(found), found[-1].id
            if not cursor:
                return count

    count, peak = await peak_of(page_through())

    assert count == ACCOUNTS
    assert peak < 4 << 20

    deployments = Deployments(blobs)
    for number in range(DEPLOYMENTS):
        await deployments.create("account00000", Deployment(f"chat{number:04d}", "model"))
    names, cursor = [], ""
    while True:
        found, more = await deployments.documents("account00000").page(after=cursor, limit=PAGE)
        names += [document.name for document in found]
        cursor = names[-1]
        if not more:
            break
    assert names == [f"chat{number:04d}" for number in range(DEPLOYMENTS)]


async def test_the_purge_timer_knows_of_every_account_with_one_read_of_each_in_bounded_memory():
    blobs = MemoryStorage()
    accounts = await fill(blobs)
    reads = 0
    get = blobs.get

    async def counted(*arguments, **named):
        nonlocal reads
        reads += 1
        return await get(*arguments, **named)

    blobs.get = counted

    census, peak = await peak_of(accounts.census())

    assert [each.retention_days for each in census.values()] == [1 + number % 30 for number in range(ACCOUNTS)]
    assert reads == ACCOUNTS
    assert peak < 16 << 20
