"""Posts notices to the operator's own webhook, each signed with a secret and the time.

A notice is the JSON of ``sluicegate.abuse.Notice``. Its receiver checks the signature as the specification of Standard Webhooks says: the
header ``webhook-signature`` is ``v1,`` and the base64 of HMAC-SHA256, under the secret, of ``{webhook-id}.{webhook-timestamp}.{body}``;
``webhook-id`` is the same however often a notice is delivered, so that it is acted on once. Any answer but a 2xx within the time, redirects
included, is a failure, and the notice is delivered again later.

The URL is the operator's setting only: a customer who could name one would have this app call addresses that only it can reach.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import ssl
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from sluicegate import PluginConfig, hookimpl
from sluicegate.abuse import Notice
from sluicegate.errors import ApiError, StartupError

PREFIX = "whsec_"
MIN_SECRET = 24
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Config(PluginConfig):
    """The table ``[plugins.notify_webhook]``."""

    url: str
    """Where notices are posted to: ``https://…``."""
    secret_setting: str
    """Name of the environment variable that holds the secret: ``whsec_`` and 24 to 64 random bytes in base64."""
    timeout_s: float = Field(10, gt=0, le=20)
    """Longest wait for an answer."""

    @field_validator("url")
    @classmethod
    def _url_is_https(cls, url: str) -> str:
        parts = urlsplit(url)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        if not is_safe or not parts.hostname or parts.username or parts.fragment:
            raise ValueError("must be a URL such as https://host/path")
        return url

    def secret(self) -> bytes:
        """Return the secret.

        Raises:
            StartupError: The environment variable is not set, or is of another form.
        """
        text = os.environ.get(self.secret_setting, "").strip()
        try:
            secret = base64.b64decode(text.removeprefix(PREFIX), validate=True) if text.startswith(PREFIX) else b""
        except ValueError:
            secret = b""
        if len(secret) < MIN_SECRET:
            raise StartupError(
                f"plugin 'notify_webhook': the app setting {self.secret_setting} must be {PREFIX} and the base64 of {MIN_SECRET} "
                "random bytes or more"
            )
        return secret


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def startup(config: Config) -> None:
    config.secret()


@hookimpl
async def notify(notice: Notice, config: Config) -> None:
    # Slow to import, and needed for a notice only.
    import aiohttp

    body = json.dumps(notice.document, separators=(",", ":")).encode()
    timestamp = str(int(datetime.now(UTC).timestamp()))
    headers = {
        "content-type": "application/json",
        "webhook-id": notice.id,
        "webhook-timestamp": timestamp,
        "webhook-signature": signature(config.secret(), notice.id, timestamp, body),
    }
    timeout = aiohttp.ClientTimeout(total=config.timeout_s)
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=True) as session,
        session.post(config.url, data=body, headers=headers, allow_redirects=False) as response,
    ):
        if response.status // 100 != 2:
            raise ApiError(f"the webhook answered {response.status}")


def signature(secret: bytes, id: str, timestamp: str, body: bytes) -> str:
    """Return the header ``webhook-signature``."""
    signed = hmac.digest(secret, f"{id}.{timestamp}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(signed).decode()}"
