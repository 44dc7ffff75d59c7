"""Function tools for a model that was never taught any.

The functions are described in the system message. A call is not asked for but built: its opening is put into the prompt, and
the runtime is held to a grammar for what is left open, the name and then the arguments. So a forced call is valid
JSON of the function's schema every time. With ``tool_choice: "auto"`` the model writes freely, and when it writes the opening
itself, the rest is built in the same way. It makes one call an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluicegate import ChatRequest, InvalidRequest
from sluicegate.requests import AllowedToolsChoice, Function, NamedTool

CALL_MARK = "<tool_call>"
NAME_OPENING = f'{CALL_MARK}\n{{"name": '
"""The text of a call up to its name."""
NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
ANY_ARGUMENTS: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Tools:
    """What the model may call.

    Attributes:
        forced: The answer must be a call.
    """

    functions: tuple[Function, ...] = ()
    forced: bool = False

    def instructions(self) -> str:
        """Return what the system message says of them."""
        listed = "\n".join(
            json.dumps(function.model_dump(exclude_none=True, exclude={"strict"}), ensure_ascii=False)
            for function in self.functions
        )
        return (
            f"You may call one of these functions. To call one, reply only with {CALL_MARK}\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n'
            f"</tool_call>\n<tools>\n{listed}\n</tools>"
        )


def offered(request: ChatRequest) -> Tools:
    """Return the functions that this request's ``tools`` and ``tool_choice`` leave to the model.

    Raises:
        InvalidRequest: ``allowed_tools`` names a function that is not among the tools.
    """
    functions = {tool.function.name: tool.function for tool in request.tools or () if tool.type == "function"}
    choice = request.tool_choice or "auto"
    if choice == "none" or not functions:
        return Tools()
    if isinstance(choice, NamedTool):
        return Tools((functions[choice.function.name],), forced=True)
    if isinstance(choice, AllowedToolsChoice):
        names = [str(tool.get("function", {}).get("name")) for tool in choice.allowed_tools.tools]
        if unknown := [name for name in names if name not in functions]:
            raise InvalidRequest(f"The function {unknown[0]!r} is not among 'tools'.", param="tool_choice")
        return Tools(tuple(functions[name] for name in names), forced=choice.allowed_tools.mode == "required")
    return Tools(tuple(functions.values()), forced=choice == "required")


def arguments_opening(name: str) -> str:
    """Return the text of a call up to its arguments."""
    return f'{NAME_OPENING}{json.dumps(name)}, "arguments": '


def call_text(name: str, arguments: str) -> str:
    """Return a whole call, as the model would have written it."""
    return f"{arguments_opening(name)}{arguments}}}\n</tool_call>"
