"""Processes of one deployment that share its storage, and a customer."""

from __future__ import annotations

import pytest

from tests.inside import Tenant
from tests.monitoring.customers import World


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path)
    yield world
    await world.close()


@pytest.fixture
async def app(world):
    return world.open()


@pytest.fixture
async def contoso(app):
    return await Tenant.create(app, "contoso", "local")
