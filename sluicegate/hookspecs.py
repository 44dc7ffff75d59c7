"""The hooks a plugin may implement: their contract, and a complete example each. Read this first.

A plugin is a module. It implements a hook by defining a function of the same name under ``@hookimpl``, of the same kind as
the method below: ``def`` for ``def``, ``async def`` for ``async def``, and ``async def`` with ``yield`` where the method
yields. It may leave out parameters that it does not use. Each method's body is what happens when no plugin is configured.

Three kinds of failure, everywhere: *not mine* is ``None``; *refused on purpose* is an exception of
:mod:`sluicegate.errors`; *anything else* is a bug, and Sluicegate fails closed, names the plugin in its log and
never logs the exception's message, because it may quote the prompt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from pluggy import HookimplMarker, HookspecMarker

from sluicegate.abuse import FlaggedContent, Notice, ReviewVerdict, Signal
from sluicegate.accounts import Accounts
from sluicegate.policies import Policy
from sluicegate.requests import EmbeddingRequest, GenerationRequest, Request
from sluicegate.services import BlobStore, KeyService
from sluicegate.store import Store
from sluicegate.training import TrainingFiles, TrainingJob, TrainingStep, Weights
from sluicegate.types import (
    Chunk,
    Classification,
    Embeddings,
    Exchange,
    Model,
    PluginConfig,
    Principal,
    Purged,
    Role,
    Scope,
    TextSource,
)

hookspec = HookspecMarker("sluicegate")
hookimpl = HookimplMarker("sluicegate")
"""Marks a function as the implementation of the hook of the same name."""

R = TypeVar("R", bound=Request)


class Hooks(Protocol):
    """Every hook, and the type of a loaded plugin: calling a method calls that plugin."""

    # --- registration: once, when the worker starts ------------------------------------------------------------------

    @hookspec
    def register_config(self) -> type[PluginConfig]:
        """Return the class that validates this plugin's settings, the table ``[plugins.NAME]`` of the deployment file.

        Called once, before any other hook of the plugin; the validated object is the ``config`` of every other hook.
        An unknown or mistyped setting stops the start.

        Example::

            from sluicegate import PluginConfig, hookimpl

            class Config(PluginConfig):
                greeting: str = "hello"

            @hookimpl
            def register_config() -> type[PluginConfig]:
                return Config

        .. versionadded:: 0.1
        """
        return PluginConfig

    @hookspec
    def register_models(self, config: Any) -> Iterable[Model]:
        """Return the models this plugin serves through ``inference`` or ``embed``.

        Called once, after the settings are validated. Two plugins must not register the same id.

        Example::

            from sluicegate import Chunk, Model, hookimpl

            @hookimpl
            def register_models():
                return [Model("parrot", frozenset({"chat.completions"}), context_length=1000)]

            @hookimpl
            async def inference(request):
                yield Chunk(request.messages[-1].content, finish_reason="stop")

        .. versionadded:: 0.1
        """
        return ()

    @hookspec(firstresult=True)
    def open_storage(self, url: str) -> BlobStore | None:
        """Return the blob store that ``url`` names, or None when the scheme is not this plugin's.

        Called once, when the worker starts; must not block, so connect on first use.

        Example::

            from sluicegate import hookimpl
            from sluicegate.testing import MemoryStorage

            @hookimpl
            def open_storage(url):
                return MemoryStorage() if url == "memory:" else None

        .. versionadded:: 0.1
        """
        return None

    @hookspec(firstresult=True)
    def open_keys(self, url: str, identity: str | None) -> KeyService | None:
        """Return the key service that ``url`` names, or None when the scheme is not this plugin's.

        Called when the worker starts, for the deployment's own keys, and later for each account that has a key of its own, with
        that customer's ``url``; must not block, so connect on first use. What it returns is closed when it is not needed.

        Args:
            identity: Client id of the identity to use, where the cloud has such; None for the app's own.

        Example::

            from sluicegate import hookimpl
            from sluicegate.testing import MemoryKeys

            @hookimpl
            def open_keys(url):
                return MemoryKeys() if url == "memory:" else None

        .. versionadded:: 0.1
        """
        return None

    @hookspec
    async def startup(self, config: Any) -> None:
        """Prepare what requests will need, such as a loaded model; nothing is served before it returns.

        Called once, when the first event arrives. Raising stops the start: the event fails and the next one tries again.

        Example::

            from pydantic import PrivateAttr
            from sluicegate import PluginConfig, hookimpl

            class Config(PluginConfig):
                words: str = "words.txt"
                _words: set[str] = PrivateAttr(default_factory=set)

            @hookimpl
            def register_config():
                return Config

            @hookimpl
            async def startup(config):
                config._words.update(open(config.words).read().split())

        .. versionadded:: 0.1
        """

    @hookspec
    async def shutdown(self, config: Any) -> None:
        """Release what ``startup`` took. Called by the embedded host and tests; Azure ends a worker without asking.

        So nothing may depend on it: what must last is durable when the hook that wrote it returns.

        Example::

            from sluicegate import hookimpl

            @hookimpl
            async def shutdown(config):
                await config._session.close()

        .. versionadded:: 0.1
        """

    # --- one request, in the order they are called -------------------------------------------------------------------

    @hookspec
    async def authenticate(
        self, headers: Mapping[str, str], role: Role, accounts: Accounts, config: Any
    ) -> Principal | None:
        """Return who is calling, or None when these headers hold no credential of this plugin's kind.

        Plugins are asked in the configured order and the first answer counts; with none the caller gets a 401. The
        hook must be cheap: it runs before anything else, for callers nobody knows.

        Args:
            headers: Names in lower case.
            role: What the operation needs, for credentials that are good for several roles. Return another role where the
                credential lacks this one: the caller is then told so.
            accounts: The accounts, for looking up a credential.

        Raises:
            Unauthorized: The credential is of this plugin's kind and bad.
            CredentialsUnavailable: It cannot be checked now.

        Example::

            from sluicegate import Principal, Role, Unauthorized, hookimpl

            @hookimpl
            async def authenticate(headers):
                name = headers.get("x-client-certificate-name")
                if name is None:
                    return None
                if name != "CN=payroll":
                    raise Unauthorized("unknown client certificate")
                return Principal("payroll", Role.CALLER, name)

        .. versionadded:: 0.1
        """
        return None

    @hookspec
    async def pre_filter(self, request: R, principal: Principal, policy: Policy, config: Any) -> R:
        """Return the request that the next filter, and finally the model, will see: the same, or a changed copy.

        Called for chat, completions and embeddings alike, in the configured order. ``request.texts()`` yields every
        text the model may read, ``request.map_text(change)`` rewrites them, ``request.annotate(results)`` adds verdicts
        that the answer carries as ``prompt_filter_results``.

        Args:
            policy: The deployment's content-filter policy. A filter detects and ``policy.judge`` decides; a plugin
                that does the same for everybody, such as redacting, leaves the parameter out.

        Raises:
            Refused: The caller gets a 400 with code ``content_filter``; the model sees nothing.
            FilterUnavailable: The filter cannot judge now; the caller gets a 503, unless the policy fails open.

        Example::

            from sluicegate import Refused, Source, hookimpl

            @hookimpl
            async def pre_filter(request, policy):
                heard = any("darn" in text.value.lower() for text in request.texts())
                verdict = policy.judge("profanity", Source.PROMPT, detected=heard)
                if verdict is None:
                    return request
                if verdict.blocks:
                    raise Refused(verdict.results)
                return request.annotate(verdict.results)

        .. versionadded:: 0.1
        """
        return request

    @hookspec
    def detokenize(self, tokens: Sequence[int], model: Model, config: Any) -> str:
        """Return the text of token ids, so that filters can read a prompt or input that was sent as ids.

        Called before the pre-filters for a model whose features include ``token_input``; the model then gets the text.

        Raises:
            InvalidRequest: An id is not in the model's vocabulary.

        Example::

            from sluicegate import hookimpl

            @hookimpl
            def detokenize(tokens):
                return bytes(tokens).decode(errors="replace")

        .. versionadded:: 0.1
        """
        raise NotImplementedError

    @hookspec
    def count_tokens(self, text: str, model: Model, config: Any) -> int:
        """Return how many tokens the model reads a text as, special ones aside.

        Called after ``startup`` by ``python -m sluicegate validate --model``, for each text of training data: a prompt, or the answers
        of an example. Without this hook tokens can only be estimated.

        Example::

            from sluicegate import hookimpl

            @hookimpl
            def count_tokens(text):
                return len(text.encode())

        .. versionadded:: 0.1
        """
        raise NotImplementedError

    @hookspec
    async def inference(
        self, request: GenerationRequest, model: Model, weights: Weights | None, config: Any
    ) -> AsyncIterator[Chunk]:
        """Yield the model's answer as it is produced; a non-streamed answer is this stream, collected.

        ``request`` is a ``ChatRequest`` or a ``CompletionRequest``. Choices are told apart by ``Chunk.index``: ``n`` of
        them, for completions ``n`` per prompt, prompt by prompt. Each choice's last chunk has a ``finish_reason``.
        ``Chunk.usage`` is cumulative and may come at any time, best with every chunk, so that an answer that is cut is still counted.
        The generator is closed when the caller goes away or a filter ends the answer: stop the model then. Features that
        ``Model.features`` does not name have been refused before.

        Args:
            weights: Of the account's own model that is to answer, which ``fine_tune`` of this plugin has made of ``model``; None is
                ``model`` itself. What is kept of them in memory must be used for no other weights, and go within 60 seconds
                of ``weights.exist`` saying no. A plugin that does not train leaves the parameter out.

        Raises:
            InvalidRequest: For example code ``context_length_exceeded``.
            Refused: The model's own server refused the prompt (before the first chunk) or cut the answer.
            ModelUnavailable: Not reachable now; ``retry_after_s`` says when to come back.
            UpstreamError: An upstream refused; its status is passed on.

        Example::

            from sluicegate import Chunk, Model, Usage, hookimpl

            @hookimpl
            def register_models():
                return [Model("constant", frozenset({"chat.completions", "completions"}))]

            @hookimpl
            async def inference(request, model):
                words = ("Every ", "answer ", "is ", "the ", "same.")
                for count, word in enumerate(words, 1):
                    yield Chunk(word, usage=Usage(prompt_tokens=1, completion_tokens=count))
                yield Chunk(finish_reason="stop")

        .. versionadded:: 0.1
        """
        yield Chunk(finish_reason="stop")

    @hookspec
    async def embed(self, request: EmbeddingRequest, model: Model, config: Any) -> Embeddings:
        """Return one vector per input, in input order.

        Returns:
            ``vectors`` of ``model.dimensions`` (or ``request.dimensions``) float32, unit L2 norm.

        Raises:
            InvalidRequest: For example an input that is longer than the model's context.
            Refused: The model's own server refused the input.
            ModelUnavailable: Not loaded yet; ``retry_after_s`` says when to come back.

        Example::

            import struct
            from sluicegate import Embeddings, Model, Usage, hookimpl

            @hookimpl
            def register_models():
                return [Model("unit", frozenset({"embeddings"}), dimensions=2)]

            @hookimpl
            async def embed(request):
                return Embeddings(tuple(struct.pack("<2f", 1.0, 0.0) for _ in request.inputs), Usage(1))

        .. versionadded:: 0.1
        """
        raise NotImplementedError

    @hookspec
    async def post_filter(
        self,
        chunks: AsyncIterator[Chunk],
        request: GenerationRequest,
        principal: Principal,
        policy: Policy,
        config: Any,
    ) -> AsyncIterator[Chunk]:
        """Yield what the next filter, and finally the caller, will see of one choice of the answer.

        One chain of filters runs per choice, so every chunk has the same ``index``. A filter that needs to see more
        than one chunk at a time holds back with the helpers of :mod:`sluicegate.streams`, and where the policy is asynchronous
        (``flows``) lets text go that it would only note or block; one that reads text in windows and does not change it leaves
        that, and the policy's mode, to :func:`sluicegate.vetting.vet`. Text in ``tool_calls`` and ``refusal``
        reaches the caller too. A filter passes the ``finish_reason`` on, after which no text follows; to end the answer early
        it raises.

        Args:
            policy: The deployment's content-filter policy, as for ``pre_filter``.

        Raises:
            Refused: The choice ends with ``finish_reason: "content_filter"`` and these verdicts; what was held back
                is not sent, and no later filter can change that.
            FilterUnavailable: The filter cannot judge now; the answer ends with an error.

        Example::

            import re
            from dataclasses import replace
            from sluicegate import hookimpl
            from sluicegate.streams import by_word

            @hookimpl
            async def post_filter(chunks):
                async for chunk in by_word(chunks):
                    yield replace(chunk, text=re.sub(r"\\S+@\\S+", "[email]", chunk.text), logprobs=None)

        .. versionadded:: 0.1
        """
        async for chunk in chunks:
            yield chunk

    @hookspec
    async def retain(self, exchange: Exchange, store: Store, config: Any) -> None:
        """Keep what may be kept of one exchange; durable when this returns.

        Called for every authenticated exchange, whatever became of it, before the answer's last byte; shielded from the
        caller going away. It has 10 seconds. A plugin that implements it must implement ``purge``.

        Args:
            store: The plugin's own encrypted namespace in the exchange's account.

        Example::

            from sluicegate import Purged, hookimpl

            @hookimpl
            async def retain(exchange, store):
                await store.keep(exchange.id, exchange.outcome.encode(), user=exchange.user)

            @hookimpl
            async def purge(scope, store):
                return await store.purge(scope, days=7)

        .. versionadded:: 0.1
        """

    @hookspec
    async def observe(self, signals: Sequence[Signal], config: Any) -> None:
        """Take note of what filters found in some exchanges, without their content; for metrics and for other monitoring.

        Called every few seconds with what came since, in the order of time, for every authenticated exchange, also of accounts of
        whose content nothing is kept. It is outside of any request and has 10 seconds; what it raises is logged without its
        message, and the next batch comes all the same. A process that dies takes with it what it has not handed over.
        People, applications and addresses are keyed hashes, which are personal data: count them, and keep them no longer than content.

        Example::

            from collections import Counter
            from pydantic import PrivateAttr
            from sluicegate import PluginConfig, hookimpl

            class Config(PluginConfig):
                _blocked: Counter[str] = PrivateAttr(default_factory=Counter)

            @hookimpl
            def register_config():
                return Config

            @hookimpl
            async def observe(signals, config):
                config._blocked.update(signal.account for signal in signals if signal.is_blocked)

        .. versionadded:: 0.1
        """

    @hookspec
    async def review(self, flagged: FlaggedContent, config: Any) -> ReviewVerdict:
        """Look once more at an exchange in which filters found something, before any person does.

        Called by the timer ``abuse`` for a sample of a new case's exchanges, one at a time, within 20 seconds. Where all of them are
        ``benign`` the case ends; otherwise a person decides, so say ``unsure`` rather than guess. Keep nothing of it, and log nothing of it.

        Raises:
            ApiError: Not now; the case waits, and the next run tries again.

        Example::

            from sluicegate import hookimpl
            from sluicegate.abuse import ReviewVerdict

            @hookimpl
            async def review(flagged):
                is_fiction = "Once upon a time" in str(flagged.record)
                return ReviewVerdict("benign", confidence=0.9) if is_fiction else ReviewVerdict("unsure")

        .. versionadded:: 0.1
        """
        return ReviewVerdict("unsure")

    @hookspec
    async def notify(self, notice: Notice, config: Any) -> None:
        """Deliver a notice to the customer it is for: a confirmed violation, a penalty, its end.

        Called by the timer ``abuse`` for each plugin under ``pipeline.notify``, one notice at a time, within 20 seconds. Returning says that it is
        delivered; raising, whatever it is, that it is not, and it is called again after 5 minutes, then 10, and so on, for about three days. A
        process that dies after delivering calls it again, so let the receiver tell by ``notice.id`` that it has one already. The customer can read
        every notice at ``governance/notices``, delivered or not.

        Example::

            from pathlib import Path
            from sluicegate import PluginConfig, hookimpl

            class Config(PluginConfig):
                folder: Path = Path("notices")

            @hookimpl
            def register_config():
                return Config

            @hookimpl
            async def notify(notice, config):
                (config.folder / f"{notice.id}.txt").write_text(notice.text)

        .. versionadded:: 0.1
        """

    # --- text that is in no request ----------------------------------------------------------------------------------

    @hookspec
    async def classify(self, text: str, source: TextSource, config: Any) -> Classification:
        """Return what the plugin's classifier makes of one text, of any length; a policy decides what follows.

        Called for text outside of requests, such as each row of ``python -m sluicegate classify``; filters of requests
        and answers implement ``pre_filter`` and ``post_filter``. Keep nothing of the text, and log nothing of it.

        Args:
            source: ``prompt``, ``completion`` or ``document``.

        Example::

            from sluicegate import Classification, hookimpl

            @hookimpl
            async def classify(text):
                score = 1.0 if "bomb" in text else 0.0
                return Classification({"violence": score}, {"violence": 4 if score else 0}, frozenset())

        .. versionadded:: 0.1
        """
        raise NotImplementedError

    # --- timers ------------------------------------------------------------------------------------------------------

    @hookspec
    async def purge(self, scope: Scope, store: Store, config: Any) -> Purged:
        """Delete what ``scope`` names and return what is gone; run again, it finds nothing to do.

        The purge timer calls it for each account with ``Expired``: everything whose time is up, by the plugin's settings
        or the account's, whichever is less. A deletion calls it once, in one account, with ``OfRecord``, ``OfUser`` or
        ``OfAccount``: what the plugin has kept so far of one record, of one end user (a keyed hash, as
        ``Exchange.user``), or of everybody. ``store.purge`` does all of these for what was kept in ``store``.

        Raising lets the other plugins go on; the timer's invocation fails and the next tick tries again, a deletion
        is reported as incomplete. See ``retain`` for an example.

        .. versionadded:: 0.1
        """
        return Purged()

    @hookspec
    async def fine_tune(self, job: TrainingJob, files: TrainingFiles, deadline: datetime, config: Any) -> TrainingStep:
        """Train for one bounded step and return what it has done.

        Called for a job of a model that this plugin registered, again and again, in any process, until a step says that it
        is finished; the job is checked, and alone in the app at the time. What the step writes to ``files`` counts once it
        has returned: a process that dies takes its step with it, and the next call gets the state of the step before.
        So write under a name that the state does not mention yet, and delete what no state mentions any more.

        Args:
            deadline: Return before it (aware, UTC); the process may be ended soon after.

        Raises:
            TrainingFailed: The job cannot succeed; its message is shown to the customer, so it quotes no example.
            ModelUnavailable: Not now; the step is tried again later, and the job waits.

        Example::

            from sluicegate import hookimpl
            from sluicegate.training import Checkpoint, Hyperparameters, Metrics, TrainingStep

            async def counted(files):
                size = sum([len(piece) async for piece in files.training()])
                yield str(size).encode()

            @hookimpl
            async def fine_tune(job, files):
                await files.write("size", counted(files))
                checkpoint = Checkpoint(Metrics(1, train_loss=0.0, train_mean_token_accuracy=1.0), weights="size")
                return TrainingStep({}, True, Hyperparameters(1, 1, 1.0), checkpoints=(checkpoint,))

        .. versionadded:: 0.1
        """
        raise NotImplementedError

    @hookspec
    async def forget_training(self, job: TrainingJob, config: Any) -> tuple[str, ...]:
        """End what goes on for a job outside of the app, and delete what lies there; say what is gone.

        Called when a job that did not succeed is over (cancelled, or failed), and when a job is deleted; by a plugin that trains
        elsewhere, and left out by one that keeps everything in ``TrainingFiles``. A job that has just died in a step is called
        with the state of the step before, so look for what that step may have left. Models that a finished step handed over are
        deleted by ``forget_model``, not here. Run again, it finds nothing to do.

        Returns:
            Names of what is gone, a line each, for the receipt; without content.

        Raises:
            ApiError: Something may be left; tried again later, and no receipt is given before.

        Example::

            from sluicegate import hookimpl

            @hookimpl
            async def forget_training(job):
                return (f"dataset {job.state['dataset']} at the trainer",) if "dataset" in job.state else ()

        .. versionadded:: 0.1
        """
        return ()

    @hookspec
    async def forget_model(self, name: str, model: Model, config: Any) -> tuple[str, ...]:
        """Delete a fine-tuned model, or a checkpoint, where it is outside of the app; say what is gone.

        Called before the model is deleted here, for one whose checkpoint had ``elsewhere``.

        Args:
            name: What ``Checkpoint.elsewhere`` was.
            model: The base model, as the plugin registered it.

        Returns:
            Names of what is gone, as for ``forget_training``.

        Raises:
            Conflict: It is in use there; the customer is told, and nothing is deleted here.
            ApiError: It may still be there; likewise.

        Example::

            from sluicegate import hookimpl

            @hookimpl
            async def forget_model(name):
                return (f"model {name} at the trainer",)

        .. versionadded:: 0.1
        """
        return ()
