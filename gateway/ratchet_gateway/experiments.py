"""What is known of a policy's trial, for people: the analyst's counts read by the rules that decide about it.

Decides no verdict: the operator's stands in the policy's status and is shown as it is. What is missing, because the
analyst is away or nobody is on trial, is said and leaves the rest. Pure but for `Analyst`; called by `routes.policies`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from ratchet_api.assign import experiment_of, salt_of
from ratchet_api.evidence import SHARES, ExperimentEvidence, ExperimentPoint, ExperimentSeries
from ratchet_api.rollout import Judged, rules_of
from ratchet_api.rollout_view import Bound, MetricShown, RolloutView, SplitShown, Standing, TrialCounted
from ratchet_api.stats.errors import BadEvidence
from ratchet_api.stats.rare import RareCounts
from ratchet_api.stats.ratio import SampleRatio
from ratchet_api.stats.readings import Reading, read_mean
from ratchet_api.stats.rules import Goal, Mean, Rare, Rules
from ratchet_api.stats.samples import Arms, Sample
from ratchet_api.stats.verdict import Evidence, judge
from ratchet_gateway.policies import PolicyView


class Silent(Exception):
    """The analyst tells nothing; the text says why and what to do."""


class Analyst(Protocol):
    """What the routes ask of whoever counts."""

    async def series(self, policy: str, experiment: str) -> ExperimentSeries:
        """Return what is known of an experiment, and how it came about.

        Raises:
            Silent: nothing can be told now.
        """


class NoAnalyst:
    """There is none."""

    async def series(self, policy: str, experiment: str) -> ExperimentSeries:
        """Say so."""
        raise Silent("this gateway knows no analyst, so nothing is counted here; set RATCHET_GATEWAY_ANALYST_URL")


async def view_of_rollout(view: PolicyView, analyst: Analyst) -> RolloutView:
    """Return what the page shows of a policy."""
    asked, status = view.asked, view.rollout
    shown = RolloutView(
        policy=view.name,
        rollout=status,
        goal=asked.judged.goal if asked else None,
        promotion=asked.promotion if asked else None,
        steps=asked.canary.steps if asked else (),
    )
    if status is None or not status.experiment:
        return shown
    if status.ab_test is not None and status.ab_test.experiment == status.experiment:
        return shown  # its versions are counted one by one, and their verdicts are in the status
    if asked is None:
        return _with_problem(shown, "spec.rollout was removed, so that nothing says how the last trial is to be read")
    try:
        series = await analyst.series(view.name, experiment_of(salt_of(view.uid, status.experiment)))
        trial = await asyncio.to_thread(counted, series, asked.judged)  # feedback is taken meanwhile
    except Silent as error:
        return _with_problem(shown, str(error))
    except BadEvidence as error:
        return _with_problem(shown, f"the analyst's counts cannot be: {error}")
    return _with_problem(shown.model_copy(update={"trial": trial}), series.now.problem)


def counted(series: ExperimentSeries, judged: Judged) -> TrialCounted:
    """Read an experiment's counts by what was asked of it.

    Raises:
        BadEvidence: the counts contradict themselves.
    """
    rules, now = rules_of(judged), series.now
    slow = None if judged.latency is None else judged.latency.p99_milliseconds
    return TrialCounted(
        candidate=now.candidate,
        champion=now.champion,
        watermark=now.watermark,
        attribution_seconds=now.attribution_seconds,
        subjects_per_day=now.subjects_per_day,
        late=now.late,
        crossed=now.crossed,
        dropped=now.dropped,
        split=_split(now, rules),
        metrics=_metrics(now.evidence(rules, slow=slow), rules),
        points=tuple(_bound(point, rules) for point in series.points),
    )


def _with_problem(shown: RolloutView, problem: str) -> RolloutView:
    return shown.model_copy(update={"problem": problem[:2048]})


def _split(now: ExperimentEvidence, rules: Rules) -> SplitShown:
    (candidate, champion), p = now.split.counts, _p_value(now.split.worst)
    alarm = rules.sample_ratio_alpha
    return SplitShown(candidate=candidate, champion=champion, p_value=p, alarm=alarm, healthy=p > alarm)


def _p_value(worst: float) -> float:
    return SampleRatio(SHARES, worst=worst).p_value


def _bound(point: ExperimentPoint, rules: Rules) -> Bound:
    arms = Arms(point.feedback.candidate.sample, point.feedback.champion.sample)
    reading = read_mean(rules.primary, arms, rules, superior=rules.goal is Goal.SUPERIOR)
    dealt = sum(point.split.counts)
    return Bound(
        at=point.at,
        difference=reading.improvement,
        low=reading.band.low if reading.band else None,
        high=reading.band.high if reading.band else None,
        candidate=arms.candidate.subjects,
        champion=arms.champion.subjects,
        share=point.split.counts[0] / dealt if dealt else None,
        p_value=_p_value(point.split.worst),
    )


def _metrics(seen: Evidence, rules: Rules) -> tuple[MetricShown, ...]:
    """Read every metric as the verdict does, by having it drawn."""
    readings = judge(rules, seen).readings
    return tuple(
        _mean(metric, reading, seen, rules) if isinstance(metric, Mean) else _rare(metric, reading, seen)
        for metric, reading in zip(rules.metrics, readings, strict=True)
    )


def _mean(metric: Mean, reading: Reading, seen: Evidence, rules: Rules) -> MetricShown:
    arms = seen.means.get(metric.name, Arms(Sample(), Sample()))
    return MetricShown(
        name=metric.name,
        role="goal" if metric is rules.primary else "guardrail",
        standing=_standing(reading),
        candidate=arms.candidate.mean if arms.candidate.subjects else None,
        champion=arms.champion.mean if arms.champion.subjects else None,
        candidate_subjects=arms.candidate.subjects,
        champion_subjects=arms.champion.subjects,
        improvement=reading.improvement,
        low=reading.band.low if reading.band else None,
        high=reading.band.high if reading.band else None,
        margin=metric.margin,
        more=reading.more,
        sentence=reading.sentence,
    )


def _rare(metric: Rare, reading: Reading, seen: Evidence) -> MetricShown:
    counts = seen.rare.get(metric.name, RareCounts(0, 0, 0, 0))
    return MetricShown(
        name=metric.name,
        role="guardrail",
        standing=_standing(reading),
        candidate=counts.candidate_events / counts.candidate_subjects if counts.candidate_subjects else None,
        champion=counts.champion_events / counts.champion_subjects if counts.champion_subjects else None,
        candidate_subjects=counts.candidate_subjects,
        champion_subjects=counts.champion_subjects,
        ratio=metric.ratio,
        sentence=reading.sentence,
    )


def _standing(reading: Reading) -> Standing:
    if not reading.enough:
        return "tooFew"
    if reading.harm:
        return "worse"
    if reading.better:
        return "better"
    return "safe" if reading.safe else "open"
