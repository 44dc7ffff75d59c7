"""The command ``job``: how a fine-tuning job stands, what happened, and its learning curves.

It asks over HTTP with an account's key, by the SDK, as whoever made the job does; so it works with this machine's server, with
one elsewhere, and with Azure OpenAI. It prints numbers, states and the server's own messages; no training data.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sluicegate.cli.curves import Curves, curves, read_results
from sluicegate.cli.tables import table
from sluicegate.errors import SluicegateError

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

KEY_SETTING = "AZURE_OPENAI_API_KEY"
FAILED, INTERRUPTED = 1, 130
POLL_S = 2.0
EVENTS = 10
"""How many of the latest are shown."""
_WIDTH = 30
_ENDED = frozenset({"succeeded", "failed", "cancelled"})
_HELP = f"""\
examples:
  python -m sluicegate job                         the account's jobs
  python -m sluicegate job JOB                     how one stands, with its curves
  python -m sluicegate job JOB --follow            the same, until it is over
  python -m sluicegate job JOB --plot curves.svg   its curves as a picture
  {KEY_SETTING}=... python -m sluicegate job JOB --endpoint https://NAME.example

Without --endpoint, the server and the key are those that 'serve' has written to the data folder.

exit status:
  0    done
  1    the job has failed or was cancelled, or the server cannot be asked; standard error says which
  2    wrong usage
  130  interrupted
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``job [JOB]``."""
    words = "show a fine-tuning job: state, events, loss and accuracy curves"
    command = commands.add_parser(
        "job", help=words, description=words, epilog=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("job", nargs="?", metavar="JOB", help="the job's id; without it all jobs are listed")
    command.add_argument("--follow", action="store_true", help="go on until the job is over")
    command.add_argument("--plot", type=Path, metavar="FILE", help="write the curves as SVG")
    command.add_argument("--endpoint", metavar="URL", help=f"a server elsewhere; the key is then in {KEY_SETTING}")
    command.add_argument("--data", type=Path, default=Path(".data"), help="folder of the embedded storage and keys")


def job_command(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: ``job``, ``follow``, ``plot``, ``endpoint`` and ``data``, from the parser.

    Raises:
        SluicegateError: The server cannot be asked, or does not know the job; or the picture cannot be written.
    """
    import openai

    client = _client(arguments)
    try:
        with client:
            if arguments.job is None:
                sys.stdout.write(_jobs(client) + "\n")
                return 0
            view = _View(client, arguments.job)
            if arguments.follow:
                view.follow(sys.stderr)
            sys.stdout.write("\n".join(_described(view)) + "\n")
            if arguments.plot is not None:
                _plot(view, arguments.plot)
            return FAILED if view.job.status in ("failed", "cancelled") else 0
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        raise SluicegateError(
            f"the server answered {error.status_code}: {body.get('message', 'no reason given')}"
        ) from None
    except openai.APIConnectionError:
        raise SluicegateError(
            f"the server at {client.base_url.host}:{client.base_url.port} cannot be reached"
        ) from None
    except KeyboardInterrupt:
        return INTERRUPTED


def _client(arguments: argparse.Namespace) -> OpenAI:
    from openai import OpenAI

    if arguments.endpoint is not None:
        endpoint, key = arguments.endpoint, os.environ.get(KEY_SETTING, "")
        if not key:
            raise SluicegateError(f"set {KEY_SETTING} to a key of the account")
    else:
        path = arguments.data / "credentials.json"
        try:
            written = json.loads(path.read_text())
        except OSError as error:
            raise SluicegateError(
                f"{path}: {error.strerror}; 'serve' writes it, or name a server with --endpoint"
            ) from None
        endpoint, key = written["endpoint"], written["api_key"]
    return OpenAI(base_url=f"{endpoint.rstrip('/')}/openai/v1/", api_key=key, timeout=60)


def _jobs(client: OpenAI) -> str:
    rows = [
        (job.id, job.status, job.model, _time(job.created_at, "%Y-%m-%d %H:%M"), job.fine_tuned_model)
        for job in client.fine_tuning.jobs.list(limit=100)
    ]
    return table(("job", "status", "base model", "created (UTC)", "fine-tuned model"), rows)


# --- one job ---------------------------------------------------------------------------------------------------------


@dataclass
class _View:
    """What is known of a job.

    Attributes:
        events: All of them, the oldest first.
        results: The rows of its results files, by id.
    """

    client: OpenAI
    id: str
    events: list[FineTuningJobEvent] = field(default_factory=list)
    results: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> list[FineTuningJobEvent]:
        """Ask how the job stands, and return the events that are new."""
        self.job: FineTuningJob = self.client.fine_tuning.jobs.retrieve(self.id)
        known = {event.id for event in self.events}
        new = []
        for event in self.client.fine_tuning.jobs.list_events(self.id, limit=100):
            if event.id in known:
                break
            new.append(event)
        self.events += reversed(new)
        return new[::-1]

    def follow(self, out: TextIO, *, pause: Callable[[float], None] = time.sleep) -> None:
        """Say what happens until the job is over: messages as lines, and on a terminal a bar below them."""
        draws = out.isatty()
        new = self.events
        while True:
            lines = [_line(event) for event in new if event.type != "metrics"]
            said = "".join(f"{line}\n" for line in lines)
            bar = f"{self.progress()}\x1b[K" if draws and self.job.status not in _ENDED else ""
            out.write(f"\r\x1b[K{said}{bar}" if draws else said)
            out.flush()
            if self.job.status in _ENDED:
                return
            pause(POLL_S)
            new = self.look()

    def progress(self) -> str:
        """Return how far the job is, in a line."""
        drawn = self.curves()
        if drawn is None:
            return self.job.status
        of = f" of {drawn.total}" if drawn.total else ""
        loss = f", train loss {drawn.loss.train[-1][1]:.3f}" if drawn.loss.train else ""
        bar = ""
        if drawn.total:
            share = min(drawn.steps / drawn.total, 1.0)
            bar = f"[{'#' * int(share * _WIDTH):{_WIDTH}}] {share:4.0%}  "
        left = ""
        if self.job.estimated_finish:
            left = f", about {_span(max(self.job.estimated_finish - time.time(), 0))} left"
        return f"{bar}{self.job.status}, step {drawn.steps}{of}{loss}{left}"

    def curves(self) -> Curves | None:
        """Return the curves: of the results file once there is one, of the events before."""
        return curves(self._rows(), _epochs(self.job))

    def _rows(self) -> list[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = []
        rows += [event.data for event in self.events if event.type == "metrics" and isinstance(event.data, dict)]
        for file in self.job.result_files:
            if file not in self.results:
                self.results[file] = self._read(file)
            rows += self.results[file]
        return rows

    def _read(self, file: str) -> list[Mapping[str, Any]]:
        from openai import NotFoundError

        try:
            return read_results(self.client.files.content(file).content)
        except NotFoundError:
            # It may have been deleted; the events stay with the job.
            return []


def _described(view: _View) -> Iterator[str]:
    job = view.job
    yield f"{job.id}: {job.status}"
    if job.error and job.error.message:
        yield f"  {job.error.message} (code {job.error.code})"
    for name, value in (
        ("base model", job.model),
        ("fine-tuned model", job.fine_tuned_model),
        ("training", _settings(job)),
        ("files", " and ".join(filter(None, [job.training_file, job.validation_file]))),
        ("trained tokens", f"{job.trained_tokens:,}" if job.trained_tokens else None),
        ("created", _time(job.created_at, "%Y-%m-%d %H:%M:%S UTC")),
        ("finished", _finished(job)),
    ):
        if value:
            yield f"  {name:18}{value}"
    if job.status not in _ENDED:
        yield f"  {'progress':18}{view.progress()}"
    told = [event for event in view.events if event.type != "metrics"]
    yield ""
    yield "events (UTC)" if len(told) <= EVENTS else f"events (UTC), the last {EVENTS} of {len(told)}"
    yield from (f"  {_line(event)}" for event in told[-EVENTS:])
    if (drawn := view.curves()) is not None:
        from sluicegate.cli.curves_text import text

        yield ""
        plain = "utf" not in (sys.stdout.encoding or "").lower()
        yield text(drawn, min(shutil.get_terminal_size((80, 24)).columns, 120), plain=plain)


def _plot(view: _View, path: Path) -> None:
    from sluicegate.cli.curves_svg import svg

    drawn = view.curves()
    if drawn is None:
        raise SluicegateError("there is nothing to draw yet: the job has measured no step")
    name = view.job.fine_tuned_model or view.job.model
    try:
        path.write_text(svg(drawn, view.job.id, name, _settings(view.job)), encoding="utf-8")
    except OSError as error:
        raise SluicegateError(f"{path}: {error.strerror}") from None
    sys.stdout.write(f"\nThe curves are drawn in {path}.\n")


# --- words -----------------------------------------------------------------------------------------------------------


def _settings(job: FineTuningJob) -> str:
    kind = job.method.type if job.method else "supervised"
    values = job.hyperparameters
    multiplier = values.learning_rate_multiplier
    parts = [
        f"{kind}: {values.n_epochs} epochs",
        f"batch size {values.batch_size}",
        f"learning rate multiplier {multiplier if isinstance(multiplier, str) else f'{multiplier:g}'}",
        f"seed {job.seed}",
    ]
    return ", ".join(parts)


def _epochs(job: FineTuningJob) -> int | None:
    return job.hyperparameters.n_epochs if isinstance(job.hyperparameters.n_epochs, int) else None


def _finished(job: FineTuningJob) -> str | None:
    if not job.finished_at:
        return None
    return f"{_time(job.finished_at, '%Y-%m-%d %H:%M:%S UTC')}, after {_span(job.finished_at - job.created_at)}"


def _line(event: FineTuningJobEvent) -> str:
    level = "" if event.level == "info" else f"{event.level}: "
    return f"{_time(event.created_at, '%H:%M:%S')}  {level}{event.message}"


def _time(seconds: float, form: str) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
