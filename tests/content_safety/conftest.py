import pytest

from plugins.azure_content_safety import Config
from tests.content_safety import server


@pytest.fixture(scope="session")
def _running():
    with server.running() as stand_in:
        yield stand_in


@pytest.fixture
def stand_in(_running, monkeypatch):
    """A resource without blocklists, and an environment that trusts it."""
    for name in ("HTTPS_PROXY", "https_proxy", "AZURE_CLIENT_ID", "IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", _running.environment["SSL_CERT_FILE"])
    monkeypatch.setenv("CONTENT_SAFETY_KEY", _running.key)
    monkeypatch.setattr("plugins.azure_content_safety.asking.PAUSES_S", (0.0, 0.0))
    yield _running
    _running.reset()


@pytest.fixture
def settings(stand_in):
    """Settings that lead to it, patient for slow machines."""
    return {"endpoint": stand_in.endpoint, "key_setting": "CONTENT_SAFETY_KEY", "timeout_s": 60}


@pytest.fixture
async def config(settings):
    """A function that returns connected settings."""
    made = []

    def connected(**changed):
        config = Config.model_validate(settings | changed)
        config.connect()
        made.append(config)
        return config

    yield connected
    for config in made:
        await config.close()
