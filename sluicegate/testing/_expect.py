"""Assertions with a sentence, which hold under ``python -O`` too."""

from __future__ import annotations

from collections.abc import Awaitable


def expect_equal(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"{what}: expected {_short(expected)}, found {_short(found)}")


async def expect_raises(what: str, expected: type[Exception], step: Awaitable[object]) -> None:
    try:
        returned = await step
    except expected:
        return
    except Exception as error:
        raise AssertionError(f"{what}: expected {expected.__name__}, found {type(error).__name__}") from error
    raise AssertionError(f"{what}: expected {expected.__name__}, found {_short(returned)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}…"
