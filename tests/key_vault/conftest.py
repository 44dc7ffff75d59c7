import pytest

from plugins.azure_key_vault.vault import KeyVault
from sluicegate.testing import FrozenClock
from tests.key_vault import server


@pytest.fixture(scope="session")
def _running():
    with server.running(rsa_keys=3) as stand_in:
        yield stand_in


@pytest.fixture
async def stand_in(_running, monkeypatch):
    """A stand-in without vaults, and an environment that leads to it."""
    for name in ("https_proxy", "no_proxy", "NO_PROXY", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in _running.environment.items():
        monkeypatch.setenv(name, value)
    yield _running
    _running.reset()
    await _running.idle()


@pytest.fixture
def clock(stand_in):
    """The time of stand-in and plugin, which moves when told to."""
    stand_in.clock = FrozenClock()
    return stand_in.clock


@pytest.fixture
def vault(stand_in):
    """An empty vault."""
    return stand_in.vault("contoso")


@pytest.fixture
async def opened(stand_in, clock):
    """A function that opens a vault as the plugin does, but without pauses, and with patience for slow machines."""
    services = []

    def open(vault, **options):
        services.append(KeyVault(f"https://{vault.host}", **{"clock": clock, "within_s": 60, "pause_s": 0} | options))
        return services[-1]

    yield open
    for service in services:
        await service.close()


@pytest.fixture
def keys(vault, opened):
    """The plugin, open on the empty vault."""
    return opened(vault)


@pytest.fixture
def impatient(vault, opened):
    """The plugin, waiting for next to nothing."""
    return opened(vault, within_s=0.3)
