"""What is held and what goes: the two ways in which chunks wait for verdicts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from sluicegate.errors import Refused
from sluicegate.requests import CompletionRequest, GenerationRequest
from sluicegate.types import Chunk, FilterOffsets, FilterResults, worst_of
from sluicegate.vetting.cutting import Cutter, Placed, Window, Windows

LAG = 1000
"""In asynchronous mode, how many characters past those that are vetted may have been sent."""


class Held:
    """Default mode: a chunk goes when all of it is vetted."""

    def __init__(self, windows: Windows) -> None:
        self.due: deque[Window] = deque()
        self.waiting: deque[Placed] = deque()
        self._cutter = Cutter(windows)
        self._vetted = 0
        self._results: FilterResults = {}
        self._shown = True

    def take(self, chunk: Chunk) -> Iterator[Chunk]:
        """Take the model's next chunk; yield what may go."""
        self.waiting.append(self._cutter.place(chunk, self.due))
        return self._ready()

    def end(self) -> None:
        """Take note that no more will come, though the answer is not finished."""
        self._cutter.finish(self.due)

    def vetted(self, results: FilterResults) -> Iterator[Chunk]:
        """Take the verdicts on the first window that is due; yield what may go.

        Raises:
            Refused: After the last that may go.
        """
        window = self.due.popleft()
        if _refuses(results):
            if self.waiting:
                yield from map(self._annotated, self.waiting[0].first(self._vetted))
            raise Refused(results)
        self._vetted = window.released
        if results:
            self._results = results if self._shown else worst_of(self._results, results)
            self._shown = False
        yield from self._ready()

    def _ready(self) -> Iterator[Chunk]:
        while self.waiting and self.waiting[0].end <= self._vetted:
            placed = self.waiting.popleft()
            yield self._annotated(placed.chunk) if placed.pieces else placed.chunk

    def _annotated(self, chunk: Chunk) -> Chunk:
        self._shown = True
        if not self._results:
            return chunk
        return replace(chunk, content_filter_results=worst_of(chunk.content_filter_results, self._results))


class Flowing:
    """Asynchronous mode: a chunk goes at once, unless too little before it is vetted; only the end waits for all verdicts.

    Several filters in a row agree on ``check_offset``: each says the least that is vetted by itself and those before it.
    That there is one before it, it knows by a chunk with empty offsets that each sends first.
    """

    def __init__(self, windows: Windows, request: GenerationRequest) -> None:
        self.due: deque[Window] = deque()
        self.waiting: deque[tuple[Chunk, int]] = deque()
        self._cutter = Cutter(windows)
        self._request = request
        self._index = 0
        self._prompt: int | None = None
        self._vetted = 0
        self._checked = 0
        self._before: int | None = None

    def take(self, chunk: Chunk) -> Iterator[Chunk]:
        """Take the model's next chunk; yield what may go."""
        if self._prompt is None:
            self._index = chunk.index
            self._prompt = self._checked = _prompt_length(self._request, chunk.index)
            yield self._told({}, self._prompt, self._prompt)
        if offsets := chunk.content_filter_offsets:
            self._before = offsets.check_offset
            if not chunk.content_filter_results:
                return
            chunk = self._told(chunk.content_filter_results, offsets.start_offset, offsets.end_offset)
        end = self._cutter.place(chunk, self.due).end
        last = None
        if chunk.finish_reason:
            # With the verdicts of filters before this one, on the whole answer.
            last = Chunk(
                index=chunk.index,
                finish_reason=chunk.finish_reason,
                content_filter_results=chunk.content_filter_results,
            )
            chunk = replace(chunk, finish_reason=None, content_filter_results={})
        if not last or chunk != Chunk(index=chunk.index):
            self.waiting.append((chunk, end - LAG))
        if last:
            self.waiting.append((last, end))
        yield from self._ready()

    def end(self) -> None:
        """Take note that no more will come, though the answer is not finished."""
        self._cutter.finish(self.due)

    def vetted(self, results: FilterResults) -> Iterator[Chunk]:
        """Take the verdicts on the first window that is due; yield them, and what may go.

        Raises:
            Refused: With what refuses only, and the window's place.
        """
        window = self.due.popleft()
        start, end = (self._prompt or 0) + window.start, (self._prompt or 0) + window.end
        if refusing := _refuses(results):
            raise Refused(refusing, offsets=FilterOffsets(self._checked, start, end))
        self._vetted = window.end
        if results:
            yield self._told(results, start, end)
        yield from self._ready()

    def _ready(self) -> Iterator[Chunk]:
        while self.waiting and self.waiting[0][1] <= self._vetted:
            yield self.waiting.popleft()[0]

    def _told(self, results: FilterResults, start: int, end: int) -> Chunk:
        checked = (self._prompt or 0) + self._vetted
        least = checked if self._before is None else min(checked, self._before)
        self._checked = max(self._checked, least)
        offsets = FilterOffsets(self._checked, start, end)
        return Chunk(index=self._index, content_filter_results=results, content_filter_offsets=offsets)


def _refuses(results: FilterResults) -> FilterResults:
    """Return the verdicts that end the answer."""
    return {category: result for category, result in results.items() if result.get("filtered")}


def _prompt_length(request: GenerationRequest, index: int) -> int:
    """Return how many characters of prompt precede a choice."""
    if isinstance(request, CompletionRequest):
        prompts = request.prompts
        return len(prompts[index * len(prompts) // request.choices])
    return sum(len(text.value) for text in request.texts() if text.where.startswith("messages"))
