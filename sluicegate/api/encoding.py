"""Python values as JSON bytes, whatever they hold."""

from __future__ import annotations

import json

from pydantic_core import PydanticSerializationError, to_json


def encode(value: object) -> bytes:
    """Return ``value`` as JSON in UTF-8; a number that JSON does not know is ``null``."""
    try:
        return to_json(value, inf_nan_mode="null")
    except PydanticSerializationError:
        # Half of a surrogate pair has no UTF-8, but JSON has escapes; and a mapping need not be a dict.
        return json.dumps(value, default=dict).encode()
