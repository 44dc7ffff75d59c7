"""What happens to one request, in order. Read this after the hooks.

``pre_filter`` maps a request to a request, ``inference`` maps a request to a stream of chunks, ``post_filter`` maps a stream
to a stream, ``retain`` sees what became of it. There is one path: an answer that is not streamed is a collected stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any, cast

import anyio

from sluicegate.accounts import Account
from sluicegate.call import Call
from sluicegate.config import Pipeline as Stages
from sluicegate.errors import (
    AccountKeyUnavailable,
    ApiError,
    FilterUnavailable,
    PluginFailed,
    Refused,
    SluicegateError,
    Unsupported,
)
from sluicegate.fan_out import per_choice
from sluicegate.plugins import Plugins, is_failure, log_failure
from sluicegate.policies import NOT_FILTERED
from sluicegate.requests import GenerationRequest, Request
from sluicegate.storage.vault import Vault
from sluicegate.types import Chunk, Embeddings, Exchange, Model, Outcome

RETAIN_S = 10.0
"""How long retaining one exchange may take before the answer fails."""

log = logging.getLogger(__name__)


class Pipeline:
    """The stages of this deployment; one object per worker.

    Args:
        vault_of: Returns the vault in which an account's data is.
        may_keep: Returns whether content of an account may be kept, as is known when an exchange is over.
        observe: Told of each call that is over, whatever became of it; must be cheap.
    """

    def __init__(
        self,
        plugins: Plugins,
        stages: Stages,
        vault_of: Callable[[Account], Vault],
        may_keep: Callable[[str], Awaitable[bool]] | None = None,
        observe: Callable[[Call], None] | None = None,
    ) -> None:
        self._plugins = plugins
        self._stages = stages
        self._vault_of = vault_of
        self._may_keep = may_keep
        self._observe = observe
        self._retaining: set[asyncio.Task[None]] = set()

    async def chunks(self, call: Call) -> AsyncGenerator[Chunk]:
        """Yield the filtered answer to a chat or completion request; retain the exchange; end.

        Whatever refuses the request does so before anything is yielded; when the first chunk comes, ``call.request`` is
        final, with all verdicts on the prompt. The last chunk carries ``usage`` when the model counted.

        Raises:
            ApiError: The request cannot be served; :class:`~sluicegate.errors.Refused` when a pre-filter refuses it.
        """
        try:
            await self._pre_filter(call)
            async with aclosing(self._generate(call)) as chunks:
                async for chunk in chunks:
                    yield chunk
            call.outcome = Outcome.CUT if call.record.cut else Outcome.COMPLETED
        except (GeneratorExit, asyncio.CancelledError):
            call.outcome = Outcome.ABANDONED
            raise
        finally:
            await self._finish(call)

    async def embeddings(self, call: Call) -> Embeddings:
        """Return the vectors of an embedding request and retain its inputs."""
        try:
            await self._pre_filter(call)
            returned: Embeddings = await self._plugins.call(
                call.plugin, "embed", Embeddings, request=call.request, model=call.model
            )
            call.usage = returned.usage
            call.outcome = Outcome.COMPLETED
            return returned
        except Refused as refusal:
            # By a pre-filter, or by the model's own server.
            raise _blocked(call, refusal) from None
        except asyncio.CancelledError:
            call.outcome = Outcome.ABANDONED
            raise
        finally:
            await self._finish(call)

    async def drain(self) -> None:
        """Wait until everything that is being retained is."""
        while self._retaining:
            await asyncio.wait(self._retaining)

    # --- before the model --------------------------------------------------------------------------------------------

    async def _pre_filter(self, call: Call) -> None:
        _check_features(call.request, call.model)
        self._detokenize(call)
        for step in self._stages.pre_filter:
            try:
                call.request = await self._plugins.call(
                    step.plugin,
                    "pre_filter",
                    type(call.request),
                    request=call.request,
                    principal=call.principal,
                    policy=call.policy,
                )
            except PluginFailed:
                if step.required:
                    raise
            except FilterUnavailable:
                if step.required and not call.policy.fail_open:
                    raise
                for index in range(call.request.prompt_count):
                    call.request = call.request.annotate(NOT_FILTERED, index)
            except Refused as refusal:
                raise _blocked(call, refusal) from None

    def _detokenize(self, call: Call) -> None:
        """Turn token ids into the model's text, so that filters read what the model will read."""
        lists = call.request.token_lists()
        if not lists:
            return
        hook, config = self._plugins[call.plugin].detokenize, self._plugins.config_of(call.plugin)
        try:
            texts = tuple(hook(tokens=tokens, model=call.model, config=config) for tokens in lists)
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("detokenize must return a str")
        except ApiError:
            raise
        except Exception as error:  # noqa: BLE001 - one of the places that call plugins
            log_failure(call.plugin, "detokenize", error)
            raise PluginFailed(call.plugin, "detokenize") from None
        call.request = call.request.with_texts(texts)

    # --- the model and after -----------------------------------------------------------------------------------------

    async def _generate(self, call: Call) -> AsyncGenerator[Chunk]:
        request = cast(GenerationRequest, call.request)
        # Closing an async generator does not close the one it reads from, so the stack closes every stage, last first.
        async with AsyncExitStack() as stack:
            hook, config = self._plugins[call.plugin].inference, self._plugins.config_of(call.plugin)
            answer = hook(request=request, model=call.model, weights=call.weights, config=config)
            await _close_with(stack, answer)
            source = _Source(answer, call, request.choices)
            await _close_with(stack, stream := source.chunks())
            merged = per_choice(stream, request.choices, lambda index, part: self._filtered(call, part, index))
            await _close_with(stack, merged)
            async for chunk in merged:
                call.record.sent(chunk)
                yield chunk
            if call.usage is not None:
                yield Chunk(usage=call.usage)

    async def _filtered(self, call: Call, chunks: AsyncIterator[Chunk], index: int) -> AsyncGenerator[Chunk]:
        """Run one choice through the post-filters."""
        stages = [_Stage(call.plugin, "inference", chunks)]
        sent: list[str] = []
        async with AsyncExitStack() as stack:
            await _close_with(stack, stream := stages[0].chunks())
            for step in self._stages.post_filter:
                hook, config = self._plugins[step.plugin].post_filter, self._plugins.config_of(step.plugin)
                filtered = hook(
                    chunks=stream,
                    request=cast(Any, call.request),
                    principal=call.principal,
                    policy=call.policy,
                    config=config,
                )
                await _close_with(stack, filtered)
                stages.append(_Stage(step.plugin, "post_filter", filtered))
                await _close_with(stack, stream := stages[-1].chunks())
            try:
                async for chunk in stream:
                    # A later filter that goes on after an earlier one failed is not listened to.
                    if any(stage.has_failed for stage in stages):
                        break
                    # What a filter says only to those after it.
                    if chunk.content_filter_offsets and not chunk.content_filter_results:
                        continue
                    sent.append(_content(chunk))
                    yield replace(chunk, index=index) if chunk.index != index else chunk
            except (ApiError, Refused):
                pass  # The first stage that failed counts, whatever later ones made of it.
            for before, stage in zip([None, *stages], stages, strict=False):
                if isinstance(stage.failure, Refused) and call.outcome is not Outcome.BLOCKED:
                    call.record.withheld[index] = stage.withheld(before, "".join(sent))
                    yield Chunk(
                        index=index,
                        finish_reason="content_filter",
                        content_filter_results=stage.failure.results,
                        content_filter_offsets=stage.failure.offsets,
                    )
                    return
                if stage.failure:
                    raise stage.failure

    # --- afterwards --------------------------------------------------------------------------------------------------

    async def _finish(self, call: Call) -> None:
        if self._observe is not None:
            self._observe(call)
        await self._retain(call)

    async def _retain(self, call: Call) -> None:
        if not self._stages.retain or not call.account.content_logging:
            return
        task = asyncio.create_task(self._retain_all(self._vault_of(call.account), call.exchange()))
        self._retaining.add(task)
        task.add_done_callback(self._retaining.discard)
        # Shielded twice, from anyio's cancellation and from asyncio's: a caller who leaves must not decide what is kept.
        with anyio.CancelScope(shield=True):
            try:
                await asyncio.shield(task)
            except (PluginFailed, AccountKeyUnavailable):
                # Nobody is left to be told, and a cancellation must stay one.
                if call.outcome is not Outcome.ABANDONED:
                    raise

    async def _retain_all(self, vault: Vault, exchange: Exchange) -> None:
        failed: PluginFailed | AccountKeyUnavailable | None = None
        for step in self._stages.retain:
            store = vault.store(exchange.account, step.plugin)
            try:
                async with asyncio.timeout(RETAIN_S):
                    # An answer takes its time, and its account may have been let off storage meanwhile.
                    if self._may_keep is not None and not await self._may_keep(exchange.account):
                        continue
                    await self._plugins.call(step.plugin, "retain", object, exchange=exchange, store=store)
            except (SluicegateError, TimeoutError) as error:
                if not isinstance(error, PluginFailed):
                    log_failure(step.plugin, "retain", error)
                if step.required:
                    failed = error if isinstance(error, AccountKeyUnavailable) else PluginFailed(step.plugin, "retain")
        if failed is not None:
            raise failed


def _check_features(request: Request, model: Model) -> None:
    for param, feature in request.features():
        if feature not in model.features:
            raise Unsupported(
                f"The model {model.id!r} does not support {param!r} here (it lacks the feature {feature!r}). "
                "Leave it out, or use a deployment of another model.",
                param=param,
            )


def _blocked(call: Call, refusal: Refused) -> Refused:
    """Note that the prompt is refused, and return the refusal with all verdicts on that prompt so far."""
    index = refusal.prompt_index
    call.request = call.request.annotate(refusal.results, index)
    call.outcome = Outcome.BLOCKED
    return Refused(call.request.prompt_filter_results[index], prompt_index=index)


async def _close_with(stack: AsyncExitStack, stream: AsyncIterator[Chunk]) -> None:
    await stack.enter_async_context(aclosing(cast(AsyncGenerator[Chunk], stream)))


class _Source:
    """The model's stream, with what belongs to the whole answer taken off: usage and verdicts on the prompt."""

    def __init__(self, answer: AsyncIterator[Chunk], call: Call, choices: int) -> None:
        self._answer = answer
        self._call = call
        self._choices = choices
        self._begun = False

    async def chunks(self) -> AsyncGenerator[Chunk]:
        try:
            async for chunk in self._answer:
                if not 0 <= chunk.index < self._choices:
                    raise IndexError("a choice that was not asked for")
                if chunk.usage is not None or chunk.prompt_filter_results:
                    chunk = self._taken_off(chunk)
                if _says_something(chunk):
                    self._begun = True
                    yield chunk
        except Refused as refusal:
            if self._begun:
                raise
            # The model's own server refused the prompt, which is what a pre-filter does.
            raise _blocked(self._call, refusal) from None

    def _taken_off(self, chunk: Chunk) -> Chunk:
        self._call.usage = chunk.usage or self._call.usage
        for index, results in (chunk.prompt_filter_results or {}).items():
            # Our own verdict on a category stands.
            own = self._call.request.prompt_filter_results.get(index, {})
            self._call.request = self._call.request.annotate({**results, **own}, index)
        return replace(chunk, usage=None, prompt_filter_results=None)


class _Stage:
    """One plugin's output of one choice: names who failed, and remembers what passed.

    Attributes:
        failure: What ended it, even if a later filter reads ahead of what it passes on, in a task of its own.
    """

    def __init__(self, plugin: str, hook: str, stream: AsyncIterator[Chunk]) -> None:
        self.plugin = plugin
        self.hook = hook
        self.failure: ApiError | Refused | None = None
        self._stream = stream
        self._passed: list[str] = []
        self._failed_in: asyncio.Task[Any] | None = None

    @property
    def has_failed(self) -> bool:
        """Whether what was just passed on came after the failure; for the task that reads the last filter."""
        return self.failure is not None and self._failed_in is asyncio.current_task()

    async def chunks(self) -> AsyncGenerator[Chunk]:
        finished = False
        try:
            async for chunk in self._stream:
                content = _content(chunk)
                if finished and content:
                    raise ValueError("content after the finish_reason")
                self._passed.append(content)
                finished = finished or chunk.finish_reason is not None
                yield chunk
            if not finished:
                raise ValueError("an answer without a finish_reason")
        except (ApiError, Refused) as error:
            self._fail(error)
            raise
        except (Exception, asyncio.CancelledError) as error:
            if not is_failure(error):
                raise
            log_failure(self.plugin, self.hook, error)
            failure = PluginFailed(self.plugin, self.hook)
            self._fail(failure)
            raise failure from None

    def withheld(self, before: _Stage | None, sent: str) -> str:
        """Return what this stage had read and the caller was not sent.

        Where a later filter rewrote what was sent, it is what this stage did not let pass.
        """
        read = "".join(before._passed) if before else ""
        return read.removeprefix(sent if read.startswith(sent) else "".join(self._passed))

    def _fail(self, failure: ApiError | Refused) -> None:
        self.failure = failure
        self._failed_in = asyncio.current_task()


def _says_something(chunk: Chunk) -> bool:
    spoken = chunk.text or chunk.refusal or chunk.tool_calls
    return bool(spoken or chunk.logprobs or chunk.finish_reason or chunk.content_filter_results)


def _content(chunk: Chunk) -> str:
    if not chunk.tool_calls:
        return chunk.text + chunk.refusal if chunk.refusal else chunk.text
    calls = "".join((call.name or "") + call.arguments for call in chunk.tool_calls)
    return chunk.text + chunk.refusal + calls
