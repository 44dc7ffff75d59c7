"""What authors of plugins test with: does a plugin obey the rules, what does it do to a text, and do cuts change that?

For example::

    def test_obeys_the_rules():
        check_plugin(redact_email)

    async def test_redacts():
        assert await pre_filtered(redact_email, "mail a@b.de", replacement="<>") == "mail <>"

    async def test_the_result_does_not_depend_on_how_the_model_cuts_its_text():
        await check_chunking(redact_email, "mail a@b.de or\\nc@d.org")
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType, TracebackType
from typing import Any, Self, cast, overload

from sluicegate.abuse import Signal
from sluicegate.accounts import Account
from sluicegate.call import Call
from sluicegate.config import Pipeline as Stages
from sluicegate.config import Step
from sluicegate.errors import ApiError, Refused
from sluicegate.hookspecs import Hooks, hookimpl
from sluicegate.monitoring.signals import signal_of
from sluicegate.pipeline import Pipeline
from sluicegate.plugins import Plugins
from sluicegate.policies import DEFAULT_V2, Policy
from sluicegate.requests import ChatRequest, EmbeddingRequest, Request
from sluicegate.storage.vault import Vault
from sluicegate.streams import collect
from sluicegate.testing.fakes import FrozenClock, MemoryKeys, MemoryStorage
from sluicegate.testing.models import FakeModel
from sluicegate.types import Chunk, Exchange, FilterResults, Principal, Purged, Role, ToolCall, utc_now

ACCOUNT = Account("contoso", "local", bytes(32))
PRINCIPAL = Principal(ACCOUNT.name, Role.CALLER, "key1")
MAX_CUTS = 400
"""Places, and sizes, that a text is cut at or into; of a longer text, evenly spread ones."""

# --- one plugin ------------------------------------------------------------------------------------------------------


def plugin_of(*functions: Callable[..., Any], name: str = "plugin") -> ModuleType:
    """Return a plugin that implements the hooks these functions are named after."""
    module = ModuleType(name, "A plugin of a few functions.")
    for function in functions:
        setattr(module, function.__name__, hookimpl(function))
    return module


def check_plugin(plugin: object, **settings: Any) -> None:
    """Check what ``docs/writing-plugins.md`` asks of a plugin: that it loads, says what it does, and describes its settings.

    Args:
        settings: Those that have no default.

    Raises:
        StartupError: It would not load.
        AssertionError: The plugin, or one of its settings, has no docstring.
    """
    name = _name(plugin)
    plugins = _loaded({name: plugin}, {name: settings})
    if not plugins.summary_of(name):
        raise AssertionError(f"plugin {name!r}: has no docstring")
    for setting, info in type(plugins.config_of(name)).model_fields.items():
        if not info.description:
            raise AssertionError(f"plugin {name!r}, setting {setting}: has no docstring")


@overload
async def pre_filtered(plugin: object, given: str, *, policy: Policy = ..., **settings: Any) -> str: ...
@overload
async def pre_filtered(plugin: object, given: Request, *, policy: Policy = ..., **settings: Any) -> Request: ...
async def pre_filtered(
    plugin: object, given: str | Request, *, policy: Policy = DEFAULT_V2, **settings: Any
) -> str | Request:
    """Return what a pre-filter makes of a user's message, or of a whole request.

    Raises:
        Refused: It refuses.
    """
    request = chat_request(given) if isinstance(given, str) else given
    async with _started(plugin, settings) as (hooks, config):
        returned = await hooks.pre_filter(request=request, principal=PRINCIPAL, policy=policy, config=config)
    return str(cast(ChatRequest, returned).messages[-1].content) if isinstance(given, str) else returned


@overload
async def post_filtered(plugin: object, given: str, *, policy: Policy = ..., **settings: Any) -> str: ...
@overload
async def post_filtered(
    plugin: object, given: Iterable[Chunk], *, policy: Policy = ..., **settings: Any
) -> tuple[Chunk, ...]: ...
async def post_filtered(
    plugin: object, given: str | Iterable[Chunk], *, policy: Policy = DEFAULT_V2, **settings: Any
) -> str | tuple[Chunk, ...]:
    """Return what a post-filter makes of an answer's text, or of the chunks of one choice.

    Raises:
        Refused: It refuses.
    """
    chunks = [Chunk(given, finish_reason="stop")] if isinstance(given, str) else given
    async with _started(plugin, settings) as (hooks, config):
        passed, refusal = await _passed(hooks, config, policy, chunks)
    if refusal is not None:
        raise refusal
    return "".join(chunk.text for chunk in passed) if isinstance(given, str) else tuple(passed)


async def check_chunking(
    plugin: object, text: str, *, finish_reason: str = "stop", policy: Policy = DEFAULT_V2, **settings: Any
) -> None:
    """Check that what a post-filter does to a text does not depend on how the model cuts it.

    The text is sent as the answer, as a refusal and as a tool call's arguments: uncut, cut in two at each place, and cut
    into pieces of each size, with the ``finish_reason`` in the last piece and after it. What passes, the verdicts and
    whether it refuses must be the same each time. See :data:`MAX_CUTS` for long texts.

    Raises:
        AssertionError: It is not; the message names the cut.
    """
    async with _started(plugin, settings) as (hooks, config):
        for kind, piece in _KINDS.items():
            expected = await _outcome(hooks, config, policy, [piece(text, True), Chunk(finish_reason=finish_reason)])
            for cut, chunks in _answers(text, piece, finish_reason):
                if (found := await _outcome(hooks, config, policy, chunks)) != expected:
                    raise AssertionError(f"{kind} {cut}:\nexpected {expected}\nfound    {found}")


# --- the whole pipeline ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """A plugin in a stage of an :class:`Assembly`, with what the deployment file would say of it."""

    plugin: object
    settings: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True


class Assembly:
    """The pipeline of some plugins around a fake model, with everything in memory; ``async with`` starts them.

    Args:
        pre_filter: Plugins, or :class:`Use` of them; likewise the other stages.
        policy: The content-filter policy of its deployment.
        may_keep: Returns whether content of the account may be kept; it may be unless given.

    Attributes:
        exchanges: What ``retain`` was given, in order.
        signals: What plugins that observe would be told, in order.
    """

    def __init__(
        self,
        model: FakeModel,
        *,
        pre_filter: Sequence[object] = (),
        post_filter: Sequence[object] = (),
        retain: Sequence[object] = (),
        policy: Policy = DEFAULT_V2,
        may_keep: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self.model = model
        self.policy = policy
        self.exchanges: list[Exchange] = []
        self.signals: list[Signal] = []
        self.vault = Vault(MemoryStorage(), MemoryKeys(), clock=FrozenClock())
        stages: dict[str, Sequence[object]] = {
            "models": [model],
            "pre_filter": pre_filter,
            "post_filter": post_filter,
            "retain": [_Keeping(self.exchanges), *retain],
        }
        named: dict[str, object] = {}
        settings: dict[str, dict[str, Any]] = {}
        steps: dict[str, list[Step]] = {}
        for stage, plugins in stages.items():
            for use in (each if isinstance(each, Use) else Use(each) for each in plugins):
                name = _name_among(named, use.plugin)
                settings.setdefault(name, {}).update(use.settings)
                steps.setdefault(stage, []).append(Step(plugin=name, required=use.required))
        pipeline = Stages.model_validate({"authenticate": [], **steps})
        self.plugins = _loaded(named, settings, pipeline)
        self.pipeline = Pipeline(self.plugins, pipeline, lambda _: self.vault, may_keep, self._observe)

    def call(self, request: str | Request) -> Call:
        """Return a call of the fake model, ready for ``pipeline.chunks`` or ``pipeline.embeddings``."""
        request = chat_request(request) if isinstance(request, str) else request
        model, plugin = self.plugins.models()[self.model.model.id]
        return Call("call-1", PRINCIPAL, ACCOUNT, "deployment-1", model, plugin, request, self.policy)

    def _observe(self, call: Call) -> None:
        self.signals.append(signal_of(call, utc_now()))

    async def __aenter__(self) -> Self:
        for name in self.plugins.configured("startup"):
            await self.plugins.call(name, "startup", object)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.pipeline.drain()
        for name in self.plugins.configured("shutdown"):
            await self.plugins.call(name, "shutdown", object)


@dataclass(frozen=True)
class Answered:
    """What became of one request.

    Attributes:
        chunks: What the caller got, in order; none for embeddings.
        error: What ended it, if it did not end well.
        exchange: What ``retain`` was given.
    """

    chunks: tuple[Chunk, ...]
    error: ApiError | Refused | None
    exchange: Exchange

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return "".join(chunk.text for chunk in self.chunks if chunk.index == 0)

    @property
    def finish_reasons(self) -> dict[int, str]:
        """Why each choice ended."""
        return {chunk.index: chunk.finish_reason for chunk in self.chunks if chunk.finish_reason}


async def answered(
    request: str | Request,
    model: FakeModel | str = "An answer.",
    *,
    pre_filter: Sequence[object] = (),
    post_filter: Sequence[object] = (),
    retain: Sequence[object] = (),
    policy: Policy = DEFAULT_V2,
) -> Answered:
    """Run one request through a whole pipeline.

    Args:
        model: What answers; a text stands for a model that says just that.
        pre_filter: Plugins, or :class:`Use` of them; likewise the other stages.
        policy: The content-filter policy of the deployment.
    """
    model = FakeModel(model) if isinstance(model, str) else model
    chunks: list[Chunk] = []
    error: ApiError | Refused | None = None
    async with Assembly(
        model, pre_filter=pre_filter, post_filter=post_filter, retain=retain, policy=policy
    ) as assembly:
        call = assembly.call(request)
        try:
            if isinstance(call.request, EmbeddingRequest):
                await assembly.pipeline.embeddings(call)
            else:
                async with aclosing(assembly.pipeline.chunks(call)) as answer:
                    async for chunk in answer:
                        chunks.append(chunk)
        except (ApiError, Refused) as raised:
            error = raised
    return Answered(tuple(chunks), error, assembly.exchanges[-1])


def chat_request(content: str, **fields: Any) -> ChatRequest:
    """Return a chat request of one user's message."""
    return ChatRequest.model_validate({"messages": ({"role": "user", "content": content},), **fields})


# --- how -------------------------------------------------------------------------------------------------------------


class _Keeping:
    """Retain in a list."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        self._exchanges = exchanges

    @hookimpl
    async def retain(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)

    @hookimpl
    async def purge(self) -> Purged:
        return Purged()


@dataclass(frozen=True)
class _Outcome:
    passed: Chunk
    refused: FilterResults | None


_KINDS: Mapping[str, Callable[[str, bool], Chunk]] = {
    "text": lambda text, first: Chunk(text),
    "refusal": lambda text, first: Chunk(refusal=text),
    "arguments": lambda text, first: Chunk(
        tool_calls=(ToolCall(0, "call-1" if first else None, "lookup" if first else None, text),)
    ),
}


def _answers(text: str, piece: Callable[[str, bool], Chunk], finish_reason: str) -> Iterator[tuple[str, list[Chunk]]]:
    """Yield the answers that say a text, each with the name of its cut."""
    for cut, pieces in _cuts(text):
        chunks = [piece(part, number == 0) for number, part in enumerate(pieces)]
        yield cut, [*chunks, Chunk(finish_reason=finish_reason)]
        yield f"{cut}, ended in the last piece", [*chunks[:-1], replace(chunks[-1], finish_reason=finish_reason)]


def _cuts(text: str) -> Iterator[tuple[str, list[str]]]:
    yield "uncut", [text]
    for place in _spread(len(text)):
        yield f"cut at {place}", [text[:place], text[place:]]
    for size in _spread(len(text)):
        yield f"in pieces of {size}", [text[start : start + size] for start in range(0, len(text), size)]


def _spread(end: int) -> Sequence[int]:
    """Return numbers from 1 to below ``end``: all, or the first few and others evenly spread."""
    if end <= MAX_CUTS:
        return range(1, end)
    return [*range(1, 17), *(17 + number * (end - 17) // MAX_CUTS for number in range(MAX_CUTS))]


async def _outcome(hooks: Hooks, config: Any, policy: Policy, chunks: Iterable[Chunk]) -> _Outcome:
    passed, refusal = await _passed(hooks, config, policy, chunks)
    return _Outcome(await collect(_stream(passed)), refusal.results if refusal else None)


async def _passed(
    hooks: Hooks, config: Any, policy: Policy, given: Iterable[Chunk]
) -> tuple[list[Chunk], Refused | None]:
    """Return what a post-filter lets pass, and its refusal."""
    passed: list[Chunk] = []
    async with aclosing(_stream(given)) as chunks:
        filtered = hooks.post_filter(
            chunks=chunks, request=chat_request("?"), principal=PRINCIPAL, policy=policy, config=config
        )
        async with aclosing(cast(AsyncGenerator[Chunk], filtered)):
            try:
                async for chunk in filtered:
                    passed.append(chunk)
            except Refused as refusal:
                return passed, refusal
    return passed, None


async def _stream(chunks: Iterable[Chunk]) -> AsyncGenerator[Chunk]:
    for chunk in chunks:
        yield chunk


@asynccontextmanager
async def _started(plugin: object, settings: Mapping[str, Any]) -> AsyncIterator[tuple[Hooks, Any]]:
    """Start one plugin, give it with its settings, and shut it down."""
    name = _name(plugin)
    plugins = _loaded({name: plugin}, {name: settings})
    hooks, config = plugins[name], plugins.config_of(name)
    if plugins.implementing("startup"):
        await hooks.startup(config=config)
    try:
        yield hooks, config
    finally:
        if plugins.implementing("shutdown"):
            await hooks.shutdown(config=config)


def _loaded(
    named: Mapping[str, object], settings: Mapping[str, Mapping[str, Any]], pipeline: Stages | None = None
) -> Plugins:
    plugins = Plugins()
    for name, plugin in named.items():
        plugins.add(plugin, name)
    if pipeline is None:
        # A pipeline serves a model, whether or not this plugin has to do with models.
        plugins.add(FakeModel(), "fake-model")
        pipeline = Stages.model_validate({"authenticate": [], "models": ["fake-model"]})
    plugins.configure(settings, pipeline)
    return plugins


def _name(plugin: object) -> str:
    return str(getattr(plugin, "__name__", type(plugin).__name__)).rpartition(".")[2].lstrip("_").lower()


def _name_among(named: dict[str, object], plugin: object) -> str:
    """Return the name a plugin has among others, adding it if it is new."""
    for name, other in named.items():
        if other is plugin:
            return name
    name = _name(plugin)
    while name in named:
        name += "-2"
    named[name] = plugin
    return name
