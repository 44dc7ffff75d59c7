"""Put the runtime's log-probabilities into OpenAI's two forms.

They are the model's own, before temperature, penalties, biases and grammars. A character that takes several tokens is one
entry, with the number of the last of them: the runtime reports no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plugins.embedded_model.release import Unit
from plugins.embedded_model.tokenizer import Tokenizer


def for_chat(units: Sequence[Unit], tokenizer: Tokenizer, top: int) -> dict[str, Any]:
    """Return ``{"content": [...], "refusal": None}``.

    Args:
        top: Alternatives for each token, 0 to 20.
    """
    content = [
        {**_chat_token(entry, tokenizer), "top_logprobs": [_chat_token(other, tokenizer) for other in _top(entry, top)]}
        for unit in units
        for entry in unit.logprobs
    ]
    return {"content": content, "refusal": None}


def for_completions(units: Sequence[Unit], tokenizer: Tokenizer, top: int, offset: int) -> dict[str, Any]:
    """Return the four parallel lists of the older form.

    Args:
        top: Alternatives for each token, 0 to 5; the token itself is always there.
        offset: Characters of prompt and completion before these units.
    """
    lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for unit in units:
        for entry in unit.logprobs:
            others = {_legacy_text(other, tokenizer): other["logprob"] for other in _top(entry, top)}
            lists["tokens"].append(_legacy_text(entry, tokenizer))
            lists["token_logprobs"].append(entry["logprob"])
            lists["top_logprobs"].append({_legacy_text(entry, tokenizer): entry["logprob"], **others})
            lists["text_offset"].append(offset)
        offset += len(unit.text)
    return lists


def _top(entry: Mapping[str, Any], top: int) -> Sequence[Mapping[str, Any]]:
    alternatives: Sequence[Mapping[str, Any]] = entry["top_logprobs"]
    return alternatives[:top]


def _chat_token(entry: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    data = _bytes(entry, tokenizer)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "".join(f"\\x{byte:02x}" for byte in data)
    return {"token": text, "logprob": entry["logprob"], "bytes": list(data)}


def _legacy_text(entry: Mapping[str, Any], tokenizer: Tokenizer) -> str:
    data = _bytes(entry, tokenizer)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _bytes(entry: Mapping[str, Any], tokenizer: Tokenizer) -> bytes:
    """Return the entry's bytes: the token's own, or for a character of several tokens all of the character's."""
    own, reported = tokenizer.piece(entry["id"]), bytes(entry["bytes"])
    return reported if len(reported) > len(own) else own
