"""Sends notices by e-mail to each account's contacts, through an SMTP server that speaks STARTTLS or TLS.

Nothing is sent, and no password said, over a connection that is not encrypted and whose certificate is not the server's. A notice holds
no content. Its ``Message-ID`` is the same however often it is sent.
"""

from __future__ import annotations

import asyncio
import os
import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from sluicegate import PluginConfig, hookimpl
from sluicegate.abuse import Notice
from sluicegate.errors import ApiError, StartupError


class Config(PluginConfig):
    """The table ``[plugins.notify_email]``."""

    host: str = Field(min_length=1)
    """The SMTP server."""
    port: int = Field(587, ge=1, le=65535)
    """587 for STARTTLS, 465 for TLS from the start."""
    security: Literal["starttls", "tls"] = "starttls"
    """How the connection is encrypted."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    sender: str = Field(min_length=3)
    """The address in ``From``."""
    contacts: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Whom to write to, by account."""
    default_contacts: tuple[str, ...] = Field(min_length=1)
    """Whom to write to about other accounts: whoever then tells the customer."""
    username: str | None = None
    """To log in with; without it nobody logs in."""
    password_setting: str | None = None
    """Name of the environment variable that holds the password."""
    timeout_s: float = Field(15, gt=0, le=20)
    """Longest wait for the server."""

    @field_validator("sender")
    @classmethod
    def _one_line(cls, address: str) -> str:
        if "@" not in address or any(character in address for character in "\r\n"):
            raise ValueError("must be an e-mail address")
        return address

    def password(self) -> str:
        """Return the password.

        Raises:
            StartupError: The environment variable is not set.
        """
        if not (password := os.environ.get(self.password_setting or "", "").strip()):
            raise StartupError(f"plugin 'notify_email': the app setting {self.password_setting} is not set")
        return password


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def startup(config: Config) -> None:
    if config.username is not None:
        config.password()


@hookimpl
async def notify(notice: Notice, config: Config) -> None:
    try:
        await asyncio.to_thread(_send, message(notice, config), config)
    except (OSError, smtplib.SMTPException) as error:
        # What a server answers may quote an address.
        raise ApiError(f"the mail server did not take the notice ({type(error).__name__})") from None


def message(notice: Notice, config: Config) -> EmailMessage:
    """Return a notice as a message."""
    mail = EmailMessage()
    mail["From"] = config.sender
    mail["To"] = ", ".join(config.contacts.get(notice.account, config.default_contacts))
    mail["Subject"] = f"[{notice.account}] {notice.kind}: case {notice.case}"
    mail["Date"] = format_datetime(notice.at)
    mail["Message-ID"] = f"<{notice.id}@{config.sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(f"{notice.text}\n\nNotice {notice.id} for the resource {notice.account}.\n")
    return mail


def _send(mail: EmailMessage, config: Config) -> None:
    context = ssl.create_default_context(cafile=None if config.ca_file is None else str(config.ca_file))
    if config.security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(config.host, config.port, timeout=config.timeout_s, context=context)
    else:
        server = smtplib.SMTP(config.host, config.port, timeout=config.timeout_s)
    with server:
        if config.security == "starttls":
            # It raises where the server offers no TLS.
            server.starttls(context=context)
        if config.username is not None:
            server.login(config.username, config.password())
        server.send_message(mail)
