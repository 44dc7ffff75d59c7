"""The command ``validate``: what an upload of training data would be told, before it is uploaded.

It reads the files and nothing else: no deployment, no storage, no settings; with ``--model`` the deployment file too, for the plugin
that has the model's tokenizer. No text of the files is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sluicegate.cli.progress import Progress
from sluicegate.errors import SluicegateError, StartupError

if TYPE_CHECKING:
    from sluicegate.training_data import CountTokens, Report

UNREADABLE = 2
INTERRUPTED = 130
PIECE = 1024 * 1024
_HELP = """\
examples:
  python -m sluicegate validate train.jsonl
  python -m sluicegate validate train.jsonl --validation valid.jsonl --context 8192 --json
  python -m sluicegate validate train.jsonl --model smollm2-135m-instruct

What each code means and what to do is in docs/fine-tuning-data.md, and printed for each that is found.

exit status:
  0    no errors; there may be warnings
  1    errors: a fine-tuning job would be refused
  2    wrong usage, or a file or a model that cannot be read
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
    command.add_argument(
        "--model",
        metavar="NAME",
        help="model of the deployment file whose tokenizer counts, and whose context it is without --context; else tokens are estimated",
    )
    command.add_argument("--json", action="store_true", help="print the report that programs read")


def validate_command(arguments: argparse.Namespace, root: Path) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: ``file``, ``validation``, ``context``, ``model`` and ``json``, from the parser.
        root: The folder of the app.
    """
    try:
        report = _validated(arguments, root)
    except SluicegateError as error:
        sys.stderr.write(f"sluicegate: {error}\n")
        return UNREADABLE
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


def _validated(arguments: argparse.Namespace, root: Path) -> Report:
    from sluicegate.training_data import validate

    with ExitStack() as stack:
        count, context = None, arguments.context
        if arguments.model is not None:
            count, length = stack.enter_context(_tokenizer(root, arguments.model))
            context = context or length
        training = stack.enter_context(_opened(arguments.file))
        files = [training]
        if arguments.validation is not None:
            files.append(stack.enter_context(_opened(arguments.validation)))
        progress = Progress(_size(files), sys.stderr, draws=sys.stderr.isatty())

        def advance(read: int, lines: int) -> None:
            progress.advance(read, lines - progress.rows)

        try:
            return validate(*map(_pieces, files), count=count, context=context, progress=advance)
        finally:
            progress.clear()


@contextmanager
def _tokenizer(root: Path, name: str) -> Iterator[tuple[CountTokens, int | None]]:
    """Start the plugin of a model, and yield what counts for it, and its context.

    Raises:
        SluicegateError: The deployment has no such model whose tokens can be counted, or the plugin does not start.
    """
    from sluicegate import config
    from sluicegate.host.settings import apply_local_settings
    from sluicegate.plugins import Plugins
    from sluicegate.tenancy.first_run import use_embedded_settings

    apply_local_settings(root, os.environ)
    use_embedded_settings(os.environ, Path(".data"))
    deployment = config.load(root)
    plugins = Plugins()
    plugins.load_folder(root / "plugins")
    plugins.load_installed(deployment.installed)
    plugins.configure(deployment.plugins, deployment.pipeline)
    counted = {
        id: (model, plugin)
        for id, (model, plugin) in plugins.models().items()
        if plugin in plugins.implementing("count_tokens") and "chat.completions" in model.operations
    }
    if name not in counted:
        known = ", ".join(sorted(counted)) or "none"
        raise StartupError(
            f"no model {name!r} whose tokens can be counted: there is {known}; without --model they are estimated"
        )
    model, plugin = counted[name]
    hooks, settings = plugins[plugin], plugins.config_of(plugin)
    with asyncio.Runner() as runner:
        if plugin in plugins.implementing("startup"):
            runner.run(plugins.call(plugin, "startup", object))
        try:
            yield lambda text: hooks.count_tokens(text=text, model=model, config=settings), model.context_length
        finally:
            if plugin in plugins.implementing("shutdown"):
                runner.run(hooks.shutdown(config=settings))


def _opened(path: str) -> BinaryIO:
    return open(sys.stdin.fileno() if path == "-" else path, "rb", closefd=path != "-")


def _size(files: list[BinaryIO]) -> int | None:
    found = [os.fstat(file.fileno()) for file in files]
    return sum(each.st_size for each in found) if all(stat.S_ISREG(each.st_mode) for each in found) else None


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece
