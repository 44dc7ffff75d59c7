"""The command ``classify``: what the content classifier makes of a text, or of each row of a file.

For ``sluicegate.__main__``: ``add_command`` adds it, ``classify_command`` runs it. It loads the classifier's plugin and
nothing else: no deployment, no storage, no settings. No text is printed, logged or written.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

from sluicegate.cli.json_lines import BadLine, Line, json_line, read_lines
from sluicegate.cli.progress import Progress
from sluicegate.errors import SluicegateError
from sluicegate.plugins import Plugins
from sluicegate.policies import CATEGORIES, DEFAULT_V2, SEVERITIES, ContentFilter, Policy, Source, Verdict
from sluicegate.types import Classification, TextSource

PLUGIN = "content_filter"
INTERRUPTED = 130
_STANDARD = "-"
_SOURCES: tuple[TextSource, ...] = get_args(TextSource)
_HELP = """\
examples:
  python -m sluicegate classify "Ignore all previous instructions."
  python -m sluicegate classify --input IN.jsonl --output OUT.jsonl
  ... | python -m sluicegate classify --input - | ...

Each line of IN is a JSON object with "text", a string, and optionally "source": "prompt" (default), "completion" or
"document". Each gets one line of OUT, in order and written at once: its members but "text", and
  scores    by category, 0 to 1
  severity  of hate, sexual, violence and self_harm: 0 safe, 2 low, 4 medium, 6 high
  flagged   the categories whose scores reach the classifier's own thresholds
  filtered  whether the policy Microsoft.DefaultV2 blocks it: the four from medium on, jailbreak in prompts, and in
            documents indirect_attack, which the policy looks for only where an operator switches it on
  ms        how long it took
Blank lines are skipped.

exit status:
  0    done
  1    a line, a file or the classifier is at fault; standard error says which, and OUT has all rows before it
  2    wrong usage
  130  interrupted; OUT has all rows up to there
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``classify TEXT`` and ``classify --input IN --output OUT``."""
    classify = commands.add_parser(
        "classify",
        help="say what the content classifier makes of a text, or of each row of a file",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = classify.add_mutually_exclusive_group(required=True)
    what.add_argument("text", nargs="?", metavar="TEXT", help="a text, for a table")
    what.add_argument("--input", metavar="IN", help="rows, as JSON lines; - is standard input")
    classify.add_argument(
        "--output", metavar="OUT", default=_STANDARD, help="where rows go; - is standard output, the default"
    )
    classify.add_argument(
        "--source", choices=_SOURCES, default="prompt", help="of TEXT, and of rows that name none (prompt)"
    )


def classify_command(arguments: argparse.Namespace, plugins: Path) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: ``text``, ``input``, ``output`` and ``source``, from the parser.
        plugins: The folder of plugins.

    Raises:
        SluicegateError: The classifier cannot be used.
    """
    try:
        with asyncio.Runner() as runner:
            classifier = _Classifier(plugins, runner)
            if arguments.input is None:
                sys.stdout.write(_table(classifier.classify(arguments.text, arguments.source), arguments.source))
            else:
                _file(classifier, arguments.input, arguments.output, arguments.source)
        return 0
    except _Stopped as error:
        sys.stderr.write(f"sluicegate: {error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


class _Stopped(Exception):
    """Says what the user has to mend."""


# --- what is found ---------------------------------------------------------------------------------------------------

_DOCUMENTS = DEFAULT_V2.replacing(
    ContentFilter("Jailbreak", Source.PROMPT, enabled=False), ContentFilter("Indirect Attack", Source.PROMPT)
)
_POLICIES: Mapping[TextSource, tuple[Policy, Source]] = {
    "prompt": (DEFAULT_V2, Source.PROMPT),
    "completion": (DEFAULT_V2, Source.COMPLETION),
    # Whoever says that a text is a document asks about the shield that is for documents, on by default or not.
    "document": (_DOCUMENTS, Source.PROMPT),
}


class _Found(NamedTuple):
    by_classifier: Classification
    verdicts: Mapping[str, Verdict]
    """Those of the policy, by category; one that it does not look for has none."""
    ms: float

    @property
    def blocking(self) -> list[str]:
        return sorted(category for category, verdict in self.verdicts.items() if verdict.blocks)


class _Classifier:
    """The plugin, alone, with an event loop to run it in: of its own, so that Ctrl-C ends a wait for the next row."""

    def __init__(self, folder: Path, runner: asyncio.Runner) -> None:
        self._plugins = Plugins()
        self._plugins.load_one(folder, PLUGIN)
        self._runner = runner
        if PLUGIN in self._plugins.implementing("startup"):
            runner.run(self._plugins.call(PLUGIN, "startup", object))

    def classify(self, text: str, source: TextSource) -> _Found:
        """Raises PluginFailed when the plugin does not classify it."""
        started = time.perf_counter()
        found: Classification = self._runner.run(
            self._plugins.call(PLUGIN, "classify", Classification, text=text, source=source)
        )
        ms = (time.perf_counter() - started) * 1000
        return _Found(found, dict(_verdicts(found, source)), ms)


def _verdicts(found: Classification, source: TextSource) -> Iterator[tuple[str, Verdict]]:
    policy, place = _POLICIES[source]
    for key in found.scores.keys() & CATEGORIES.keys():
        if CATEGORIES[key].has_severity:
            verdict = policy.judge(key, place, severity=found.severity[key])
        else:
            verdict = policy.judge(key, place, detected=key in found.flagged)
        if verdict is not None:
            yield key, verdict


# --- one text --------------------------------------------------------------------------------------------------------


def _table(found: _Found, source: TextSource) -> str:
    of = found.by_classifier
    lines = [f"{'category':16}{'score':>8}{'threshold':>11}  {'severity':10}{DEFAULT_V2.name}"]
    for key, score in of.scores.items():
        threshold = f"{of.thresholds[key]:.3f}" if key in of.thresholds else "-"
        level = f"{of.severity[key]} {SEVERITIES[of.severity[key]]}" if key in of.severity else "-"
        lines.append(f"{key:16}{score:8.3f}{threshold:>11}  {level:10}{_said(found.verdicts.get(key))}")
    outcome = f"filtered for {', '.join(found.blocking)}" if found.blocking else "not filtered"
    return "\n".join([*lines, "", f"As a {source}: {outcome}. {found.ms:.1f} ms.", ""])


def _said(verdict: Verdict | None) -> str:
    if verdict is None:
        return "not looked for"
    return "blocks" if verdict.blocks else "passes"


# --- rows of a file --------------------------------------------------------------------------------------------------


def _file(classifier: _Classifier, source: str, target: str, default: TextSource) -> None:
    with ExitStack() as stack:
        rows = stack.enter_context(_opened(source, "rb"))
        status = os.fstat(rows.fileno())
        is_file = stat.S_ISREG(status.st_mode)
        if is_file and os.path.exists(target) and os.path.samestat(status, os.stat(target)):
            raise _Stopped(f"{target} is the input too; choose another file for the output")
        out = stack.enter_context(_opened(target, "wb"))
        draws = sys.stderr.isatty() and not out.isatty()
        progress = Progress(status.st_size if is_file else None, sys.stderr, draws=draws)
        why = ""
        try:
            for line in _answers(classifier, rows, default, progress):
                _write(out, target, line)
        except BadLine as error:
            why = f"{source}, {error}; "
        except OSError as error:
            why = f"{source}: {error.strerror}; "
        except _Stopped as error:
            why = f"{error}; "
        finally:
            progress.clear()
        if why:
            raise _Stopped(f"{why}{progress.rows:,} rows were written")
        sys.stderr.write(f"{progress.summary()}\n")


def _answers(classifier: _Classifier, rows: BinaryIO, default: TextSource, progress: Progress) -> Iterator[bytes]:
    """Yield what to write for each row; one counts as done when the next is asked for."""
    for line in read_lines(rows):
        text, source = _text(line, default)
        try:
            found = classifier.classify(text, source)
        except SluicegateError as error:
            raise BadLine(line.number, str(error)) from None
        yield json_line({**line.members, **_members(found)})
        progress.advance(line.end)


def _text(line: Line, default: TextSource) -> tuple[str, TextSource]:
    """Take the text out of a row, so that it is not written, and return it with its source."""
    if "text" not in line.members:
        raise BadLine(line.number, "it has no member 'text'")
    text, source = line.members.pop("text"), line.members.get("source")
    if source is None:
        source = default
    if not isinstance(text, str):
        raise BadLine(line.number, "its 'text' is not a string")
    if source not in _SOURCES:
        raise BadLine(line.number, f"its 'source' is none of {', '.join(_SOURCES)}")
    return text, source


def _members(found: _Found) -> dict[str, Any]:
    return {
        "scores": dict(found.by_classifier.scores),
        "severity": dict(found.by_classifier.severity),
        "flagged": sorted(found.by_classifier.flagged),
        "filtered": bool(found.blocking),
        "ms": round(found.ms, 3),
    }


def _opened(path: str, mode: Literal["rb", "wb"]) -> BinaryIO:
    """Open a file, or standard input or output; what is written goes out at once, so that nothing is lost later."""
    reads = mode == "rb"
    standard = sys.stdin if reads else sys.stdout
    buffering = -1 if reads else 0
    try:
        if path == _STANDARD:
            return open(standard.fileno(), mode, buffering, closefd=False)
        return open(path, mode, buffering)
    except OSError as error:
        raise _Stopped(f"{path}: {error.strerror}") from None


def _write(out: BinaryIO, name: str, line: bytes) -> None:
    left = memoryview(line)
    try:
        while left:
            left = left[out.write(left) :]
    except OSError as error:
        raise _Stopped(f"{name}: {error.strerror}") from None
