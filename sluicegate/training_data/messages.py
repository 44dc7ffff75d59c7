"""A conversation: roles and their order, contents, weights, calls and their results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sluicegate.training_data.findings import Path, Say
from sluicegate.training_data.tools import NAME, Functions, check_called, check_fields

_CONTENT = frozenset({"role", "content", "name"})
_FIELDS: Mapping[str, frozenset[str]] = {
    "system": _CONTENT,
    "developer": _CONTENT,
    "user": _CONTENT,
    "assistant": _CONTENT | {"weight", "tool_calls", "function_call", "refusal"},
    "tool": _CONTENT | {"tool_call_id"},
    "function": _CONTENT,
}
_USUAL = frozenset(
    {
        (None, "system"),
        (None, "developer"),
        (None, "user"),
        ("system", "user"),
        ("developer", "user"),
        ("user", "assistant"),
        ("assistant", "user"),
    }
)
"""The role before and the role: an order with nothing to report."""
_OUTPUT_ROLES = frozenset({"assistant", "tool"})
_PART_FIELDS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"type", "text"}),
    "image_url": frozenset({"type", "image_url"}),
}
_CALL = frozenset({"id", "type", "function"})
_IMAGE = frozenset({"url", "detail"})

_LONG = 80
"""Characters of an answer from which on a missing end is worth a word: short ones are often labels or names."""
_TAIL = 2048
"""Characters from the end that are looked at for it."""
_WITHIN = ",;:([{-_"
"""What a sentence does not end with; nor does it with a letter or a digit."""
_ITEM = re.compile(r"\s*(?:[-*+#|>•]|\d+[.)])")
"""How a line begins that need not end as a sentence does: an item, a heading, a table's row."""
_ADDRESS = frozenset("/@=_.\\")
"""In a last word, the sign of an address or a name from a program."""


class Conversation:
    """Checks one list of messages and collects its text.

    Attributes:
        texts: Role, text, role, text … in order, calls and names among them: what makes this example that example.
        last_answer: The text of the last message, if it is the assistant's and has one.
        length: How many messages there are.
    """

    def __init__(self, functions: Functions, say: Say, *, is_output: bool = False) -> None:
        self.texts: list[str] = []
        self.last_answer: str | None = None
        self.length = 0
        self._functions = functions
        self._say = say
        self._calls: dict[str, Path] = {}
        self._open: dict[str, Path] = {}
        self._is_output = is_output
        self._before: str | None = None
        self._is_asked = is_output
        self._function_called = False
        self._answers = self._ignored = 0

    def check(self, messages: Any, path: Path) -> None:
        """Check whatever the field at ``path`` holds."""
        if not isinstance(messages, list):
            self._say("field_missing" if messages is None else "type_wrong", path)
            return
        if not messages:
            self._say("list_empty", path)
        self.length += len(messages)
        for place, message in enumerate(messages):
            if self._takes_usual(message):
                continue
            if not isinstance(message, dict):
                self._say("type_wrong", (*path, place))
                continue
            self._message(message, (*path, place))

    def must_end_with_answer(self, path: Path) -> None:
        """Report a conversation from which there is nothing to learn."""
        if not self.length:
            return
        if not self._answers:
            self._say("no_answer", path)
        elif self._before != "assistant":
            self._say("ends_without_answer", path)
        elif self._ignored == self._answers:
            self._say("weights_zero", path)

    def must_not_end_with_answer(self, path: Path) -> None:
        """Report a preference's input that ends with an answer."""
        if self._before == "assistant" and not self._open and not self._function_called:
            self._say("input_ends_with_answer", path)

    @property
    def has_answer(self) -> bool:
        """Whether any message is the assistant's."""
        return self._answers > 0

    def _takes_usual(self, message: Any) -> bool:
        """Take a message with nothing to report, which most are; ``_message`` would do the same in twice the time."""
        if not (isinstance(message, dict) and len(message) == 2) or self._open or self._is_output:
            return False
        role, content = message.get("role"), message.get("content")
        if not (isinstance(role, str) and isinstance(content, str)) or (self._before, role) not in _USUAL:
            return False
        if not content or content.isspace() or (role == "assistant" and is_cut_off(content)):
            return False
        self.texts += (role, content)
        self._before, self.last_answer = role, None
        if role == "assistant":
            self._answers += 1
            self._function_called = False
            self.last_answer = content
        elif role == "user":
            self._is_asked = True
        return True

    # --- one message -------------------------------------------------------------------------------------------------

    def _message(self, message: dict[str, Any], path: Path) -> None:
        role = message.get("role")
        if not isinstance(role, str) or role not in _FIELDS:
            self._say("field_missing" if role is None else "role_unknown", (*path, "role"))
            self._before, self.last_answer = None, None
            return
        if self._is_output and role not in _OUTPUT_ROLES:
            self._say("role_misplaced", (*path, "role"))
        self._order(role, path)
        self.texts.append(role)
        content = message.get("content")
        has_more = len(message) > 2 or "content" not in message
        if has_more:
            self._further_fields(message, role, path)
        text = content if isinstance(content, str) else self._content(content, message, role, path)
        self.texts.append(text or "")
        if role == "assistant":
            self._answer(message, text, path, has_more=has_more)
        else:
            self.last_answer = None
            if role == "tool":
                self._result(message, path)
            elif role == "function":
                self._function_result(message, path)
            elif text is not None and not text.strip():
                self._say("content_empty", (*path, "content"))
        self._before = role

    def _order(self, role: str, path: Path) -> None:
        before = self._before
        if role in ("system", "developer"):
            if before not in (None, "system", "developer"):
                self._say("role_order", (*path, "role"))
        elif role == before and role in ("user", "assistant"):
            self._say("role_repeated", (*path, "role"))
        elif role == "assistant" and not self._is_asked:
            self._say("starts_with_answer", (*path, "role"))
        self._is_asked = self._is_asked or role not in ("system", "developer")
        if role != "tool" and self._open:
            for call in self._open.values():
                self._say("call_unanswered", call)
            self._open = {}

    def _further_fields(self, message: dict[str, Any], role: str, path: Path) -> None:
        known = _FIELDS[role]
        if not known.issuperset(message):
            if "weight" in message and role != "assistant":
                self._say("weight_misplaced", (*path, "weight"))
                known = known | {"weight"}
            check_fields(message, known, path, self._say)
        name = message.get("name")
        if name is not None:
            if not isinstance(name, str):
                self._say("type_wrong", (*path, "name"))
            elif NAME.fullmatch(name) is None:
                self._say("name_invalid", (*path, "name"))
            else:
                self.texts.append(name)

    def _content(self, content: Any, message: dict[str, Any], role: str, path: Path) -> str | None:
        """Check contents that are no string, and return their text; None where there is none."""
        at = (*path, "content")
        if content is None:
            has_other = any(message.get(key) for key in ("tool_calls", "function_call", "refusal"))
            if role != "assistant" or not has_other:
                self._say("field_missing", at)
            return None
        if not isinstance(content, list):
            self._say("type_wrong", at)
            return None
        if not content:
            self._say("list_empty", at)
            return None
        return "\n".join(self._part(part, role, (*at, place)) for place, part in enumerate(content))

    def _part(self, part: Any, role: str, path: Path) -> str:
        if not isinstance(part, dict):
            self._say("type_wrong", path)
            return ""
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in _PART_FIELDS:
            self._say("field_missing" if kind is None else "part_unknown", (*path, "type"))
            return ""
        check_fields(part, _PART_FIELDS[kind], path, self._say)
        value = part.get(kind)
        at = (*path, kind)
        if kind == "text":
            if not isinstance(value, str):
                self._say("field_missing" if value is None else "type_wrong", at)
                return ""
            return value
        self._say("image" if role == "user" else "image_misplaced", path)
        if not isinstance(value, dict):
            self._say("field_missing" if value is None else "type_wrong", at)
            return ""
        check_fields(value, _IMAGE, at, self._say)
        url = value.get("url")
        if not isinstance(url, str):
            self._say("field_missing" if url is None else "type_wrong", (*at, "url"))
            return ""
        if value.get("detail") not in (None, "low", "high", "auto"):
            self._say("type_wrong", (*at, "detail"))
        return url

    # --- answers, calls and their results ----------------------------------------------------------------------------

    def _answer(self, message: dict[str, Any], text: str | None, path: Path, *, has_more: bool) -> None:
        self._answers += 1
        self._function_called = False
        called = False
        if has_more:
            self._weight(message, path)
            called = self._called(message, path)
            refusal = message.get("refusal")
            if isinstance(refusal, str):
                self.texts.append(refusal)
                called = called or bool(refusal.strip())
            elif refusal is not None:
                self._say("type_wrong", (*path, "refusal"))
        if text and not text.isspace():
            if is_cut_off(text):
                self._say("answer_truncated", (*path, "content"))
        elif not called and text is not None:
            self._say("answer_empty", (*path, "content"))
        self.last_answer = text if text and not called else None

    def _weight(self, message: dict[str, Any], path: Path) -> None:
        weight = message.get("weight")
        if weight is None:
            return
        if type(weight) is not int or weight not in (0, 1):
            self._say("weight_invalid", (*path, "weight"))
        elif weight == 0:
            self._ignored += 1

    def _called(self, message: dict[str, Any], path: Path) -> bool:
        calls, function = message.get("tool_calls"), message.get("function_call")
        at = (*path, "tool_calls")
        if calls is not None and not isinstance(calls, list):
            self._say("type_wrong", at)
        elif calls is not None and not calls:
            self._say("list_empty", at)
        elif calls:
            for place, call in enumerate(calls):
                self._call(call, (*at, place))
        if function is not None:
            check_called(function, (*path, "function_call"), self._functions, self._say)
            self._collect(function)
            self._function_called = True
        return bool(calls) or function is not None

    def _call(self, call: Any, path: Path) -> None:
        if not isinstance(call, dict):
            self._say("type_wrong", path)
            return
        check_fields(call, _CALL, path, self._say)
        if call.get("type") != "function":
            self._say("tool_type" if "type" in call else "field_missing", (*path, "type"))
        check_called(call.get("function"), (*path, "function"), self._functions, self._say)
        self._collect(call.get("function"))
        id = call.get("id")
        if not isinstance(id, str):
            self._say("field_missing" if id is None else "type_wrong", (*path, "id"))
        elif id in self._calls:
            self._say("call_id_repeated", (*path, "id"))
        else:
            self._calls[id] = self._open[id] = path

    def _collect(self, called: Any) -> None:
        if isinstance(called, dict):
            self.texts.extend(value for key in ("name", "arguments") if isinstance(value := called.get(key), str))

    def _result(self, message: dict[str, Any], path: Path) -> None:
        id = message.get("tool_call_id")
        at = (*path, "tool_call_id")
        if not isinstance(id, str):
            self._say("field_missing" if id is None else "type_wrong", at)
        elif self._open.pop(id, None) is None:
            self._say("call_id_dangling", at)

    def _function_result(self, message: dict[str, Any], path: Path) -> None:
        if message.get("name") is None:
            self._say("field_missing", (*path, "name"))
        if not self._function_called:
            self._say("result_without_call", path)
        self._function_called = False


def is_cut_off(text: str) -> bool:
    """Return whether a text seems to stop where its author did not: a guess, from how it ends."""
    if text.count("```") % 2:
        return True
    end = text[-_TAIL:].rstrip()
    if len(text) < _LONG or not end or not end[-1].isascii() or not (end[-1].isalnum() or end[-1] in _WITHIN):
        return False
    last_line = end[end.rfind("\n") + 1 :]
    return _ITEM.match(last_line) is None and _ADDRESS.isdisjoint(last_line.split()[-1][:-1])
