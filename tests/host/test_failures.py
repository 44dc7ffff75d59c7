import pytest

from sluicegate.host.failures import describe

CANARY = "canary-71c0"


def raise_value_error():
    raise ValueError(CANARY)


def test_an_exception_is_named_with_its_frames_and_not_its_message():
    with pytest.raises(ValueError, match=CANARY) as caught:
        raise_value_error()

    text = describe(caught.value)

    assert text.startswith("ValueError\n")
    assert text.endswith("in raise_value_error")
    assert CANARY not in text


def test_causes_and_groups_are_named_too():
    try:
        try:
            raise_value_error()
        except ValueError as error:
            raise ExceptionGroup(CANARY, [KeyError(CANARY), error]) from error
    except ExceptionGroup as group:
        text = describe(group)

    assert "containing KeyError" in text
    assert "caused by ValueError" in text
    assert CANARY not in text
