"""Find common English profanity in prompts and answers, by a built-in list of words; the deployment's policy decides what follows.

The list has swear words and vulgar words for people, acts and parts of the body, with their usual inflections, matched as whole
words as blocklists are: case, width, accents and invisible characters make no difference, misspellings do. Slurs against groups of
people are not on it, nor words that are as often harmless: both are for a classifier, which reads what is around them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

from plugins._terms import Scan, Terms, Watch
from sluicegate import Chunk, FilterResults, Policy, Refused, Source, hookimpl
from sluicegate.requests import GenerationRequest, Request
from sluicegate.scopes import passages
from sluicegate.streams import Scanner, Unheld, flows, hold_back

CATEGORY = "profanity"
_VERBS = "fuck motherfuck mindfuck clusterfuck bullshit shit wank piss bugger skullfuck"
_NOUNS = (
    "arse arsehole asshole asshat asswipe bastard bitch bollock bellend bullshitter cocksucker cumshot cunt dickhead "
    "dipshit douchebag dumbass dumbfuck fuckface fuckhead fuckwit jackass jizz knobhead "
    "motherfucker nutsack pisshead shitbag shitface shithead shithole shitshow shitstain slut tosser "
    "twat wanker whore"
)
_OTHERS = (
    "ass asses batshit bitchy bitching bitched bollocks bloody-hell bullshitting bullshitted chickenshit cocksucking "
    "crap crappy damn dammit goddamn goddamned goddammit fuckable fucked-up fuckery fugly half-arsed half-assed "
    "horseshit jack-shit milf omfg piss-off pissed-off shat shitless shitload shitty shitting shitted slutty smartass "
    "stfu titties twatty whoring wtf"
)


def _inflected() -> Iterator[str]:
    for verb in _VERBS.split():
        yield from (verb + ending for ending in ("", "s", "ed", "er", "ers", "ing", "in", "in'"))
    for noun in _NOUNS.split():
        yield from (noun, noun + ("es" if noun.endswith(("ch", "z")) else "s"))
    for word in _OTHERS.split():
        yield from {word, word.replace("-", " ")}


TERMS = Terms({CATEGORY: tuple(_inflected())})


@hookimpl
async def pre_filter(request: Request, policy: Policy) -> Request:
    if not policy.is_on(CATEGORY, Source.PROMPT):
        return request
    read = [passage for passage in passages(request, policy) if passage.is_read_for(CATEGORY, policy)]
    for index in range(request.prompt_count):
        detected = any(TERMS.hits(passage.value) for passage in read if passage.prompt_index == index)
        verdict = policy.judge(CATEGORY, Source.PROMPT, detected=detected)
        if verdict is not None and verdict.blocks:
            raise Refused(verdict.results, prompt_index=index)
        if verdict is not None:
            request = request.annotate(verdict.results, index)
    return request


@hookimpl
async def post_filter(chunks: AsyncIterator[Chunk], request: GenerationRequest, policy: Policy) -> AsyncIterator[Chunk]:
    blocked = _judged(policy, True)
    if not blocked:
        async for chunk in chunks:
            yield chunk
        return
    watches: list[Watch] = []

    def scanner(_: str) -> Scanner:
        if blocked[CATEGORY]["filtered"]:
            scan = Scan(TERMS, lambda _: blocked)
            return Unheld(scan) if flows(request, policy) else scan
        watches.append(Watch(TERMS))
        return watches[-1]

    async for chunk in hold_back(chunks, scanner):
        if chunk.finish_reason is not None:
            results = _judged(policy, any(watch.found for watch in watches))
            chunk = replace(chunk, content_filter_results={**chunk.content_filter_results, **results})
        yield chunk


def _judged(policy: Policy, detected: bool) -> FilterResults:
    verdict = policy.judge(CATEGORY, Source.COMPLETION, detected=detected)
    return verdict.results if verdict is not None else {}
