"""Prompts: what of a request the service reads, and what the policy makes of the worst of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from sluicegate import FilterResults, InvalidRequest, Policy, Refused, Source
from sluicegate.requests import Request
from sluicegate.scopes import Passage, passages

from .pieces import grouped, packed, readable, together
from .service import CATEGORIES
from .verdicts import with_blocklists, worst

if TYPE_CHECKING:
    from .config import Config


async def filtered(request: Request, policy: Policy, config: Config) -> Request:
    """Return the request with verdicts on each of its prompts.

    Raises:
        Refused: The policy blocks a prompt, or a blocklist of the resource's is hit: the first such prompt.
        InvalidRequest: It needs more calls than the settings allow.
        FilterUnavailable: The service does not answer.
    """
    policy = with_blocklists(policy, config.blocklists)
    read = passages(request, policy)
    plans = [
        _plan([passage for passage in read if passage.prompt_index == index], policy, config)
        for index in range(request.prompt_count)
    ]
    if sum(len(plan.analyses) + len(plan.shields) for plan in plans) > config.most_calls:
        raise InvalidRequest(
            f"This request needs more than the {config.most_calls} calls of the content filter that are allowed here: "
            "send less text, or fewer inputs at a time.",
            code="context_length_exceeded",
        )
    found = await together(_results(plan, policy, config) for plan in plans)
    for index, results in enumerate(found):
        if any(result["filtered"] for result in results.values()):
            raise Refused(results, prompt_index=index)
        request = request.annotate(results, index)
    return request


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be asked about one prompt.

    Attributes:
        harms: Keys of the categories that are looked for.
        attacks: Likewise, of ``jailbreak`` and ``indirect_attack``.
        analyses: A text each; ``True`` where harms are looked for in it, ``False`` where blocklists alone are.
        shields: A piece of the user's text, possibly empty, and documents.
    """

    harms: tuple[str, ...]
    attacks: tuple[str, ...]
    analyses: tuple[tuple[str, bool], ...]
    shields: tuple[tuple[str, list[str]], ...]


def _plan(read: Sequence[Passage], policy: Policy, config: Config) -> _Plan:
    def texts(category: str, *, others: bool = False) -> list[str]:
        return [readable(each.value) for each in read if each.is_read_for(category, policy) is not others]

    harms = tuple(each for each in CATEGORIES if config.harms and policy.is_on(each, Source.PROMPT))
    attacks = tuple(
        each for each in ("jailbreak", "indirect_attack") if config.prompt_shields and policy.is_on(each, Source.PROMPT)
    )
    analyses = [(piece, True) for piece in packed(texts("hate"))] if harms or config.blocklists else []
    if config.blocklists:
        # Lists see the whole request, also what was read for harms when it was new.
        analyses += [(piece, False) for piece in packed(texts("hate", others=True))]
    prompts = packed(texts("jailbreak")) if "jailbreak" in attacks else []
    documents = grouped(texts("indirect_attack")) if "indirect_attack" in attacks else []
    shields = ((prompt or "", group or []) for prompt, group in zip_longest(prompts, documents))
    return _Plan(harms, attacks, tuple(analyses), tuple(shields))


async def _results(plan: _Plan, policy: Policy, config: Config) -> FilterResults:
    service = config.service
    found = worst(
        await together(
            service.analyse(text, plan.harms if for_harms else (), config.blocklists)
            for text, for_harms in plan.analyses
        )
    )
    attacks = await together(service.attacks(prompt, documents) for prompt, documents in plan.shields)
    verdicts = [policy.judge(each, Source.PROMPT, severity=found.severity.get(each, 0)) for each in plan.harms]
    detected = {
        "jailbreak": any(each.prompt for each in attacks),
        "indirect_attack": any(each.documents for each in attacks),
    }
    verdicts += [policy.judge(each, Source.PROMPT, detected=detected[each]) for each in plan.attacks]
    if found.blocklists:
        verdicts.append(policy.judge_blocklists(found.blocklists, Source.PROMPT))
    return {verdict.category: verdict.result for verdict in verdicts if verdict}
