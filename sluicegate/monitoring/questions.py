"""What an application asks: criteria, use case, justification, and what the applicant attests.

The questions are those of Microsoft's forms for modified abuse monitoring and modified content filters, as far as they are public.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator


class Kind(StrEnum):
    """What is applied for."""

    ABUSE_MONITORING = "modified_abuse_monitoring"
    """Nothing is kept for abuse monitoring, and nobody reviews it."""
    CONTENT_FILTERS = "modified_content_filters"
    """Policies may switch harms off, or to annotate only."""


CRITERIA: Mapping[Kind, Mapping[str, str]] = {
    Kind.ABUSE_MONITORING: {
        "sensitive_data": "Prompts or answers hold sensitive, confidential or legally regulated data.",
        "low_risk": "The use case bears little risk of harmful or unlawful content.",
        "no_right_to_permit_review": "The organisation has no right, by law or contract, to permit others to review the data.",
    },
    Kind.CONTENT_FILTERS: {
        "professional_content": "The use case handles content that the filters block and the law allows, such as medicine or fiction.",
        "moderation": "The use case finds or moderates harmful content itself.",
        "own_filters": "The organisation filters with measures of its own that fit the use case better.",
    },
}
"""Kind -> the criteria of which at least one must hold."""
ATTESTATIONS: Mapping[Kind, Mapping[str, str]] = {
    Kind.ABUSE_MONITORING: {
        "own_measures": "The organisation runs systems and measures that keep use within the code of conduct.",
        "accepts_risk": "The organisation accepts the risk of abuse that goes unnoticed because nothing is kept or reviewed.",
        "answers_signals": "The organisation answers when signals without content point at abuse, and knows that access may end.",
        "is_authorised": "The applicant may bind the organisation for the whole subscription.",
    },
    Kind.CONTENT_FILTERS: {
        "own_measures": "The organisation runs systems and measures that keep use within the code of conduct.",
        "accepts_risk": "The organisation accepts the risk of harmful content that is no longer blocked.",
        "is_authorised": "The applicant may bind the organisation for the whole subscription.",
    },
}
"""Kind -> what must all be attested."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=20, max_length=4000)]


class Answers(BaseModel):
    """An application's body.

    Attributes:
        criteria: Names of :data:`CRITERIA`.
        attestations: All names of :data:`ATTESTATIONS`, each true.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Kind
    criteria: tuple[str, ...] = Field(min_length=1)
    use_case: Text
    justification: Text
    attestations: dict[str, bool]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if unknown := set(self.criteria) - CRITERIA[self.kind].keys():
            raise ValueError(f"criteria: {len(unknown)} unknown; there are {', '.join(CRITERIA[self.kind])}")
        needed = ATTESTATIONS[self.kind]
        if self.attestations.keys() - needed.keys():
            raise ValueError(f"attestations: some are unknown; there are {', '.join(needed)}")
        if missing := [name for name in needed if self.attestations.get(name) is not True]:
            raise ValueError(f"attestations: all must be true; missing are {', '.join(missing)}")
        return self

    def texts(self) -> dict[str, str]:
        """Return what the applicant wrote freely."""
        return {"use_case": self.use_case, "justification": self.justification}

    def ticked(self) -> dict[str, list[str]]:
        """Return the rest: criteria and attestations, by their names."""
        return {"criteria": sorted(self.criteria), "attestations": sorted(self.attestations)}
