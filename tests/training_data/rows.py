"""Rows that are right, to be broken by tests."""

from __future__ import annotations

import json
from typing import Any

SYSTEM = {"role": "system", "content": "You are the night porter of a small hotel."}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
FUNCTION = WEATHER["function"]


def user(content: Any = "When is breakfast?", **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def answer(content: Any = "From seven to ten.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(id: str = "call_1", name: str = "get_weather", arguments: str = '{"place": "Bern"}') -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(made)}


def result(id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": "Rain."}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def preference(**more: Any) -> dict[str, Any]:
    return {
        "input": {"messages": [user()]},
        "preferred_output": [answer("At seven, downstairs.")],
        "non_preferred_output": [answer("Whenever.")],
        **more,
    }


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def good(count: int = 12) -> bytes:
    """Return so many chats that have nothing to report."""
    return lines(*(chat(SYSTEM, user(f"Who is in room {each}?"), answer(f"Guest {each}.")) for each in range(count)))
