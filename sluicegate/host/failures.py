"""What is logged of a failure: classes and frames, never messages, which may quote a prompt."""

from __future__ import annotations

import traceback


def describe(error: BaseException) -> str:
    """Return an exception's class, its frames (innermost last), and the same for what caused it, on several lines."""
    lines = [type(error).__qualname__]
    lines += [
        f"  {frame.filename}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__, limit=-20)
    ]
    if isinstance(error, BaseExceptionGroup):
        lines += ["containing " + describe(each) for each in error.exceptions]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        lines.append("caused by " + describe(cause))
    return "\n".join(lines)
