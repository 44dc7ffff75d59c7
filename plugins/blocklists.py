"""Block configured terms in prompts and answers, streamed ones too: a blocked term never reaches the wire.

Case, width, accents written apart, invisible characters, the amount of white space and JSON's escapes make no difference. A
term matches whole words only where it begins or ends with a letter or digit of a script that puts spaces between words. In an
answer, text is held back only while it could still become a blocked term. This is a list of words, not an understanding of
text: paraphrases and misspellings pass.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, PrivateAttr, field_validator

from plugins._terms import Scan, Terms, folded_term
from sluicegate import Chunk, FilterResults, PluginConfig, Refused, hookimpl
from sluicegate.requests import Request
from sluicegate.streams import hold_back

CATEGORY = "custom_blocklists"


class Config(PluginConfig):
    lists: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Blocked terms by the name of their list; the name is what callers are told."""

    _terms: Terms | None = PrivateAttr(default=None)

    @field_validator("lists")
    @classmethod
    def _terms_have_text(cls, lists: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, terms in lists.items():
            if not all(map(folded_term, terms)):
                raise ValueError(f"list {name!r} holds an empty term")
        return lists

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._terms = Terms(self.lists) if any(self.lists.values()) else None


@hookimpl
def register_config() -> type[PluginConfig]:
    return Config


@hookimpl
async def pre_filter(request: Request, config: Config) -> Request:
    if config._terms is None:
        return request
    for text in request.texts():
        if hits := config._terms.hits(text.value):
            raise Refused(_verdict(hits))
    return request.annotate(_clean())


@hookimpl
async def post_filter(chunks: AsyncIterator[Chunk], config: Config) -> AsyncIterator[Chunk]:
    terms = config._terms
    if terms is None:
        async for chunk in chunks:
            yield chunk
        return
    async for chunk in hold_back(chunks, lambda _: Scan(terms, _verdict)):
        if chunk.finish_reason is not None:
            chunk = replace(chunk, content_filter_results={**_clean(), **chunk.content_filter_results})
        yield chunk


def _clean() -> FilterResults:
    return {CATEGORY: {"filtered": False, "details": []}}


def _verdict(hits: Sequence[str]) -> FilterResults:
    return {CATEGORY: {"filtered": True, "details": [{"filtered": True, "id": name} for name in hits]}}
