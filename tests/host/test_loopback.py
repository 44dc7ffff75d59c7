import pytest

from sluicegate.host import is_loopback
from sluicegate.host.loopback import is_local_request


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.5", False),
        ("::ffff:192.168.1.5", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_only_this_machines_own_addresses_are_loopback(host, loopback):
    assert is_loopback(host) is loopback


def scope(*, client="127.0.0.1", server="127.0.0.1", **headers):
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return {
        "type": "http",
        "scheme": "http",
        "client": (client, 50000),
        "server": (server, 7071),
        "headers": list(named.items()),
    }


@pytest.mark.parametrize(
    "request_scope",
    [
        scope(host="localhost:7071"),
        scope(host="127.0.0.1:7071"),
        scope(host="[::1]:7071", client="::1", server="::1"),
        scope(host="localhost:7071", origin="http://localhost:7071"),
        scope(host="192.168.1.5:7071", client="192.168.1.5", server="192.168.1.5"),
    ],
)
def test_a_caller_on_this_machine_is_local(request_scope):
    assert is_local_request(request_scope)


@pytest.mark.parametrize(
    "request_scope",
    [
        pytest.param(scope(host="evil.example:7071"), id="a foreign name rebound to this machine"),
        pytest.param(scope(host="192.168.1.9:7071"), id="another address"),
        pytest.param(scope(), id="no host"),
        pytest.param(scope(host="[::1"), id="a host that is none"),
        pytest.param(scope(host="localhost:7071", origin="https://evil.example"), id="a foreign page"),
        pytest.param(scope(host="localhost:7071", origin="http://localhost:3000"), id="a page from another port"),
        pytest.param(scope(host="localhost:7071", origin="null"), id="a page without an origin"),
        pytest.param(scope(host="localhost:7071", client="192.168.1.9"), id="a peer on the network"),
        pytest.param(scope(host="localhost:7071", x_forwarded_for="10.0.0.1"), id="a proxy on this machine"),
        pytest.param({**scope(host="localhost:7071"), "client": None}, id="an unknown peer"),
    ],
)
def test_everybody_else_is_not(request_scope):
    assert not is_local_request(request_scope)
