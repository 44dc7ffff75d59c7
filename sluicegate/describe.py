"""Say in plain words what this deployment does with data, in order: for operators and data-protection officers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

from sluicegate.accounts import Account
from sluicegate.app import Sluicegate
from sluicegate.audit.publishing import WEBHOOK
from sluicegate.config import Step
from sluicegate.errors import SluicegateError, StartupError
from sluicegate.fine_tuning.tuned_models import base_of
from sluicegate.policies import Policy, Source
from sluicegate.retention.weaknesses import name_of
from sluicegate.storage.day_layout import CEILING_DAYS
from sluicegate.tenancy.deployments import Deployment
from sluicegate.tenancy.deployments import read as read_deployment

_STAGES = (
    ("authenticate", "Who is calling"),
    ("pre_filter", "What may reach the model"),
    ("models", "Who answers"),
    ("post_filter", "What may reach the caller"),
    ("retain", "What is kept"),
    ("observe", "Who is told what filters found, without content"),
    ("review", "Who looks at flagged exchanges before any person"),
    ("notify", "How customers are told of violations and penalties"),
)


def describe(gate: Sluicegate) -> str:
    """Return the description, lines of text."""
    return "\n".join(_lines(gate))


async def of_account(gate: Sluicegate, name: str) -> str:
    """Return what happens to one account's data, in order, and close the app: for the record of processing activities.

    Raises:
        StartupError: There is no such account.
    """
    try:
        return "\n".join([line async for line in _of_account(gate, name.lower())])
    finally:
        await gate.shutdown()


async def _of_account(gate: Sluicegate, name: str) -> AsyncIterator[str]:
    account = await gate.accounts.get(name)
    if account is None:
        raise StartupError(f"there is no account {name!r}")
    yield f"Account {name}, location {account.location}: {_place(gate, account.location)}."
    yield ""
    yield "1. Who is calling"
    roles = [
        f"{identity} ({', '.join(sorted(held))})" for identity, held in (await gate.accounts.roles_in(name)).items()
    ]
    keys = "with one of two API keys, stored as hashes" if account.has_local_auth else "not with API keys"
    yield f"   - applications, {keys}"
    yield f"   - people and applications of Entra ID with a role in this account: {', '.join(roles) or 'none'}"
    yield ""
    yield "2. What may reach the model, who answers, and what may reach the caller"
    for each in await gate.deployments.documents(name).every():
        for line in await _of_deployment(gate, account, read_deployment(each.content)):
            yield line
    for step in gate.deployment.pipeline.pre_filter:
        yield f"   - before the model: {step.plugin}{'' if step.required else ', skipped when it fails'}"
    for step in gate.deployment.pipeline.post_filter:
        yield f"   - before the caller: {step.plugin}"
    yield ""
    yield "3. What is kept"
    if not account.content_logging:
        yield "   - no content, by an approved application"
    else:
        for step in gate.deployment.pipeline.retain:
            yield f"   - what {step.plugin} keeps, encrypted, for {account.retention_days} days at most, or less by its settings"
            for setting, value in sorted(gate.deployment.written(step.plugin).items()):
                yield f"       {setting} = {value!r}"
    yield f"   - counts of what filters found, without content, by end users' hashes where it may be abuse, for {account.retention_days} days at most"
    yield "   - audit entries without content, and receipts of whatever was deleted"
    yield ""
    yield "4. Under whose key"
    own = account.customer_key
    yield "   - data keys under a key for each day, destroyed when the day is over its time"
    yield f"   - {'no key of its own' if own is None else f'and under the key {own.label} of its own: without it nothing opens'}"
    yield ""
    yield "5. Who may read what is kept"
    yield "   - officers of the account, and whoever has a caller's key of it, each time for a reason, in the audit log"
    if account.content_logging:
        minutes = gate.deployment.review.access_minutes
        for step in gate.deployment.pipeline.review:
            yield f"   - {step.plugin}, a sample of what a case of abuse lists; a verdict is kept of it"
        yield f"   - a reviewer of the region, what a case lists, for {minutes} minutes once a second reviewer approves, in the audit log"
        yield f"   - an operator, one exchange by its id, for {minutes} minutes once the customer approves, in the audit log"
    yield ""
    yield "6. What limits its access"
    in_force = [penalty.told() for penalty in account.penalties if penalty.holds(penalty.user, gate.now())]
    for told in in_force:
        yield f"   - {told}"
    if not in_force:
        yield "   - nothing"


async def _of_deployment(gate: Sluicegate, account: Account, deployment: Deployment) -> list[str]:
    served = gate.plugins.models().get(base_of(deployment.model))
    provider = f"served by {served[1]}, its provider keeps: {served[0].retention}" if served else "not served here"
    limit = "no limit" if deployment.capacity is None else f"{1000 * deployment.capacity:,} tokens a minute"
    try:
        policy = await gate.policies.resolve(account, deployment.policy)
    except SluicegateError as error:
        return [
            f"   - deployment {deployment.name}: {deployment.model}, {provider}; its policy fails ({type(error).__name__})"
        ]
    lines = [
        f"   - deployment {deployment.name}: {deployment.model}, {provider}; {limit}; policy {policy.name} ({policy.mode})"
    ]
    return [*lines, f"       {_blocks(policy, Source.PROMPT)}; {_blocks(policy, Source.COMPLETION)}"]


def _place(gate: Sluicegate, location: str) -> str:
    deployment = gate.deployment
    place = deployment if location == deployment.region else deployment.regions.get(location)
    if place is None:
        return "a region that is not configured, so nothing of it is served, read or purged"
    return f"what is kept of it is in {_kind(place.storage)} under keys in {_kind(place.keys)}, and nowhere else"


async def with_accounts(gate: Sluicegate) -> str:
    """Return what storage and keys add to the description, and close the app."""
    try:
        return "\n".join([*await _finality(gate), *await _accounts(gate)])
    finally:
        await gate.shutdown()


async def _finality(gate: Sluicegate) -> list[str]:
    accepted = gate.deployment.accepted_weaknesses
    lines = [f"Accepted although deletion is less final by it: {', '.join(accepted) or 'nothing'}."]
    for region in gate.regions:
        try:
            for sentence in await region.weaknesses.found():
                told = (
                    "said in every receipt" if name_of(sentence) in accepted else "not accepted: the app does not start"
                )
                lines.append(f"   - {gate.regions.told(region, sentence)} ({told})")
        except SluicegateError as error:
            unknown = f"whether anything else is, storage and keys cannot be asked ({type(error).__name__})"
            lines.append(f"   - {gate.regions.told(region, unknown)}")
    return lines


async def _accounts(gate: Sluicegate) -> list[str]:
    try:
        found = [account for name in await gate.accounts.names() if (account := await gate.accounts.get(name))]
    except SluicegateError as error:
        return [
            f"Accounts whose policies may switch harms off: not known, storage cannot be read ({type(error).__name__})."
        ]
    keys = [f"{account.name} ({account.customer_key.label})" for account in found if account.customer_key is not None]
    approved = [account.name for account in found if account.modified_filters]
    withheld = [account.name for account in found if not account.content_logging]
    return [
        f"Accounts whose policies may switch harms off: {', '.join(approved) or 'none'}.",
        f"Accounts of which no content is kept: {', '.join(withheld) or 'none'}.",
        f"Accounts with an encryption key of their own: {', '.join(keys) or 'none'}.",
    ]


def _lines(gate: Sluicegate) -> Iterator[str]:
    deployment = gate.deployment
    yield f"Region {deployment.region}. Storage: {_kind(deployment.storage)}. Keys: {_kind(deployment.keys)}."
    for name, place in deployment.regions.items():
        yield f"Region {name}, for accounts that are located there. Storage: {_kind(place.storage)}. Keys: {_kind(place.keys)}."
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
            yield {
                "retain": "   - nothing",
                "observe": "   - nobody",
                "review": "   - nobody",
                "notify": "   - they read it themselves",
            }.get(stage, "   - everything")
    yield ""
    yield from _policies(gate)
    yield gate.safety.describe()
    yield f"Nothing is kept longer than {CEILING_DAYS} days, whatever the settings say. Whatever goes gets a signed receipt."
    places = ", ".join(["this app's log and storage", *map(_sink, deployment.checkpoints)])
    yield f"The audit log's checkpoint is published daily to: {places}."
    unused = sorted(set(gate.plugins.names()) - set(deployment.pipeline.plugins()))
    yield f"Loaded and not in the pipeline: {', '.join(unused) or 'none'}."


def _step(gate: Sluicegate, step: Step) -> Iterator[str]:
    optional = "" if step.required else ", skipped when it fails"
    # The summary is written as reStructuredText, for authors.
    summary = gate.plugins.summary_of(step.plugin).replace("``", "")
    yield f"   - {step.plugin} ({gate.plugins.source_of(step.plugin)}{optional}): {summary}"
    for name, value in sorted(gate.deployment.written(step.plugin).items()):
        yield f"       {name} = {value!r}"


def _policies(gate: Sluicegate) -> Iterator[str]:
    app = gate.app_policies
    yield f"Deployments that name no content-filter policy have {app.default.name}. Policies that all may name:"
    for policy in app.policies.values():
        yield f"   - {policy.name} ({policy.mode}): {_blocks(policy, Source.PROMPT)}; {_blocks(policy, Source.COMPLETION)}"
        for use in policy.blocklists:
            what = "blocks" if use.blocking else "annotates"
            yield f"       {use.source} {what} what is on the list {use.blocklist.name} ({len(use.blocklist.items)} items)"
        if policy.is_asynchronous:
            yield "       streamed answers are sent before they are filtered, and end when something is found"
        if policy.fail_open:
            yield "       where a filter is unavailable, text passes unfiltered and says so"
        if policy.weakened:
            yield f"       for approved accounts only; for others these block too: {', '.join(policy.weakened)}"
    yield ""


def _blocks(policy: Policy, source: Source) -> str:
    blocking = [each.name for each in policy.filters if each.source is source and each.enabled and each.blocking]
    noted = [each.name for each in policy.filters if each.source is source and each.enabled and not each.blocking]
    also = f", notes {', '.join(noted)}" if noted else ""
    return f"{source} blocks {', '.join(blocking) or 'nothing'}{also}"


def _models(gate: Sluicegate, plugin: str) -> Iterator[str]:
    for model, server in gate.plugins.models().values():
        if server == plugin:
            yield f"       model {model.id} ({', '.join(sorted(model.operations))}); its provider keeps: {model.retention}"


def _sink(url: str) -> str:
    """Return where a checkpoint goes; a webhook's path may be a secret."""
    if url.startswith(WEBHOOK):
        return f"{WEBHOOK}https://{urlsplit(url.removeprefix(WEBHOOK)).hostname}/…"
    return _kind(url)


def _kind(url: str) -> str:
    """Return where a URL points without its secrets: a connection string holds a key."""
    if url.startswith(("folder:", "https://")):
        return url
    return url.partition("=")[0] + "=…"
