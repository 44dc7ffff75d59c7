"""Cut and pack text into what one call of the service takes, and ask several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

MOST = 10_000
"""Characters (Unicode code points) of one call."""
OVERLAP = 500
"""Characters that are in two pieces, so that what is at a cut is seen whole in one."""
MOST_DOCUMENTS = 5


def readable(text: str) -> str:
    """Return a text that is valid Unicode: half a surrogate pair would be refused, and with it the whole request."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def cut(text: str, most: int = MOST, overlap: int = OVERLAP) -> Iterator[str]:
    """Yield overlapping parts of at most ``most`` characters."""
    for start in range(0, max(1, len(text) - overlap), most - overlap):
        yield text[start : start + most]


def packed(texts: Iterable[str], most: int = MOST) -> list[str]:
    """Return the texts in as few pieces as their order allows: short ones as paragraphs of one, long ones cut."""
    pieces: list[str] = []
    for text in texts:
        for part in cut(text, most):
            if not part.strip():
                continue
            if pieces and len(pieces[-1]) + 2 + len(part) <= most:
                pieces[-1] += f"\n\n{part}"
            else:
                pieces.append(part)
    return pieces


def grouped(documents: Iterable[str]) -> list[list[str]]:
    """Return documents as the prompt shield takes them: five at a time, of ``MOST`` characters together, long ones cut."""
    groups: list[list[str]] = []
    for document in documents:
        for part in cut(document):
            if not part.strip():
                continue
            if groups and len(groups[-1]) < MOST_DOCUMENTS and sum(map(len, groups[-1])) + len(part) <= MOST:
                groups[-1].append(part)
            else:
                groups.append([part])
    return groups


async def together(questions: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Ask at once; the first failure ends the others and is raised."""
    tasks = [asyncio.create_task(question) for question in questions]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
