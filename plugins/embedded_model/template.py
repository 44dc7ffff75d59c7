"""Build ChatML prompts out of token ids, so that no text can pretend to be somebody else.

A turn is ``<|im_start|>role\\ntext<|im_end|>\\n``. The two marks are put in as ids; everything between them, whoever wrote
it, is encoded as plain text, so a message that spells the marks out still is one message of its own role. Developer
messages are system messages; a tool's result has the role ``tool``. The model answers nonsense without a system
message, so there always is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from plugins.embedded_model.tokenizer import Tokenizer
from plugins.embedded_model.tools import call_text
from sluicegate import ChatRequest
from sluicegate.requests import AssistantMessage, DeveloperMessage, Message, SystemMessage

_NEUTRAL = "You are a helpful assistant."


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a prompt.

    Attributes:
        speaker: The role, and the name if the message has one.
    """

    speaker: str
    text: str


def turns(request: ChatRequest, instructions: Iterable[str] = ()) -> list[Turn]:
    """Return the conversation of a request, with ``instructions`` added to its first system message."""
    return conversation(request.messages, instructions)


def conversation(messages: Sequence[Message], instructions: Iterable[str] = ()) -> list[Turn]:
    """Return messages as turns, a system message first."""
    spoken = [_turn(message) for message in messages]
    if not isinstance(messages[0], SystemMessage | DeveloperMessage):
        spoken.insert(0, Turn("system", _NEUTRAL))
    first = spoken[0]
    return [Turn(first.speaker, "\n\n".join([first.text, *instructions])), *spoken[1:]]


def chat_prompt(spoken: Iterable[Turn], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a conversation, ready for the assistant to go on."""
    start, end = tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]
    ids: list[int] = []
    for turn in spoken:
        ids += [start, *tokenizer.encode(f"{turn.speaker}\n{turn.text}"), end, *tokenizer.encode("\n")]
    return [*ids, start, *tokenizer.encode("assistant\n")]


def _turn(message: Message) -> Turn:
    role = "system" if isinstance(message, DeveloperMessage) else message.role
    name = getattr(message, "name", None)
    return Turn(f"{role} name={name}" if name else role, "\n".join(_texts(message)))


def _texts(message: Message) -> Iterator[str]:
    if message.content is not None:
        yield _joined(message.content)
    if isinstance(message, AssistantMessage):
        if message.refusal is not None:
            yield message.refusal
        for call in message.tool_calls or ():
            if call.type == "function":
                yield call_text(call.function.name, call.function.arguments)


def _joined(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text if part.type == "text" else part.refusal for part in content)
