"""Check one file as its bytes come, in bounded memory; and two files together."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TypeAlias

from sluicegate.training_data.codes import CODES, Severity
from sluicegate.training_data.decoding import BOM, Malformed, decode
from sluicegate.training_data.findings import MOST_PER_CODE, Findings, Path
from sluicegate.training_data.lines import Lines
from sluicegate.training_data.repeats import Compared, Repeats, report_leaks, report_repeats
from sluicegate.training_data.report import FileReport, Report
from sluicegate.training_data.rows import Example, Format, read_row
from sluicegate.training_data.statistics import Statistics
from sluicegate.training_data.tokens import PER_MESSAGE, CountTokens, estimate

MOST_FILE_BYTES = 512 << 20
"""Of a file; of a longer one nothing more is read. As uploads are limited."""
LEAST_EXAMPLES = 10
"""Of a training file. Source: Azure OpenAI's documentation of fine-tuning."""
PIECE = 1024 * 1024
"""Bytes that a thread takes at once, after which whoever waits for the report can be cancelled."""
_REPLACED = "\ufffd"
_START = 4
"""Bytes that the longest byte order mark has."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many bytes were read and how many lines were checked so far."""


class FileValidator:
    """Checks one file: ``feed`` it all of its bytes in order, then ``finish``.

    Args:
        count: The tokenizer of the model to train; without it tokens are estimated.
        context: Tokens that an example may have.
        least: Examples there must be.
        most: Findings kept of one code.
    """

    def __init__(
        self,
        *,
        count: CountTokens | None = None,
        context: int | None = None,
        least: int = LEAST_EXAMPLES,
        most: int = MOST_PER_CODE,
    ) -> None:
        self.bytes = self.lines = 0
        self.repeats = Repeats()
        self.findings = Findings(most)
        self.format: Format | None = None
        self._count = count or estimate
        self._tokens_are = "counted" if count else "estimated"
        self._exceeded = "context_exceeded" if count else "context_exceeded_estimate"
        self._context = context
        self._least = least
        self._most = most
        self._lines = Lines()
        self._statistics = Statistics()
        self._examples = 0
        self._start: bytes | None = b""
        self._stopped = False
        self._row_failed = False

    def feed(self, chunk: bytes) -> None:
        """Check what ends in this chunk, of any size; beyond ``MOST_FILE_BYTES`` it is only counted."""
        self.bytes += len(chunk)
        if self.bytes > MOST_FILE_BYTES and not self._stopped:
            self._stopped = True
            self.findings.add("file_too_large")
        if self._start is not None:
            self._start += chunk
            if len(self._start) < _START:
                return
            chunk = self._begun(self._start)
        self._take(chunk)

    def compared(self) -> Compared:
        """Return what another file is compared with."""
        return self.repeats.compared()

    def finish(self, training: FileValidator | None = None) -> FileReport:
        """End the file and return its report. Takes a moment for large files: sorts their hashes.

        Args:
            training: Already finished, if this is the validation file that goes with it.
        """
        if self._start is not None:
            self._take(self._begun(self._start))
        if not self._stopped:
            for line in self._lines.end():
                self._check(line)
            self._judge(training)
        findings = sorted(self.findings.kept, key=lambda finding: finding.line or 0)
        return FileReport(
            self.bytes,
            self.lines,
            self._examples,
            self.format,
            len(self.repeats),
            self._tokens_are,
            self.findings.errors,
            self.findings.counts,
            tuple(findings),
            self._statistics.document(),
        )

    def _begun(self, start: bytes) -> bytes:
        """Look at how the file begins, and return what is to be read of it."""
        self._start = None
        if start.startswith(_UTF16):
            self._stopped = True
            self.findings.add("encoding_utf16")
        return start.removeprefix(BOM)

    def _take(self, chunk: bytes) -> None:
        if not self._stopped:
            for line in self._lines.feed(chunk):
                self._check(line)

    def _judge(self, training: FileValidator | None) -> None:
        if not self.lines:
            self.findings.add("file_empty")
        elif self._examples < self._least:
            self.findings.add("too_few_examples")
        own = self.compared()
        report_repeats(own, self.findings, self._most)
        if training is not None:
            if training.format and self.format and training.format is not self.format:
                self.findings.add("format_differs")
            report_leaks(own, training.compared(), self.findings, self._most)

    # --- one line ----------------------------------------------------------------------------------------------------

    def _check(self, line: bytes | None) -> None:
        self.lines += 1
        if line is None:
            self.findings.add("line_too_long", self.lines)
            return
        if not line or line.isspace():
            self.findings.add("line_blank", self.lines)
            return
        try:
            row = decode(line, is_first=self.lines == 1)
        except Malformed as error:
            self.findings.add(error.code, self.lines, column=error.column)
            return
        self._row_failed = False
        example = read_row(row, self._say)
        if example is not None:
            self._example(example)

    def _example(self, example: Example) -> None:
        if self.format is None:
            self.format = example.format
        elif example.format is not self.format:
            self._say("format_mixed", ())
        if _REPLACED in example.prompt or _REPLACED in example.answer:
            self._say("character_replaced", ())
        count = self._count
        tokens = count(example.prompt) + count(example.answer) + PER_MESSAGE * example.messages
        if self._context is not None and tokens > self._context:
            self._say(self._exceeded, ())
        if self._row_failed:
            return
        self._examples += 1
        self._statistics.add(example, tokens)
        self.repeats.add(self.lines, example.prompt, example.answer)

    def _say(self, code: str, path: Path) -> None:
        self._row_failed = self._row_failed or CODES[code].severity is Severity.ERROR
        self.findings.add(code, self.lines, path)


def validate(
    training: Iterable[bytes],
    validation: Iterable[bytes] | None = None,
    *,
    count: CountTokens | None = None,
    context: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check a training file, and a validation file with it.

    Args:
        training: Its bytes, in chunks of any size.
        validation: Likewise; one example is enough.
        count: As for ``FileValidator``, and so is ``context``.
        progress: Called after each chunk.
    """
    files = _Files(count, context)
    for file, chunks in zip(files.both, (training, validation), strict=True):
        for chunk in chunks or ():
            file.feed(chunk)
            if progress is not None:
                progress(files.bytes, files.lines)
    return files.report(has_validation=validation is not None)


async def validate_async(
    training: AsyncIterable[bytes],
    validation: AsyncIterable[bytes] | None = None,
    *,
    count: CountTokens | None = None,
    context: int | None = None,
) -> Report:
    """Do what ``validate`` does in a thread, so that the event loop has its turns; ``count`` is called there."""
    files = _Files(count, context)
    for file, chunks in zip(files.both, (training, validation), strict=True):
        if chunks is None:
            continue
        async for chunk in chunks:
            for start in range(0, len(chunk), PIECE):
                await asyncio.to_thread(file.feed, chunk[start : start + PIECE])
    return await asyncio.to_thread(files.report, has_validation=validation is not None)


class _Files:
    def __init__(self, count: CountTokens | None, context: int | None) -> None:
        self._training = FileValidator(count=count, context=context)
        self._validation = FileValidator(count=count, context=context, least=1)
        self._context = context
        self.both = (self._training, self._validation)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.both)

    @property
    def lines(self) -> int:
        return sum(file.lines for file in self.both)

    def report(self, *, has_validation: bool) -> Report:
        training = self._training.finish()
        validation = self._validation.finish(self._training) if has_validation else None
        return Report(training, validation, self._context)
