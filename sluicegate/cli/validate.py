"""The command ``validate``: what an upload of training data would be told, before it is uploaded.

It reads the files and nothing else: no deployment, no storage, no settings. No text of theirs is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

from sluicegate.cli.progress import Progress

if TYPE_CHECKING:
    from sluicegate.training_data import Report

UNREADABLE = 2
INTERRUPTED = 130
PIECE = 1024 * 1024
_HELP = """\
examples:
  python -m sluicegate validate train.jsonl
  python -m sluicegate validate train.jsonl --validation valid.jsonl --context 8192 --json

What each code means and what to do is in docs/fine-tuning-data.md, and printed for each that is found.

exit status:
  0    no errors; there may be warnings
  1    errors: a fine-tuning job would be refused
  2    wrong usage, or a file that cannot be read
  130  interrupted
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``validate FILE``."""
    words = "check training data for fine-tuning, as the server does"
    command = commands.add_parser(
        "validate", help=words, description=words, epilog=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("file", metavar="FILE", help="training data, as JSON lines; - is standard input")
    command.add_argument("--validation", metavar="FILE", help="validation data that goes with it")
    command.add_argument("--context", metavar="N", type=_tokens, help="tokens that an example may have")
    command.add_argument("--json", action="store_true", help="print the report that programs read")


def validate_command(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: ``file``, ``validation``, ``context`` and ``json``, from the parser.
    """
    try:
        report = _validated(arguments)
    except OSError as error:
        sys.stderr.write(f"sluicegate: {error.filename or 'a file'}: {error.strerror}\n")
        return UNREADABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    if arguments.json:
        sys.stdout.write(json.dumps(report.document(), indent=2) + "\n")
    else:
        from sluicegate.cli.validation_report import readable

        sys.stdout.write(readable(report, arguments.file, arguments.validation or "") + "\n")
    return 0 if report.is_valid else 1


def _tokens(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a context is a number of tokens, not {text!r}")
    return int(text)


# --- reading ---------------------------------------------------------------------------------------------------------


def _validated(arguments: argparse.Namespace) -> Report:
    from sluicegate.training_data import validate

    with ExitStack() as stack:
        training = stack.enter_context(_opened(arguments.file))
        files = [training]
        if arguments.validation is not None:
            files.append(stack.enter_context(_opened(arguments.validation)))
        progress = Progress(_size(files), sys.stderr, draws=sys.stderr.isatty())

        def advance(read: int, lines: int) -> None:
            progress.advance(read, lines - progress.rows)

        try:
            return validate(*map(_pieces, files), context=arguments.context, progress=advance)
        finally:
            progress.clear()


def _opened(path: str) -> BinaryIO:
    return open(sys.stdin.fileno() if path == "-" else path, "rb", closefd=path != "-")


def _size(files: list[BinaryIO]) -> int | None:
    found = [os.fstat(file.fileno()) for file in files]
    return sum(each.st_size for each in found) if all(stat.S_ISREG(each.st_mode) for each in found) else None


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece
