import pytest

from sluicegate import InvalidRequest, NotFound
from sluicegate.api.versions import check


@pytest.mark.parametrize("name", ["2024-02-01", "2024-06-01", "2024-10-21", "2023-06-01-preview", "2025-04-01-preview"])
def test_classic_serves_dated_versions_with_annotations(name):
    version = check("classic", name)

    assert (version.name, version.annotations) == (name, True)


@pytest.mark.parametrize("name", ["2023-05-15", "2023-03-15-preview"])
def test_the_oldest_versions_have_no_annotations(name):
    assert not check("classic", name).annotations


@pytest.mark.parametrize("name", [None, "", "preview", "v1", "2031-01-01", "2024-10-21-preview", "2024-10-21 "])
def test_classic_finds_nothing_without_a_known_version(name):
    with pytest.raises(NotFound, match="Resource not found") as caught:
        check("classic", name)

    assert (caught.value.status, caught.value.code) == (404, "404")


@pytest.mark.parametrize("name", [None, "", "v1", "preview"])
def test_v1_needs_no_version(name):
    version = check("v1", name)

    assert (version.name, version.annotations) == (name or "v1", True)


@pytest.mark.parametrize("name", ["2024-10-21", "2025-04-01-preview", "v2", "latest"])
def test_v1_refuses_dated_versions(name):
    with pytest.raises(InvalidRequest, match="API version not supported"):
        check("v1", name)
