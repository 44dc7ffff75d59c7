"""The safety evaluation of training data: every text of every example is shown to the classifiers before a job may train.

The bar is the same for everybody, whatever a deployment's content-filter policy says. A file is above it in a category when

* more than one example in :data:`ONE_HIGH_IN` is of high severity, which in smaller files is any one; or
* more than one example in :data:`ONE_MEDIUM_IN` is of medium severity or more, and at least two are.

One medium example alone is not: of harmless texts the embedded classifier takes 3 in 100 for medium and 1 in 1,000 for high
(1,200 held-out ones), so almost every harmless file has some. Source of the categories, of a bar that cannot be changed, and
of the message: Azure OpenAI's documentation of the safety evaluation for fine-tuning.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from sluicegate.errors import TrainingFailed
from sluicegate.plugins import Plugins
from sluicegate.training_data.decoding import BOM, Malformed, decode
from sluicegate.training_data.lines import Lines
from sluicegate.training_data.texts import HasImage, Text, texts
from sluicegate.types import Classification, TextSource

CATEGORIES: Mapping[str, str] = {
    "hate": "hate_fairness",
    "self_harm": "self_harm",
    "sexual": "sexual",
    "violence": "violence",
}
"""A classifier's category -> what evaluations call it."""
MEDIUM, HIGH = 4, 6
ONE_HIGH_IN = 500
ONE_MEDIUM_IN = 20
MOST_LINES = 20
"""Of those above the bar, kept for each category."""
PIECE, OVERLAP = 20_000, 500
"""Characters that a classifier gets at a time: requests that are filtered meanwhile wait for one piece at most."""
_LARGE_LINE = 64 << 10
_REMEMBERED = 4096
"""Texts whose severity is not asked for again, such as the system message that every example has."""

Read: TypeAlias = Callable[[int], AsyncIterator[bytes]]
"""Yields a file from an offset in bytes on, such as ``OpenFile.read``."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How far the evaluation of a file is and what it has found, without a word of the file.

    Attributes:
        offset: Bytes of the file that are evaluated.
        lines: How many lines they are; ``examples`` without blank ones.
        pieces: Of the example at ``offset``, how many pieces of its texts are evaluated; ``severity`` is theirs, by category.
        medium: Category -> how many examples are of medium severity or more; ``high`` likewise.
        found: Category -> the first lines that are of medium severity or more, from 1.
        finished: Whether that was the whole file.
        skipped: Whether nobody looked, because the operator has switched the evaluation off.
    """

    offset: int = 0
    lines: int = 0
    examples: int = 0
    pieces: int = 0
    severity: Mapping[str, int] = field(default_factory=dict)
    medium: Mapping[str, int] = field(default_factory=dict)
    high: Mapping[str, int] = field(default_factory=dict)
    found: Mapping[str, Sequence[int]] = field(default_factory=dict)
    finished: bool = False
    skipped: bool = False

    @property
    def failed(self) -> tuple[str, ...]:
        """The categories above the bar so far, in the order of their names."""
        return tuple(
            category
            for category in sorted(CATEGORIES.values())
            if self.high.get(category, 0) > self.examples // ONE_HIGH_IN
            or self.medium.get(category, 0) > max(1, self.examples // ONE_MEDIUM_IN)
        )

    def check(self, which: Literal["training", "validation"]) -> None:
        """Raise if the file is above the bar.

        Raises:
            TrainingFailed: With the categories, as Azure words it.
        """
        if self.failed:
            raise TrainingFailed(
                f"The provided {which} data failed RAI checks for harm types: [{', '.join(self.failed)}]. "
                "Please fix the data and try again.",
                code="safetyEvaluationFailed",
                param=f"{which}_file",
            )

    def document(self) -> dict[str, Any]:
        """Return it as JSON's types; ``Evaluation(**document)`` is the evaluation again."""
        return asdict(self)


class SafetyEvaluation:
    """Shows training data to the classifiers of this app.

    Args:
        classifiers: The plugins that are in use and implement ``classify``; the worst that any of them says counts.
        is_required: False where the operator has switched it off, and then nobody looks; an attribute, too.
    """

    def __init__(self, plugins: Plugins, classifiers: Sequence[str], *, is_required: bool) -> None:
        self._plugins = plugins
        self._classifiers = tuple(classifiers)
        self.is_required = is_required

    def describe(self) -> str:
        """Return a sentence for the operator."""
        if not self.is_required:
            return "Training data is not evaluated for harm: fine_tuning.safety_evaluation is off."
        if not self._classifiers:
            return "Training data cannot be evaluated for harm, as no plugin in the pipeline classifies: fine-tuning jobs fail."
        return f"Training data is evaluated for harm by {', '.join(self._classifiers)} before a job trains."

    async def evaluate_examples(
        self,
        read: Read,
        before: Evaluation | None = None,
        *,
        deadline: datetime,
        clock: Callable[[], datetime],
    ) -> Evaluation:
        """Go on with a file until its end or the deadline, at least by one piece of a text, and return how far it is.

        One text is classified at a time, so requests have their turns. At most one line and one segment of the file are in memory.

        Args:
            read: Of the file, which was checked to be training data.
            before: Where to go on; None is the beginning.

        Raises:
            TrainingFailed: It cannot be evaluated: no classifier is in use, or an example is none or has an image.
            ApiError: A classifier failed or is unavailable, see ``classify``; what was done before is done again.
            ServiceError: As for reading the file.
        """
        done = before or Evaluation()
        if not self.is_required:
            return replace(done, finished=True, skipped=True)
        if not self._classifiers:
            raise TrainingFailed(
                "Training data cannot be evaluated for harm, as this deployment has no classifier. Its operator can name a plugin "
                "that classifies in the pipeline, such as 'content_filter', or set fine_tuning.safety_evaluation to 'off'.",
                code="safetyEvaluationUnavailable",
            )
        if done.finished:
            return done
        severities = _Severities(self.severity)
        async for line, size in _lines(read, done.offset):
            for number, text in enumerate(await _pieces(line, done)):
                if number < done.pieces:
                    continue
                done = replace(done, pieces=number + 1, severity=_worst(done.severity, await severities.of(text)))
                if clock() >= deadline:
                    return done
            done = _counted(done, size, is_example=bool(line.strip()))
            # Where nothing had to be asked, nothing was waited for.
            await asyncio.sleep(0)
        return replace(done, finished=True)

    async def severity(self, text: str, source: TextSource) -> Mapping[str, int]:
        """Return how severe a text is, by category, as the worst of the classifiers says; raises as ``classify`` does."""
        worst: Mapping[str, int] = {}
        for name in self._classifiers:
            found: Classification = await self._plugins.call(name, "classify", Classification, text=text, source=source)
            worst = _worst(
                worst, {CATEGORIES[key]: level for key, level in found.severity.items() if key in CATEGORIES}
            )
        return worst


class _Severities:
    """Severities of texts, those of the last few kept by a hash."""

    def __init__(self, ask: Callable[[str, TextSource], Any]) -> None:
        self._ask = ask
        self._known: OrderedDict[bytes, Mapping[str, int]] = OrderedDict()

    async def of(self, text: Text) -> Mapping[str, int]:
        """Return the severity by category; none where there is nothing to read."""
        if not text.value or text.value.isspace():
            return {}
        key = blake2b(f"{text.source} {text.value}".encode(errors="surrogatepass"), digest_size=16).digest()
        if key not in self._known:
            self._known[key] = await self._ask(text.value, text.source)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


async def _lines(read: Read, offset: int) -> AsyncIterator[tuple[bytes, int]]:
    """Yield lines from an offset on, and how many bytes of the file each is."""
    lines = Lines()
    async for piece in read(offset):
        for line in lines.feed(piece):
            yield _read(line), len(line or b"") + 1
    for line in lines.end():
        yield _read(line), len(line or b"")


def _read(line: bytes | None) -> bytes:
    if line is None:
        raise _unreadable("is too long")
    return line


async def _pieces(line: bytes, done: Evaluation) -> list[Text]:
    if not line.strip():
        return []
    try:
        if len(line) < _LARGE_LINE:
            return _cut(line, is_first=not done.offset)
        return await asyncio.to_thread(_cut, line, is_first=not done.offset)
    except Malformed:
        raise _unreadable("is no example", done.lines + 1) from None
    except HasImage:
        raise _unreadable("has an image, which cannot be evaluated for harm here", done.lines + 1) from None


def _cut(line: bytes, *, is_first: bool) -> list[Text]:
    row = decode(line.removeprefix(BOM) if is_first else line, is_first=is_first)
    return [
        Text(text.value[start : start + PIECE], text.source)
        for text in texts(row)
        for start in range(0, max(1, len(text.value) - OVERLAP), PIECE - OVERLAP)
    ]


def _counted(done: Evaluation, size: int, *, is_example: bool) -> Evaluation:
    """Return the evaluation with the example at its offset as one of those that are done."""
    medium, high, found = dict(done.medium), dict(done.high), dict(done.found)
    line = done.lines + 1
    for category, severity in done.severity.items():
        if severity >= MEDIUM:
            medium[category] = medium.get(category, 0) + 1
            found[category] = [*found.get(category, ()), line][:MOST_LINES]
        if severity >= HIGH:
            high[category] = high.get(category, 0) + 1
    return Evaluation(
        offset=done.offset + size,
        lines=line,
        examples=done.examples + is_example,
        medium=medium,
        high=high,
        found=found,
    )


def _worst(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    return {each: max(one.get(each, 0), other.get(each, 0)) for each in one.keys() | other.keys()}


def _unreadable(why: str, line: int | None = None) -> TrainingFailed:
    where = "A line" if line is None else f"Line {line}"
    return TrainingFailed(
        f"{where} of the data {why}: 'python -m sluicegate validate' says what to change.",
        code="safetyEvaluationFailed",
    )
