"""Say in plain words what this deployment does with data, in order: for operators and data-protection officers."""

from __future__ import annotations

from collections.abc import Iterator

from sluicegate.app import Sluicegate
from sluicegate.config import Step
from sluicegate.vault import CEILING_DAYS

_STAGES = (
    ("authenticate", "Who is calling"),
    ("pre_filter", "What may reach the model"),
    ("models", "Who answers"),
    ("post_filter", "What may reach the caller"),
    ("retain", "What is kept"),
)


def describe(gate: Sluicegate) -> str:
    """Return the description, lines of text."""
    return "\n".join(_lines(gate))


def _lines(gate: Sluicegate) -> Iterator[str]:
    deployment = gate.deployment
    yield f"Region {deployment.region}. Storage: {_kind(deployment.storage)}. Keys: {_kind(deployment.keys)}."
    yield "Every request goes through these stages, in this order:"
    for number, (stage, title) in enumerate(_STAGES, 1):
        steps: tuple[Step, ...] = getattr(deployment.pipeline, stage)
        yield ""
        yield f"{number}. {title} ({stage})"
        for step in steps:
            yield from _step(gate, step)
            if stage == "models":
                yield from _models(gate, step.plugin)
        if not steps:
            yield "   - nothing" if stage == "retain" else "   - everything"
    yield ""
    yield f"Nothing is kept longer than {CEILING_DAYS} days, whatever the settings say."
    unused = sorted(set(gate.plugins.names()) - set(deployment.pipeline.plugins()))
    yield f"Loaded and not in the pipeline: {', '.join(unused) or 'none'}."


def _step(gate: Sluicegate, step: Step) -> Iterator[str]:
    optional = "" if step.required else ", skipped when it fails"
    # The summary is written as reStructuredText, for authors.
    summary = gate.plugins.summary_of(step.plugin).replace("``", "")
    yield f"   - {step.plugin} ({gate.plugins.source_of(step.plugin)}{optional}): {summary}"
    for name, value in sorted(gate.deployment.written(step.plugin).items()):
        yield f"       {name} = {value!r}"


def _models(gate: Sluicegate, plugin: str) -> Iterator[str]:
    for model, server in gate.plugins.models().values():
        if server == plugin:
            yield f"       model {model.id} ({', '.join(sorted(model.operations))}); its provider keeps: {model.retention}"


def _kind(url: str) -> str:
    """Return where a URL points without its secrets: a connection string holds a key."""
    if url.startswith(("folder:", "https://")):
        return url
    return url.partition("=")[0] + "=…"
