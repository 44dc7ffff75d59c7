"""Notices: kept for the customer, delivered until that has worked, and given up in the end; by webhook and by e-mail."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from plugins import notify_email, notify_webhook
from sluicegate.abuse import Notice
from sluicegate.errors import ApiError, StartupError
from sluicegate.monitoring.notices import FIRST_WAIT, LONGEST_WAIT, MOST_TRIES, Notices
from sluicegate.testing import FrozenClock, MemoryStorage
from tests.inside import Tenant
from tests.monitoring.customers import NOON, World
from tests.plugins.loopback import served

SECRET = b"a secret of some twenty-four bytes"
NOTICE = Notice(
    "case-1-0", "contoso", NOON, "violation.confirmed", "case-1", "violence", None, NOON, "Say what you have done."
)


class Post:
    """What delivers notices, and fails while it is told to."""

    def __init__(self):
        self.blobs, self.clock = MemoryStorage(), FrozenClock(NOON)
        self.is_down = False
        self.delivered: list[tuple[str, str]] = []
        self.given_up: list[tuple[str, str]] = []

    def process(self, *plugins):
        return Notices(self.blobs, plugins, self.deliver, self.give_up, self.clock)

    async def deliver(self, plugin, notice):
        if self.is_down and plugin == "webhook":
            raise ApiError("down")
        self.delivered.append((plugin, notice.id))

    def give_up(self, plugin, notice):
        self.given_up.append((plugin, notice.id))


@pytest.fixture
def post():
    return Post()


async def test_a_notice_is_delivered_by_each_plugin_once(post):
    notices = post.process("webhook", "email")
    await notices.send(NOTICE)
    await notices.send(NOTICE)

    for _ in range(2):
        await notices.deliver()

    assert post.delivered == [("webhook", "case-1-0"), ("email", "case-1-0")]


async def test_a_delivery_that_failed_is_tried_again_later_and_later_by_whichever_process(post):
    await post.process("webhook", "email").send(NOTICE)
    post.is_down = True
    await post.process("webhook", "email").deliver()
    post.is_down = False

    await post.process("webhook", "email").deliver()
    at_once = list(post.delivered)
    post.clock.advance(FIRST_WAIT)
    await post.process("webhook", "email").deliver()

    assert at_once == [("email", "case-1-0")]
    assert post.delivered == [("email", "case-1-0"), ("webhook", "case-1-0")]


async def test_a_delivery_is_given_up_and_the_operator_is_told(post):
    notices = post.process("webhook")
    await notices.send(NOTICE)
    post.is_down = True

    for _ in range(MOST_TRIES):
        await notices.deliver()
        post.clock.advance(LONGEST_WAIT)
    post.is_down = False
    await notices.deliver()

    assert (post.delivered, post.given_up) == ([], [("webhook", "case-1-0")])
    assert [told.deliveries for told in await notices.of_account("contoso")] == [{"webhook": "given_up"}]


async def test_the_customer_reads_their_own_delivered_or_not(tmp_path):
    world = World(tmp_path)
    app = world.open()
    contoso, fabrikam = [await Tenant.create(app, name, "local") for name in ("contoso", "fabrikam")]
    for number in range(3):
        at = NOON + timedelta(hours=number)
        await app.monitoring["local"].notices.send(
            Notice(f"n{number}", "contoso", at, "k", "case-1", "hate", None, None, "text")
        )

    first = (await contoso.caller.get("/governance/notices", params={"limit": 2})).json()
    rest = (await contoso.caller.get("/governance/notices", params={"after": first["last_id"]})).json()

    assert [each["id"] for each in [*first["data"], *rest["data"]]] == ["n2", "n1", "n0"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert (await fabrikam.caller.get("/governance/notices")).json()["data"] == []
    await world.close()


# --- the webhook -----------------------------------------------------------------------------------------------------


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_" + base64.b64encode(SECRET).decode())


def webhook(url):
    return notify_webhook.Config(url=url, secret_setting="WEBHOOK_SECRET")


async def test_a_webhook_gets_the_notice_with_a_signature_that_its_receiver_can_check(secret):
    seen = []

    async def hook(request):
        seen.append((request.headers, await request.read()))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", hook)
    async with served(app) as url:
        await notify_webhook.notify(notice=NOTICE, config=webhook(f"{url}/hook"))

    [(headers, body)] = seen
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    version, _, given = headers["webhook-signature"].partition(",")
    assert version == "v1"
    assert base64.b64decode(given) == hmac.digest(SECRET, signed, "sha256")
    assert abs(int(headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 300
    assert Notice.of(json.loads(body)) == NOTICE


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_a_webhook_that_does_not_take_it_has_not_got_it_and_is_not_followed_elsewhere(secret, status):
    asked = []

    async def hook(request):
        asked.append(request.path)
        return web.Response(status=status, headers={"location": "/elsewhere"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hook)
    async with served(app) as url:
        with pytest.raises(ApiError, match=str(status)):
            await notify_webhook.notify(notice=NOTICE, config=webhook(f"{url}/hook"))

    assert asked == ["/hook"]


@pytest.mark.parametrize(
    "url", ["http://example.com/hook", "ftp://example.com", "https://", "https://user@example.com/"]
)
def test_a_webhooks_url_is_encrypted_and_holds_no_login(url):
    with pytest.raises(ValidationError, match="https"):
        webhook(url)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "plain text", "whsec_!!!"])
async def test_without_a_secret_that_is_one_the_app_does_not_start(monkeypatch, text):
    monkeypatch.setenv("WEBHOOK_SECRET", text)

    with pytest.raises(StartupError, match="WEBHOOK_SECRET"):
        await notify_webhook.startup(config=webhook("https://example.com/hook"))


# --- e-mail ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of this machine, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("mail") / "certificate.pem"
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(encoded + made.public_bytes(serialization.Encoding.PEM))
    return path


class Mail:
    """An SMTP server on loopback, as far as a client that sends one message needs it."""

    def __init__(self, certificate, *, offers_tls=True):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.offers_tls = offers_tls
        self.said: list[tuple[bool, str]] = []
        self.message = b""

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        is_encrypted = False
        try:
            writer.write(b"220 mail\r\n")
            while line := (await reader.readline()).decode().strip():
                self.said.append((is_encrypted, line))
                verb = line.split()[0].upper()
                if verb == "EHLO":
                    writer.write(
                        b"250-mail\r\n250-AUTH PLAIN\r\n" + (b"250 STARTTLS\r\n" if self.offers_tls else b"250 OK\r\n")
                    )
                elif verb == "STARTTLS" and self.offers_tls:
                    writer.write(b"220 go\r\n")
                    await writer.start_tls(self.context)
                    is_encrypted = True
                elif verb == "AUTH":
                    writer.write(b"235 welcome\r\n")
                elif verb == "DATA":
                    writer.write(b"354 go\r\n")
                    self.message = await reader.readuntil(b"\r\n.\r\n")
                    writer.write(b"250 taken\r\n")
                elif verb == "QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                else:
                    writer.write(b"250 OK\r\n")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def config(self, **more):
        return notify_email.Config(
            host="127.0.0.1",
            port=self.port,
            sender="abuse@provider.example",
            contacts={"contoso": ["owner@contoso.example"]},
            default_contacts=["desk@provider.example"],
            username="provider",
            password_setting="MAIL_PASSWORD",
            **more,
        )


@pytest.fixture
def password(monkeypatch):
    monkeypatch.setenv("MAIL_PASSWORD", "open sesame")


async def test_an_e_mail_reaches_the_accounts_contact_over_an_encrypted_connection(certificate, password):
    async with Mail(certificate) as mail:
        await notify_email.notify(notice=NOTICE, config=mail.config(ca_file=certificate))

    plain = [line.split()[0].upper() for is_encrypted, line in mail.said if not is_encrypted]
    assert plain == ["EHLO", "STARTTLS"]
    assert (True, "rcpt to:<owner@contoso.example>") in [
        (is_encrypted, line.lower()) for is_encrypted, line in mail.said
    ]
    assert b"Say what you have done." in mail.message
    assert b"Message-ID: <case-1-0@provider.example>" in mail.message


async def test_other_accounts_notices_go_to_whoever_tells_them(certificate, password):
    async with Mail(certificate) as mail:
        message = notify_email.message(Notice.of({**NOTICE.document, "account": "other"}), mail.config())

    assert message["To"] == "desk@provider.example"


@pytest.mark.parametrize("offers_tls", [True, False])
async def test_nothing_is_said_to_a_server_that_does_not_prove_who_it_is(certificate, password, offers_tls):
    """It offers no encryption, or has a certificate that nobody trusts."""
    async with Mail(certificate, offers_tls=offers_tls) as mail:
        with pytest.raises(ApiError) as refused:
            await notify_email.notify(notice=NOTICE, config=mail.config())

    assert not any(line.split()[0].upper() in ("AUTH", "MAIL", "RCPT") for _, line in mail.said)
    assert "contoso" not in str(refused.value)
