"""Write ``docs/hooks.md`` from the hook specs; cog runs it, and ``make lint`` checks that the page is current."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

from sluicegate.hookspecs import Hooks

_KINDS = {True: "async def", False: "def"}


def page() -> str:
    """Return the page's generated part, Markdown."""
    return "\n".join(
        line for name, spec in vars(Hooks).items() if hasattr(spec, "sluicegate_spec") for line in _hook(name)
    )


def _hook(name: str) -> Iterator[str]:
    function = getattr(Hooks, name)
    signature = inspect.signature(function)
    parameters = ", ".join(parameter for parameter in signature.parameters if parameter != "self")
    is_generator = inspect.isasyncgenfunction(function)
    kind = _KINDS[is_generator or inspect.iscoroutinefunction(function)] + (" with yield" if is_generator else "")
    yield f"## {name}({parameters})"
    yield ""
    yield f"`{kind}`, returns `{signature.return_annotation}`"
    yield ""
    yield from _markdown(inspect.getdoc(function) or "")
    yield ""


def _markdown(doc: str) -> Iterator[str]:
    """Turn a Google-style docstring into Markdown."""
    text, _, example = doc.partition("Example::\n")
    source, _, version = (example or text).partition(".. versionadded::")
    for line in (text if example else source).splitlines():
        if re.fullmatch(r"(Args|Returns|Raises):", line):
            yield f"**{line[:-1]}**\n"
        elif found := re.match(r"    (\w+): (.*)", line):
            yield f"- `{found[1]}`: {inline(found[2])}"
        else:
            yield inline(line.strip())
    if example:
        yield f"```python\n{textwrap.dedent(source).strip()}\n```\n"
    yield f"*Since {version.strip()}.*"


def inline(text: str) -> str:
    """Turn what is marked within a paragraph of a docstring into Markdown."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`")
