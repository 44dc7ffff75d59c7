"""Translate what a request says about sampling into the runtime's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plugins.embedded_model.tokenizer import Tokenizer
from sluicegate import InvalidRequest
from sluicegate.requests import GenerationRequest

_SEEDS = 2**32 - 1  # The runtime's seeds have 32 bits; the last one means "random".


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for a request that does not say."""

    temperature: float
    top_p: float
    max_tokens: int


def options(request: GenerationRequest, tokenizer: Tokenizer, defaults: Defaults, logprobs: int) -> dict[str, Any]:
    """Return the runtime's options but for ``seed`` and ``max_tokens``.

    Temperature comes before top-p, as OpenAI has it, and nothing else narrows the choice. Penalties look at the last 64
    tokens, which at the beginning of an answer are the prompt's.

    Args:
        logprobs: How many alternatives to report for each token; the token itself is always one of them.

    Raises:
        InvalidRequest: A token of ``logit_bias`` is not in the vocabulary.
    """
    for token in request.logit_bias or {}:
        if int(token) >= tokenizer.size:
            raise InvalidRequest(f"Invalid key in 'logit_bias': {token} is not a token.", param="logit_bias")
    return {
        "temperature": defaults.temperature if request.temperature is None else request.temperature,
        "top_p": defaults.top_p if request.top_p is None else request.top_p,
        "samplers": ["penalties", "temperature", "top_p"],
        "frequency_penalty": request.frequency_penalty or 0.0,
        "presence_penalty": request.presence_penalty or 0.0,
        "logit_bias": [[int(token), float(bias)] for token, bias in (request.logit_bias or {}).items()],
        "n_probs": logprobs,
    }


def seed(request: GenerationRequest, choice: int) -> dict[str, int]:
    """Return the option for the seed of one choice; choices differ, and repeat when the request is repeated."""
    return {} if request.seed is None else {"seed": (request.seed + choice) % _SEEDS}


def stops(request: GenerationRequest) -> tuple[str, ...]:
    """Return the stop strings."""
    return (request.stop,) if isinstance(request.stop, str) else request.stop or ()
