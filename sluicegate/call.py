"""One authenticated request on its way, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from sluicegate.accounts import Account
from sluicegate.fine_tuning.tuned_models import TunedModel
from sluicegate.policies import DEFAULT_V2, Policy
from sluicegate.requests import Request
from sluicegate.streams import join
from sluicegate.tenancy.rates import Standing
from sluicegate.training import Weights
from sluicegate.types import (
    Answer,
    Chunk,
    Exchange,
    FilterResults,
    Model,
    Outcome,
    Principal,
    Usage,
    utc_now,
)

_END_USER = frozenset({"user", "safety_identifier", "user_security_context"})
"""What identifies the caller's end user, who is kept as a keyed hash only."""


@dataclass(slots=True)
class Call:
    """One authenticated request on its way; the pipeline fills in what becomes of it.

    Attributes:
        id: Opaque; becomes the exchange's id and ``x-request-id``.
        request: Changes as pre-filters pass it on.
        plugin: The plugin that serves ``model``.
        tuned: The account's fine-tuned model that is to answer, of which ``model`` is the base; and its weights.
        standing: How the deployment's limits stand; None where it has none.
        policy: The content-filter policy of the deployment.
    """

    id: str
    principal: Principal
    account: Account
    deployment: str
    model: Model
    plugin: str
    request: Request
    policy: Policy = DEFAULT_V2
    standing: Standing | None = None
    tuned: TunedModel | None = None
    weights: Weights | None = None
    started: datetime = field(default_factory=utc_now)
    outcome: Outcome = Outcome.FAILED
    usage: Usage | None = None
    record: Record = field(default_factory=lambda: Record())

    @property
    def model_name(self) -> str:
        """What the answer says has answered."""
        return self.model.id if self.tuned is None else self.tuned.id

    def exchange(self) -> Exchange:
        """Return what may be retained of this call, as of now."""
        return Exchange(
            id=self.id,
            account=self.account.name,
            deployment=self.deployment,
            model=self.model_name,
            operation=self.request.operation,
            user=self.account.user_hash(self.request.end_user),
            started=self.started,
            finished=utc_now(),
            request=self.request.model_copy(update=dict.fromkeys(_END_USER & self.request.model_fields_set)),
            answers=self.record.answers(),
            prompt_filter_results=self.request.prompt_filter_results,
            usage=self.usage,
            outcome=self.outcome,
        )


class Record:
    """What was sent of each choice, and what a filter withheld of it."""

    def __init__(self) -> None:
        self.withheld: dict[int, str] = {}
        self.cut = False
        self._pieces: dict[int, list[Chunk]] = {}

    def sent(self, chunk: Chunk) -> None:
        """Note one chunk that the caller gets."""
        self._pieces.setdefault(chunk.index, []).append(chunk)
        self.cut = self.cut or chunk.finish_reason == "content_filter"

    def answers(self) -> tuple[Answer, ...]:
        """Return the choices in order, the pieces of each joined."""
        return tuple(self._answer(index) for index in sorted(self._pieces))

    def verdicts(self) -> Iterator[FilterResults]:
        """Yield the verdicts on all pieces of all choices, without most that repeat the ones before."""
        for pieces in self._pieces.values():
            last: FilterResults = {}
            for piece in pieces:
                results = piece.content_filter_results
                # Pieces that were vetted together mostly carry the very same object.
                if results is not last and results != last:
                    yield results
                last = results

    def _answer(self, index: int) -> Answer:
        whole = join(self._pieces[index])
        return Answer(
            text=whole.text,
            tool_calls=whole.tool_calls,
            refusal=whole.refusal,
            withheld=self.withheld.get(index, ""),
            finish_reason=whole.finish_reason,
            content_filter_results=whole.content_filter_results,
        )
