"""What the gateway's experiment page shows of a rollout: who gets what, what is known of the trial, and how it came about.

Decides fields and bounds of the answer. Where a trial stands is the operator's status, told as it is; what is known is
the analyst's counts, read by the rules of the policy (`ratchet_gateway.experiments`). Nothing in it is about a person.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ratchet_api.base import ObjectName, StatusModel
from ratchet_api.rollout import Percent, RolloutStatus

Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
Standing = Literal["worse", "safe", "better", "open", "tooFew"]
"""What a metric has shown: to be worse by more than its margin, not to be, to be better, nothing yet, or too few spoke."""


class Bound(StatusModel):
    """The difference of the feedback at one moment, with the bounds that decide. All three are missing while too few spoke."""

    at: Annotated[str, Field(max_length=32, description="at: the moment, by the events' own times.")]
    difference: Annotated[
        Number | None, Field(default=None, description="difference: candidate's mean minus champion's.")
    ]
    low: Annotated[Number | None, Field(default=None, description="low: above it with the confidence of promotions.")]
    high: Annotated[Number | None, Field(default=None, description="high: below it with the confidence of rollbacks.")]
    candidate: Annotated[Count, Field(description="candidate: its subjects whose feedback counts by then.")]
    champion: Annotated[Count, Field(description="champion: as of the candidate, in the control arm.")]
    share: Annotated[
        float | None,
        Field(default=None, ge=0, le=1, description="share: the candidate's of all who were dealt an arm by then."),
    ]
    p_value: Annotated[float, Field(ge=0, le=1, description="pValue: of equal shares, by the loudest look until then.")]


class MetricShown(StatusModel):
    """One metric now."""

    name: Annotated[str, Field(max_length=64, description="name: feedback, errors, abstentions or feedbackRate.")]
    role: Annotated[Literal["goal", "guardrail"], Field(description="role: what decides, or what must not get worse.")]
    standing: Standing
    candidate: Annotated[Number | None, Field(default=None, description="candidate: its mean or its share.")]
    champion: Annotated[Number | None, Field(default=None, description="champion: as of the candidate.")]
    candidate_subjects: Count
    champion_subjects: Count
    improvement: Annotated[
        Number | None, Field(default=None, description="improvement: in points, positive = better; not of errors.")
    ]
    low: Annotated[Number | None, Field(default=None, description="low: bound of the improvement for promotions.")]
    high: Annotated[Number | None, Field(default=None, description="high: bound of it for rollbacks.")]
    margin: Annotated[
        Number | None, Field(default=None, description="margin: how much worse still counts as no worse; of means.")
    ]
    ratio: Annotated[
        Number | None, Field(default=None, description="ratio: to the champion's share that is too much; of errors.")
    ]
    more: Annotated[Count | None, Field(default=None, description="more: subjects that it takes yet, as it looks.")]
    sentence: Annotated[str, Field(max_length=1024, description="sentence: the same in words.")]


class SplitShown(StatusModel):
    """How the subjects were dealt."""

    candidate: Annotated[Count, Field(description="candidate: subjects whose first answer was the candidate's.")]
    champion: Annotated[Count, Field(description="champion: those of the control arm.")]
    p_value: Annotated[float, Field(ge=0, le=1, description="pValue: of equal shares, by the loudest look.")]
    alarm: Annotated[float, Field(ge=0, le=1, description="alarm: from this pValue down nothing is decided.")]
    healthy: bool


class TrialCounted(StatusModel):
    """What the analyst counted of the trial."""

    candidate: Annotated[int | None, Field(default=None, description="candidate: version that it got.")]
    champion: Annotated[int | None, Field(default=None, description="champion: version that control got.")]
    watermark: Annotated[str | None, Field(default=None, max_length=32, description="watermark: end of what counts.")]
    attribution_seconds: Annotated[float, Field(ge=0, description="attributionSeconds: how long feedback counts.")]
    subjects_per_day: Annotated[float, Field(ge=0, description="subjectsPerDay: of both arms.")]
    late: Annotated[Count, Field(description="late: feedback that came after its subject's window.")]
    crossed: Annotated[Count, Field(description="crossed: subjects that met both arms.")]
    dropped: Annotated[Count, Field(description="dropped: records that servers lost.")]
    split: SplitShown
    metrics: Annotated[tuple[MetricShown, ...], Field(strict=False, description="metrics: the goal first.")]
    points: Annotated[tuple[Bound, ...], Field(strict=False, description="points: oldest first; the last is of now.")]


class RolloutView(StatusModel):
    """Answer to GET /api/policies/{policy}/rollout."""

    policy: ObjectName
    rollout: Annotated[
        RolloutStatus | None, Field(default=None, description="rollout: the policy's status; null = it is not served.")
    ]
    goal: Annotated[
        Literal["superior", "nonInferior"] | None,
        Field(default=None, description="goal: of the trial; null = no version goes on trial."),
    ]
    promotion: Annotated[
        Literal["automatic", "manual"] | None, Field(default=None, description="promotion: whether people decide.")
    ]
    steps: Annotated[
        tuple[Percent, ...], Field(default=(), strict=False, description="steps: percent of the subjects, by step.")
    ]
    trial: Annotated[
        TrialCounted | None,
        Field(default=None, description="trial: of rollout.experiment; null = nothing is known, see problem."),
    ]
    problem: Annotated[
        str, Field(default="", max_length=2048, description="problem: why a part is missing, or must not be relied on.")
    ]
