"""Classify text for hate, sexual content, violence, self-harm and prompt attacks, offline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pydantic import Field, PrivateAttr

from plugins.content_filter import completions
from plugins.content_filter.classifier import HEADS, Classifier
from plugins.content_filter.pieces import LARGE_PIECE, pieces, worst
from plugins.content_filter.prompts import Prompts
from plugins.content_filter.review import reviewed
from sluicegate import Chunk, Classification, PluginConfig, Policy, TextSource, hookimpl
from sluicegate.abuse import FlaggedContent, ReviewVerdict
from sluicegate.requests import GenerationRequest, Request
from sluicegate.vetting import vet


class Config(PluginConfig):
    max_waiting_characters: int = Field(default=4_000_000, ge=1)
    """How many characters of prompts may wait to be read, in one process; a request beyond that is answered 503, and one
    that is longer by itself 400. A core reads a million characters in two to six seconds."""

    _classifier: Classifier | None = PrivateAttr(default=None)
    _prompts: Prompts | None = PrivateAttr(default=None)


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def startup(config: Config) -> None:
    config._classifier = await asyncio.to_thread(Classifier.load)
    config._prompts = Prompts(config._classifier, config.max_waiting_characters)


@hookimpl
async def pre_filter(request: Request, policy: Policy, config: Config) -> Request:
    if config._prompts is None:
        raise RuntimeError("startup has not run")
    return await config._prompts.filtered(request, policy)


@hookimpl
async def post_filter(
    chunks: AsyncIterator[Chunk], request: GenerationRequest, policy: Policy, config: Config
) -> AsyncIterator[Chunk]:
    if config._classifier is None:
        raise RuntimeError("startup has not run")
    detect = completions.detector(config._classifier, policy)
    if detect is None:
        async for chunk in chunks:
            yield chunk
        return
    async with vet(chunks, detect, request, policy, completions.WINDOWS) as vetted:
        async for chunk in vetted:
            yield chunk


@hookimpl
async def classify(text: str, source: TextSource, config: Config) -> Classification:
    if config._classifier is None:
        raise RuntimeError("startup has not run")
    # One piece after the other, because a text may be larger than what all of its words fit into.
    parts = pieces(text, LARGE_PIECE)
    found = worst([(await config._classifier.classify_all([part], source))[0] for part in parts])
    return Classification(
        scores={head: found[head].score for head in HEADS},
        severity=found.severity,
        flagged=found.flagged,
        thresholds=config._classifier.calibration.thresholds,
    )


@hookimpl
async def review(flagged: FlaggedContent, config: Config) -> ReviewVerdict:
    if config._classifier is None:
        raise RuntimeError("startup has not run")
    return await reviewed(flagged, config._classifier)
