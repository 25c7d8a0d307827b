"""A policy with a trial for tests: its status as the operator writes it, and an analyst of chosen counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from ratchet_api.assign import experiment_of, salt_of
from ratchet_api.evidence import (
    ArmSums,
    EventCounts,
    ExperimentEvidence,
    ExperimentPoint,
    ExperimentSeries,
    MetricSums,
    SplitCounts,
)
from ratchet_api.rollout import ERRORS, FEEDBACK, Rollout, RolloutStatus
from ratchet_api.stats.ratio import SampleRatio
from ratchet_gateway.experiments import Silent
from ratchet_gateway.policies import PolicyView
from tests.feedback_events import START

UID = "0123-4567"
TRIAL = "2-v3-v4"
JUDGED: dict[str, Any] = {"minSubjects": 50, "margin": 0.02, "feedbackRateMargin": 0.1}


def policy(*, asked: bool = True, **changes: Any) -> PolicyView:
    """The policy `router`, whose version 4 is on trial; further arguments change its status."""
    rows = [
        {"number": 1, "version": 3, "since": START - timedelta(days=2), "why": "Everybody gets version 3."},
        *(
            {"candidate": 4, "percent": percent, "since": START + timedelta(hours=2 * step), "version": 3}
            | {"number": step + 2, "why": f"Version 4 gets {percent:g} % of the subjects."}
            for step, percent in enumerate((1.0, 5.0, 25.0))
        ),
    ]
    status: dict[str, Any] = {
        "serving": 3,
        "candidate": 4,
        "experiment": TRIAL,
        "experiments": 2,
        "step": 2,
        "percent": 25.0,
        "began": START,
        "exposed": START,
        "step_since": START + timedelta(hours=4),
        "verdict": {
            "outcome": "Inconclusive",
            "reason": "Undecided",
            "message": "feedback: 0.71 against 0.66",
            "samples": 480,
            "needed": 1200,
        },
        "history": [{"by": "operator", **row} for row in rows],
        "rows": 4,
    }
    rollout = Rollout.model_validate({"judged": JUDGED, "canary": {"steps": [1, 5, 25, 50]}})
    return PolicyView(
        "router",
        uid=UID,
        asked=rollout if asked else None,
        rollout=RolloutStatus.model_validate(status | changes),
    )


def under_test(*, running: bool = True) -> PolicyView:
    """The same policy in a test of the versions 4 and 5 with fixed shares; 5 was taken out."""
    verdict = {
        "outcome": "Inconclusive",
        "reason": "Undecided",
        "message": "feedback: 0.70 against 0.66",
        "samples": 480,
    }
    arms = [
        {"version": 4, "digest": "4", "percent": 20, "verdict": verdict},
        {"version": 5, "digest": "5", "percent": 10, "out": "Version 5 is taken out: it did not answer for 60 s."},
    ]
    test = {"asked": "a", "experiment": "3-ab-0", "running": running, "dealt": running, "arms": arms, "began": START}
    row = {"number": 5, "version": 3, "arms": [{"version": 4, "percent": 20}, {"version": 5, "percent": 10}]}
    changes: dict[str, Any] = {"ab_test": test | ({} if running else {"result": "none of them passed"})}
    history = [row | {"since": START, "why": "The test begins.", "by": "operator"}]
    nobody = {"candidate": None, "step": -1, "percent": 0, "experiment": "3-ab-0"}
    return policy(**nobody, history=history, rows=1, **changes)


def sums(subjects: int, mean: float) -> ArmSums:
    """Yes-or-no values with this mean."""
    return ArmSums(subjects=subjects, total=round(subjects * mean), squares=round(subjects * mean))


def counts(candidate: int, champion: int, *, means: tuple[float, float] = (0.71, 0.66)) -> MetricSums:
    """Feedback of both arms."""
    return MetricSums(candidate=sums(candidate, means[0]), champion=sums(champion, means[1]))


def split(candidate: int, champion: int) -> SplitCounts:
    """Subjects as they were dealt."""
    worst = SampleRatio((0.5, 0.5)).seen((candidate, champion)).worst
    return SplitCounts(counts=(candidate, champion), worst=worst)


class CountedTrial:
    """An analyst that has counted so many pairs of subjects, hour by hour.

    Args:
        pairs: subjects of each arm by the end of each hour.
        means: of the feedback.
        silent: why it says nothing; empty = it speaks.
        changes: of what it says of now.
    """

    def __init__(
        self,
        pairs: Sequence[int] = (20, 90, 160, 240),
        *,
        means: tuple[float, float] = (0.71, 0.66),
        silent: str = "",
        **changes: Any,
    ) -> None:
        self.pairs, self.means, self.silent, self.changes = pairs, means, silent, changes
        self.asked: list[tuple[str, str]] = []

    async def series(self, policy: str, experiment: str) -> ExperimentSeries:
        """Answer, and remember what was asked."""
        self.asked.append((policy, experiment))
        if self.silent:
            raise Silent(self.silent)
        known = experiment == experiment_of(salt_of(UID, TRIAL))
        pairs = self.pairs if known else ()
        points = tuple(
            ExperimentPoint(
                at=(START + timedelta(hours=hour)).isoformat().replace("+00:00", "Z"),
                split=split(2 * pair + 4, 2 * pair),
                feedback=counts(pair, pair, means=self.means),
            )
            for hour, pair in enumerate(pairs, start=1)
        )
        now = ExperimentEvidence(
            policy=policy,
            experiment=experiment,
            attribution_seconds=3600,
            candidate=4 if points else None,
            champion=3 if points else None,
            split=points[-1].split if points else SplitCounts(),
            means={
                FEEDBACK: points[-1].feedback if points else MetricSums(),
                "feedbackRate": counts(400, 400, means=(0.5, 0.52)),
            },
            rare={
                ERRORS: EventCounts(
                    candidate_events=3, candidate_subjects=480, champion_events=2, champion_subjects=478
                )
            },
            watermark=points[-1].at if points else None,
            age_seconds=4.0,
            subjects_per_day=4000.0,
        )
        return ExperimentSeries(now=now.model_copy(update=self.changes), points=points)
