"""What the analyst answers about an experiment: counts by arm, from which a verdict is drawn.

Decides the form of the answer alone; the analyst counts, `ratchet_api.stats` judges. Nothing in it is about a person.
Written by `ratchet_gateway.analyst`, read by the operator and by the gateway's experiment page.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ratchet_api.base import ObjectName, Sha256, StatusModel
from ratchet_api.feedback import ExperimentId
from ratchet_api.rollout import SLOW
from ratchet_api.shadow import ShadowReport
from ratchet_api.stats.rare import RareCounts
from ratchet_api.stats.ratio import SampleRatio
from ratchet_api.stats.rules import Mean, Rules
from ratchet_api.stats.samples import Arms, Sample
from ratchet_api.stats.verdict import Evidence

SHARES = (0.5, 0.5)
"""Of candidate and control among those who are compared: they grow together."""
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Amount = Annotated[float, Field(ge=0, le=2**53)]
_Version = Annotated[int, Field(ge=1, le=2**31)]


class ArmSums(StatusModel):
    """One metric in one arm: one value from 0 to 1 per subject."""

    subjects: Annotated[_Count, Field(description="subjects: that gave a value.")] = 0
    total: Annotated[_Amount, Field(description="total: sum of the values.")] = 0.0
    squares: Annotated[_Amount, Field(description="squares: sum of the squared values.")] = 0.0

    @property
    def sample(self) -> Sample:
        """The same, as the statistics take it.

        Raises:
            BadEvidence: no values between 0 and 1 have these sums.
        """
        return Sample(self.subjects, self.total, self.squares)


class MetricSums(StatusModel):
    """One metric in both arms."""

    candidate: Annotated[ArmSums, Field(default_factory=ArmSums, description="candidate: of the version on trial.")]
    champion: Annotated[ArmSums, Field(default_factory=ArmSums, description="champion: of the control arm.")]


class EventCounts(StatusModel):
    """To how many subjects of each arm something happened."""

    candidate_events: Annotated[_Count, Field(description="candidateEvents: subjects to whom it happened.")] = 0
    candidate_subjects: Annotated[_Count, Field(description="candidateSubjects: of all these.")] = 0
    champion_events: Annotated[_Count, Field(description="championEvents: as of the candidate.")] = 0
    champion_subjects: Annotated[_Count, Field(description="championSubjects: as of the candidate.")] = 0


class SplitCounts(StatusModel):
    """What the log says about the router's split."""

    counts: Annotated[
        tuple[_Count, _Count],
        Field(strict=False, description="counts: subjects by the arm of their first answer, candidate before control."),
    ] = (0, 0)
    worst: Annotated[
        float,
        Field(ge=0, le=1e9, description="worst: largest log Bayes factor against equal shares, of all minutes so far."),
    ] = 0.0


class Pace(StatusModel):
    """Subjects whose slowest answer took as long."""

    milliseconds: Annotated[_Amount, Field(description="milliseconds: at most, and more than 5 % less at least.")]
    subjects: Annotated[_Count, Field(description="subjects: how many.")]


class Paces(StatusModel):
    """How long subjects waited for the slowest of their answers in the first minute, by arm."""

    candidate: Annotated[
        tuple[Pace, ...],
        Field(default=(), strict=False, max_length=1201, description="candidate: of the version on trial, rising."),
    ]
    champion: Annotated[
        tuple[Pace, ...],
        Field(default=(), strict=False, max_length=1201, description="champion: of the control arm, rising."),
    ]

    def beyond(self, milliseconds: float) -> RareCounts:
        """Count the subjects who waited longer than that."""
        found = []
        for arm in (self.candidate, self.champion):
            found += [
                sum(pace.subjects for pace in arm if pace.milliseconds > milliseconds),
                sum(pace.subjects for pace in arm),
            ]
        return RareCounts(*found)


class ExperimentEvidence(StatusModel):
    """Answer to GET /v1/policies/{policy}/experiments/{id}. An experiment that nobody met yet has zeros everywhere."""

    policy: Annotated[ObjectName, Field(description="policy: as asked.")]
    experiment: Annotated[ExperimentId, Field(description="experiment: as asked.")]
    attribution_seconds: Annotated[
        float,
        Field(ge=0, le=1e9, description="attributionSeconds: how long feedback after a subject's first answer counts."),
    ]
    candidate: Annotated[_Version | None, Field(default=None, description="candidate: version that its arm got.")]
    champion: Annotated[_Version | None, Field(default=None, description="champion: version that control got.")]
    split: Annotated[SplitCounts, Field(default_factory=SplitCounts, description="split: subjects that were dealt.")]
    means: Annotated[
        dict[str, MetricSums],
        Field(default_factory=dict, description="means: metrics with a value per subject whose time has passed."),
    ]
    rare: Annotated[
        dict[str, EventCounts], Field(default_factory=dict, description="rare: what hardly ever happens, likewise.")
    ]
    paces: Annotated[Paces, Field(default_factory=Paces, description="paces: how long answers took.")]
    shadow: Annotated[
        ShadowReport,
        Field(
            default_factory=ShadowReport, description="shadow: what both answered to the same texts, before the split."
        ),
    ]
    dropped: Annotated[_Count, Field(default=0, description="dropped: records that servers said they had lost.")]
    late: Annotated[_Count, Field(default=0, description="late: feedback after its subject's time; not counted.")]
    crossed: Annotated[
        _Count, Field(default=0, description="crossed: subjects that met both arms; counted in the first.")
    ]
    problem: Annotated[
        str,
        Field(default="", max_length=1024, description="problem: why nothing may be decided by this; empty = none."),
    ]
    watermark: Annotated[
        str | None,
        Field(default=None, max_length=32, description="watermark: end of what is counted, by the events' own times."),
    ]
    age_seconds: Annotated[
        float | None,
        Field(
            default=None, ge=0, le=1e12, description="ageSeconds: since the newest answer was seen; null = none yet."
        ),
    ]
    subjects_per_day: Annotated[
        float, Field(default=0.0, ge=0, le=1e12, description="subjectsPerDay: of both arms, in the last day.")
    ]
    digest: Annotated[
        Sha256 | None, Field(default=None, description="digest: of the counts; equal logs, equal digests.")
    ]

    def evidence(self, rules: Rules, *, slow: float | None = None) -> Evidence:
        """Return the counts of the metrics that the rules name, for `judge`; age and readiness are the caller's.

        Args:
            rules: name the metrics.
            slow: milliseconds beyond which an answer is slow; None = that is not judged.

        Raises:
            BadEvidence: counts that cannot be.
        """
        means: dict[str, Arms] = {}
        rare: dict[str, RareCounts] = {}
        for metric in rules.metrics:
            if isinstance(metric, Mean) and (sums := self.means.get(metric.name)) is not None:
                means[metric.name] = Arms(sums.candidate.sample, sums.champion.sample)
            if not isinstance(metric, Mean) and (seen := self.rare.get(metric.name)) is not None:
                rare[metric.name] = RareCounts(
                    seen.candidate_events, seen.candidate_subjects, seen.champion_events, seen.champion_subjects
                )
        if slow is not None:
            rare[SLOW] = self.paces.beyond(slow)
        return Evidence(
            split=SampleRatio(SHARES, self.split.counts, self.split.worst),
            means=means,
            rare=rare,
            data_age_seconds=self.age_seconds,
            dropped=self.dropped,
            subjects_per_day=self.subjects_per_day,
        )


class ExperimentPoint(StatusModel):
    """What was known of an experiment at one moment: of those whose time had passed by then."""

    at: Annotated[str, Field(max_length=32, description="at: the moment, by the events' own times.")]
    split: Annotated[SplitCounts, Field(description="split: subjects that were dealt by then.")]
    feedback: Annotated[MetricSums, Field(description="feedback: as in `means`, of subjects who had entered by then.")]


class ExperimentSeries(StatusModel):
    """Answer to GET /v1/policies/{policy}/experiments/{id}/series: what is known now, and how it came about."""

    now: Annotated[ExperimentEvidence, Field(description="now: as without `/series`.")]
    points: Annotated[
        tuple[ExperimentPoint, ...],
        Field(default=(), strict=False, max_length=1000, description="points: oldest first; the last one is of now."),
    ]
