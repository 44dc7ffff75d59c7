import pytest

from sluicegate.errors import StartupError
from sluicegate.host.routes import parse_route, routing_path

GUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize(
    ("template", "path", "parameters"),
    [
        ("health", "/api/health", {}),
        ("health", "/API/Health/", {}),
        ("health", "/health", None),
        ("health", "/api/health/x", None),
        ("health", "/api//health", None),
        ("a.b", "/api/axb", None),
        ("files/{id}", "/api/files/f-1", {"id": "f-1"}),
        ("files/{id}", "/api/files/CaSe", {"id": "CaSe"}),
        ("files/{id}", "/api/files/", None),
        ("files/{id}", "/api/files/a/b", None),
        ("files/{id?}", "/api/files", {}),
        ("files/{id?}", "/api/files/1", {"id": "1"}),
        ("files/{id=all}", "/api/files", {"id": "all"}),
        ("files/{id=all}/{part?}", "/api/files/1/2", {"id": "1", "part": "2"}),
        ("files/{id:int}", "/api/files/-12", {"id": "-12"}),
        ("files/{id:int}", "/api/files/2147483648", None),
        ("files/{id:long}", "/api/files/2147483648", {"id": "2147483648"}),
        ("files/{id:int}", "/api/files/x1", None),
        ("files/{id:int?}", "/api/files", {}),
        ("files/{id:guid}", f"/api/files/{GUID}", {"id": GUID}),
        ("files/{id:guid}", "/api/files/1", None),
        ("files/{on:bool}", "/api/files/True", {"on": "True"}),
        ("files/{on:bool}", "/api/files/1", None),
        ("files/{x:alpha:length(2,3)}", "/api/files/abc", {"x": "abc"}),
        ("files/{x:alpha:length(2,3)}", "/api/files/abcd", None),
        ("files/{x:length(2)}", "/api/files/ab", {"x": "ab"}),
        ("files/{x:minlength(2)}", "/api/files/a", None),
        ("files/{x:maxlength(2)}", "/api/files/abc", None),
        ("files/{x:range(1,9)}", "/api/files/9", {"x": "9"}),
        ("files/{x:range(1,9)}", "/api/files/10", None),
        ("files/{x:min(3)}", "/api/files/2", None),
        ("files/{x:max(3)}", "/api/files/3", {"x": "3"}),
        ("v{major}.{minor}", "/api/v1.2", {"major": "1", "minor": "2"}),
        ("{name}:generate", "/api/m:generate", {"name": "m"}),
        ("rest/{*path}", "/api/rest/a/b", {"path": "a/b"}),
        ("rest/{**path}", "/api/rest/a", {"path": "a"}),
        ("rest/{*path}", "/api/rest", {}),
        ("rest/{*path}", "/api/restless", None),
    ],
)
def test_a_template_matches_as_in_asp_net(template, path, parameters):
    route = parse_route(template, prefix="api")

    assert route.match("GET", path) == parameters


@pytest.mark.parametrize(("prefix", "path"), [("", "/health"), ("api/v2", "/api/v2/health"), ("/api/", "/api/health")])
def test_the_prefix_may_be_empty_or_have_several_segments(prefix, path):
    assert parse_route("/health", prefix=prefix).match("GET", path) == {}


def test_a_wrong_method_is_no_match():
    route = parse_route("health", methods=["get", "POST"])

    assert route.match("GET", "/health") == {}
    assert route.match("DELETE", "/health") is None


def test_without_methods_every_method_matches():
    assert parse_route("health").match("PATCH", "/health") == {}


@pytest.mark.parametrize(
    "template",
    [
        "files/{id",
        "files/{id:regex(^a$)}",
        "files/{id:length(x)}",
        "files/{id:length}",
        "files/{id}/{id}",
        "files/{id?}/content",
        "files/{*rest}/content",
        "files/a{id?}",
        "files/{1d}",
    ],
)
def test_a_template_that_cannot_be_kept_is_refused_by_name(template):
    with pytest.raises(StartupError, match="route 'files/"):
        parse_route(template)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/a%20b/%C3%A4", "/a b/ä"),
        (b"/a%2Fb", "/a%2Fb"),
        (b"/a%2fb", "/a%2fb"),
        (b"/a%252Fb", "/a%2Fb"),
        (b"/%ff", "/\ufffd"),
    ],
)
def test_an_escaped_slash_does_not_split_a_segment(raw, path):
    assert routing_path(raw) == path
