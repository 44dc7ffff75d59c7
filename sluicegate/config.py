"""What the operator decides: the deployment file and the app settings it refers to.

The file is TOML. A string in it may name an app setting (environment variable) as ``%NAME%``, the way bindings of Azure
Functions do; a setting that is not set stops the start, so nothing falls back to a default by accident.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from sluicegate.errors import StartupError

CONFIG_SETTING = "SLUICEGATE_CONFIG"
DEFAULT_PATH = "config/deployment.toml"
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SETTING = re.compile(r"%([A-Za-z_][A-Za-z0-9_]*)%")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class Step(_Section):
    """One plugin in one stage of the pipeline; in the file a name, or ``{ plugin = "…", required = false }``."""

    plugin: str
    required: bool = True
    """Whether a failure of the plugin stops the request. Only ``pre_filter`` and ``retain`` may say false."""


class Pipeline(_Section):
    """Which plugins run in which stage, in this order."""

    authenticate: tuple[Step, ...]
    pre_filter: tuple[Step, ...] = ()
    models: tuple[Step, ...] = Field(min_length=1)
    """The plugins that serve models."""
    post_filter: tuple[Step, ...] = ()
    retain: tuple[Step, ...] = ()
    observe: tuple[Step, ...] = ()
    """The plugins that are told what filters found, without content."""
    review: tuple[Step, ...] = ()
    """The plugin that looks at flagged exchanges before any person does; none, and a person looks at once."""
    notify: tuple[Step, ...] = ()
    """The plugins that deliver notices to customers."""

    @field_validator(
        "authenticate", "pre_filter", "models", "post_filter", "retain", "observe", "review", "notify", mode="before"
    )
    @classmethod
    def _names_are_steps(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"plugin": item} if isinstance(item, str) else item for item in value]

    @field_validator("review")
    @classmethod
    def _one_reviews(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        if len(steps) > 1:
            raise ValueError("at most one plugin reviews")
        return steps

    @field_validator("authenticate", "models", "post_filter", "observe", "review", "notify")
    @classmethod
    def _always_required(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        if any(not step.required for step in steps):
            raise ValueError("'required = false' is possible for pre_filter and retain only")
        return steps

    def plugins(self) -> tuple[str, ...]:
        """Return the names of all plugins in use, each once, in order of first use."""
        before, after = (self.authenticate, self.pre_filter), (self.retain, self.observe, self.review, self.notify)
        stages = (*before, self.models, self.post_filter, *after)
        return tuple(dict.fromkeys(step.plugin for stage in stages for step in stage))


class Limits(_Section):
    """What bounds the use of one worker; rates are those of each deployment's capacity."""

    requests_at_once: int = Field(100, ge=1, le=10_000)
    """Of one account."""
    stored_files: int = Field(500, ge=0, le=10_000)
    """Uploaded files that one account may have."""
    stored_files_gib: int = Field(10, ge=1, le=10_000)
    """How large the uploaded files of one account may be together."""


class FineTuning(_Section):
    """How fine-tuning is guarded, and what one account may have of it."""

    safety_evaluation: Literal["required", "off"] = "required"
    """Whether training data is shown to the classifiers in the pipeline before a job trains; where there is none, jobs then fail.
    ``off`` trains on data that nobody has looked at."""
    step_s: int = Field(120, ge=10, le=1200)
    """Seconds that a step of a job may take, which is what is lost of it when its process ends."""
    running_jobs: int = Field(1, ge=1, le=100)
    """Jobs of one account that train at once."""
    queued_jobs: int = Field(20, ge=0, le=1000)
    """Jobs of one account that wait or are paused, beside those that train."""
    stored_jobs: int = Field(100, ge=1, le=10_000)
    """Jobs that one account may have, those that are over among them."""
    job_hours: int = Field(720, ge=1, le=8760)
    """How long a job may take from its start; it fails then."""
    deployments: int = Field(5, ge=0, le=1000)
    """Deployments of fine-tuned models that one account may have."""


class Abuse(_Section):
    """When what filters find looks like abuse; :mod:`sluicegate.monitoring.scoring` says what a score is made of."""

    account_threshold: float = Field(0.6, gt=0, le=1)
    """From which score on an account as a whole is looked into."""
    user_threshold: float = Field(0.6, gt=0, le=1)
    """From which score on an end user of an account is looked into."""
    window_days: int = Field(7, ge=1, le=30)
    """How far back signals count."""


class Review(_Section):
    """How patterns of abuse are looked into; :mod:`sluicegate.monitoring.cases` and :mod:`sluicegate.monitoring.access`."""

    access_minutes: int = Field(60, ge=5, le=480)
    """How long access to content lasts once a second person has approved it."""
    keep_days: int = Field(365, ge=30, le=1825)
    """How long a closed case, which has no content, is kept after its last change."""


class Penalties(_Section):
    """What follows when a reviewer has confirmed a violation; :mod:`sluicegate.monitoring.actions` has the steps."""

    remediation_days: int = Field(7, ge=0, le=90)
    """How long the customer has to answer before anything else happens."""
    throttle_percentage: int = Field(25, ge=1, le=99)
    """What is left of the limits in the first penalty."""
    throttle_days: int = Field(14, ge=1, le=90)
    """How long that lasts."""
    block_days: int = Field(30, ge=1, le=365)
    """How long access is blocked after that, where there was still no answer."""
    severe: tuple[str, ...] = ("child_safety", "terrorism")
    """Confirmed categories that are blocked at once."""


class Place(_Section):
    """A further region: where the data of accounts lives that are in it."""

    storage: str
    """URL of its blob store, for the ``open_storage`` hook; no other region's."""
    keys: str
    """URL of its key service, for the ``open_keys`` hook; no other region's."""


class Deployment(_Section):
    """The deployment file."""

    storage: str
    """URL of the blob store, for the ``open_storage`` hook."""
    keys: str
    """URL of the key service, for the ``open_keys`` hook."""
    region: str
    """Where this deployment runs; sent as ``x-ms-region``. Accounts of this region have their data in ``storage`` and ``keys``."""
    regions: Mapping[str, Place] = Field(default_factory=dict)
    """Further regions that accounts can be in, by name: lower-case letters, digits and hyphens."""
    accepted_weaknesses: tuple[str, ...] = ()
    """What may make deletion less than final here, each by the words before its colon. The app does not start where anything
    else does; what is accepted is said in every receipt."""
    installed: tuple[str, ...] = ()
    """Entry points of the group ``sluicegate`` to load beside the folder ``plugins/``; others are not even imported."""
    checkpoints: tuple[str, ...] = ()
    """Where the audit log's daily checkpoint is published besides the app's own log and storage: URLs for the ``open_storage``
    hook, or ``webhook:https://…``."""
    import_hosts: tuple[str, ...] = ()
    """Hosts that files may be imported from by https, such as ``contoso.blob.core.windows.net``; none, and nobody imports."""
    pipeline: Pipeline
    limits: Limits = Limits()
    fine_tuning: FineTuning = FineTuning()
    abuse: Abuse = Abuse()
    review: Review = Review()
    penalties: Penalties = Penalties()
    plugins: Mapping[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings by plugin."""
    default_policy: str = "Microsoft.DefaultV2"
    """The content-filter policy of deployments that name none."""
    policies: Mapping[str, dict[str, Any]] = Field(default_factory=dict)
    """Content-filter policies that every account may use, by name, in the form of ARM's ``properties``."""
    blocklists: Mapping[str, dict[str, Any]] = Field(default_factory=dict)
    """Blocklists that every policy may use, by name: ``items``, in the form of ARM's."""

    @model_validator(mode="after")
    def _regions_share_nothing(self) -> Deployment:
        places = [(self.region, self), *self.regions.items()]
        for number, (name, place) in enumerate(places):
            if number and (not _REGION.fullmatch(name) or name == self.region):
                raise ValueError(
                    "regions: a name has lower-case letters, digits and hyphens, and is not the home region's"
                )
            for other, another in places[:number]:
                for what in ("storage", "keys"):
                    if is_same(getattr(place, what), getattr(another, what)):
                        raise ValueError(f"regions.{name}.{what}: it is that of {other}; each region has its own")
        return self

    _written: Mapping[str, Mapping[str, Any]] = PrivateAttr(default_factory=dict)

    def written(self, plugin: str) -> Mapping[str, Any]:
        """Return a plugin's settings as the file has them, with app settings by their names: safe to show."""
        return self._written.get(plugin, {})


def load(root: Path, environment: Mapping[str, str] = os.environ) -> Deployment:
    """Read the deployment file of the app in ``root``.

    Raises:
        StartupError: It is missing, malformed, or refers to an app setting that is not set.
    """
    path = root / environment.get(CONFIG_SETTING, DEFAULT_PATH)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartupError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartupError(f"{path}: not TOML: {error}") from None
    try:
        deployment = Deployment.model_validate(_resolved(document, environment, path.name))
    except ValidationError as error:
        raise StartupError(f"{path}: {describe(error)}") from None
    deployment._written = document.get("plugins", {})
    return deployment


def is_same(one: str, other: str) -> bool:
    """Return whether two URLs of storage or keys name the same place."""
    return one.rstrip("/").lower() == other.rstrip("/").lower()


_IN_TOML = {
    "missing": "is missing",
    "extra_forbidden": "there is no such setting; look for a misspelling",
    "tuple_type": "should be a list, in square brackets",
    "model_type": "should be a table",
    "dict_type": "should be a table",
    "too_short": "should name at least one",
}
"""What pydantic says in words of Python, by its type of error."""


def describe(error: ValidationError) -> str:
    """Return what is wrong with settings, field by field, without any value."""
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        what = _IN_TOML.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        where = ".".join(str(part) for part in problem["loc"])
        problems.append(f"{where}: {what}" if where else what)
    return "; ".join(problems)


def _resolved(value: Any, environment: Mapping[str, str], where: str) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item, environment, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, environment, where) for item in value]
    if isinstance(value, str):
        for name in _SETTING.findall(value):
            if name not in environment:
                raise StartupError(f"{where} refers to the app setting {name}, which is not set")
        return _SETTING.sub(lambda match: environment[match[1]], value)
    return value
