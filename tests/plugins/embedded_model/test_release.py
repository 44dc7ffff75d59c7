"""Stop strings, whatever the pieces of the text are."""

from hypothesis import given
from hypothesis import strategies as st

from plugins.embedded_model.release import Release, Unit

TEXTS = st.text("ab<", max_size=30)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, start = [], 0
    for size in [*sizes, len(text)]:
        pieces.append(text[start : start + size])
        start += size
    return pieces


def before_stop(text: str, stops: list[str]) -> str:
    """Return what precedes the stop string that was complete first."""
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(ends, default=(0, len(text)))[1]]


@given(TEXTS, st.lists(st.integers(0, 5), max_size=12), st.lists(st.text("ab<", min_size=1, max_size=5), max_size=4))
def test_exactly_what_precedes_the_first_stop_string_goes(text, sizes, stops):
    release = Release(stops)
    sent = ""
    for piece in cut(text, sizes):
        sent += "".join(unit.text for unit in release.feed(Unit(piece)))
        if release.matched:
            break
    if not release.matched:
        sent += "".join(unit.text for unit in release.rest())

    assert sent == before_stop(text, stops)
    assert (release.matched is None) == (sent == text)


@given(TEXTS, st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_without_stop_strings_nothing_is_held_back(text, sizes):
    release = Release([""])

    for piece in cut(text, sizes):
        assert [unit.text for unit in release.feed(Unit(piece))] == [piece]


def test_text_is_held_back_only_while_it_may_become_a_stop_string():
    release = Release(["END"])

    assert [[unit.text for unit in release.feed(Unit(text))] for text in ("a", "bE", "N", "d", "E")] == [
        ["a"],
        [],
        [],
        ["bE", "N", "d"],
        [],
    ]
    assert [unit.text for unit in release.rest()] == ["E"]


def test_numbers_go_with_their_text_and_not_with_a_part_of_it():
    release = Release(["stop"])
    units = [Unit("a", ({"id": 1},)), Unit("bst", ({"id": 2},)), Unit("op", ({"id": 3},))]

    going = [unit for piece in units for unit in release.feed(piece)]

    assert going == [units[0], Unit("b")]
