"""How many tokens an example has: counted by a model's tokenizer, or estimated from characters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

CountTokens: TypeAlias = Callable[[str], int]
"""Text -> how many tokens the model to train reads it as, at least 0; special tokens are not expected."""
PER_MESSAGE = 4
"""Tokens around a message: its role and its two marks, in ChatML."""


def estimate(text: str) -> int:
    """Return a token for each 4 characters, and one for each 2 bytes that UTF-8 needs beyond one a character.

    English has about 4 characters a token in current vocabularies, other languages fewer; small vocabularies, such as
    the embedded model's, need several tokens for one character of Chinese.
    """
    size = len(text)
    return -(-size // 4) + (0 if text.isascii() else (len(text.encode()) - size) // 2)
