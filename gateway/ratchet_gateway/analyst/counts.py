"""From the subjects' rows to the counts of an experiment: sums by arm, the split, and what speaks against using them.

Decides which subjects' time has passed, by the events' own times alone: the newest event of the whole log, less a pause
for what is still on its way, is the end of what is known. The split is read minute by minute from the subjects' first
answers, so that an alarm, once raised, stays, and whoever reads the same log raises it too. Called by `watch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ratchet_api.base import digest_of
from ratchet_api.evidence import (
    SHARES,
    ArmSums,
    EventCounts,
    ExperimentEvidence,
    MetricSums,
    Pace,
    Paces,
    SplitCounts,
)
from ratchet_api.rollout import ABSTENTIONS, ERRORS, FEEDBACK, FEEDBACK_RATE
from ratchet_api.stats.ratio import SampleRatio
from ratchet_gateway.analyst import pairs
from ratchet_gateway.analyst.pace import milliseconds_of
from ratchet_gateway.analyst.tables import SCALE, SLOT, Tables, experiment_key

CROSSED_SHARE = 0.001
"""More subjects than this in both arms, and the arms are no fair comparison."""
MINUTE, _DAY = 60_000, 86_400_000
"""Milliseconds."""

# Subjects count when the time in which their values may change has passed, and with them all of their slot.
_ARMS = """
SELECT canary, sum(met) AS met, min(first) AS first, max(last) AS last, sum(crossed) AS crossed, sum(late) AS late,
    sum(met) FILTER (WHERE place < :votes) AS heard, sum(spoke) FILTER (WHERE place < :votes) AS spoke,
    sum(scored) FILTER (WHERE place < :votes) AS scored, sum(score) FILTER (WHERE place < :votes) AS score,
    sum(score2) FILTER (WHERE place < :votes) AS score2,
    sum(met) FILTER (WHERE place < :answers) AS seen, sum(failed) FILTER (WHERE place < :answers) AS failed,
    sum(answered) FILTER (WHERE place < :answers) AS answered,
    sum(abstained) FILTER (WHERE place < :answers) AS abstained,
    sum(abstained2) FILTER (WHERE place < :answers) AS abstained2
FROM slot WHERE experiment = :experiment GROUP BY canary
"""
MINUTES = """
SELECT place * :slot / 60000, sum(met * canary), sum(met * (1 - canary)) FROM slot WHERE experiment = :experiment
GROUP BY 1 ORDER BY 1
"""
_PACES = """
SELECT canary, took, sum(subjects) FROM pace WHERE experiment = :experiment AND place < :answers GROUP BY 1, 2
ORDER BY 1, 2
"""
_NOBODY: Mapping[str, int | None] = {}


def count(tables: Tables, policy: str, experiment: str, *, settle_seconds: float, since: int) -> ExperimentEvidence:
    """Return what the log says about an experiment, but for its age.

    Args:
        tables: the folded log.
        policy: its name.
        experiment: the id that servers sign.
        settle_seconds: how far behind the newest event the log is taken for whole.
        since: milliseconds; of an experiment that began before, a part may not have been read.
    """
    end = None if tables.newest is None else tables.newest - round(1000 * settle_seconds)
    known = {"experiment": experiment_key(policy, experiment)}
    passed = {"votes": ((end or 0) - tables.attribution) // SLOT, "answers": ((end or 0) - tables.answers) // SLOT}
    cursor = tables.database.execute(_ARMS, known | passed)
    names = [column[0] for column in cursor.description]
    arms = {bool(row[0]): dict(zip(names, row, strict=True)) for row in cursor.fetchall()}
    candidate, champion = arms.get(True, _NOBODY), arms.get(False, _NOBODY)
    minutes = tables.database.execute(MINUTES, known | {"slot": SLOT}).fetchall()
    dropped = tables.database.execute(
        "SELECT total(dropped) FROM loss WHERE experiment = :experiment", known
    ).fetchone()
    crossed = _number(candidate, "crossed") + _number(champion, "crossed")
    found: dict[str, Any] = {
        "policy": policy,
        "experiment": experiment,
        "attribution_seconds": tables.attribution / 1000,
        "candidate": candidate.get("first"),
        "champion": champion.get("first"),
        "split": _split(minutes),
        "means": {
            FEEDBACK: _sums(candidate, champion, "scored", "score"),
            ABSTENTIONS: _sums(candidate, champion, "answered", "abstained"),
            FEEDBACK_RATE: MetricSums(candidate=_shares(candidate), champion=_shares(champion)),
        },
        "rare": {ERRORS: _events(candidate, champion)},
        "paces": _paces(tables, known | passed),
        "shadow": pairs.report(tables.database, known["experiment"]),
        "dropped": int(dropped[0]),
        "late": _number(candidate, "late") + _number(champion, "late"),
        "crossed": crossed,
        "problem": _problem(arms, minutes, crossed, since),
        "watermark": None if end is None else text_of(end),
        "subjects_per_day": _per_day(minutes),
    }
    made = ExperimentEvidence(**found)
    return made.model_copy(update={"digest": digest_of(made.model_dump(mode="json", by_alias=True))})


def _number(arm: Mapping[str, int | None], name: str) -> int:
    return arm.get(name) or 0


def _sums(
    candidate: Mapping[str, int | None], champion: Mapping[str, int | None], subjects: str, value: str
) -> MetricSums:
    def sums(arm: Mapping[str, int | None]) -> ArmSums:
        total, squares = _number(arm, value) / SCALE, _number(arm, f"{value}2") / SCALE**2
        return ArmSums(subjects=_number(arm, subjects), total=total, squares=squares)

    return MetricSums(candidate=sums(candidate), champion=sums(champion))


def _shares(arm: Mapping[str, int | None]) -> ArmSums:
    """Yes or no of each subject: did it say anything at all."""
    spoke = float(_number(arm, "spoke"))
    return ArmSums(subjects=_number(arm, "heard"), total=spoke, squares=spoke)


def _events(candidate: Mapping[str, int | None], champion: Mapping[str, int | None]) -> EventCounts:
    return EventCounts(
        candidate_events=_number(candidate, "failed"),
        candidate_subjects=_number(candidate, "seen"),
        champion_events=_number(champion, "failed"),
        champion_subjects=_number(champion, "seen"),
    )


def _paces(tables: Tables, known: Mapping[str, int]) -> Paces:
    """The slowest answer of each subject."""
    arms: tuple[list[Pace], list[Pace]] = [], []
    for canary, took, subjects in tables.database.execute(_PACES, known).fetchall():
        arms[canary].append(Pace(milliseconds=milliseconds_of(took), subjects=subjects))
    return Paces(candidate=tuple(arms[1]), champion=tuple(arms[0]))


def _split(minutes: Sequence[tuple[int, int, int]]) -> SplitCounts:
    """Look at the split at the end of every minute in which somebody was dealt."""
    seen, candidate, champion = SampleRatio(SHARES), 0, 0
    for _, canary, control in minutes:
        candidate, champion = candidate + canary, champion + control
        seen = seen.seen((candidate, champion))
    return SplitCounts(counts=(candidate, champion), worst=seen.worst)


def _per_day(minutes: Sequence[tuple[int, int, int]]) -> float:
    """Subjects of both arms that came in the last day of the experiment, or in all of it while that is shorter."""
    if not minutes:
        return 0.0
    last = minutes[-1][0]
    span = min(_DAY // MINUTE, last - minutes[0][0] + 1)
    return sum(canary + control for at, canary, control in minutes if at > last - span) * _DAY / MINUTE / span


def _problem(
    arms: Mapping[bool, Mapping[str, int | None]], minutes: Sequence[tuple[int, int, int]], crossed: int, since: int
) -> str:
    """Why nothing may be decided by these counts; empty if nothing speaks against it."""
    for canary, arm in arms.items():
        if arm["first"] != arm["last"]:
            name = "canary" if canary else "control"
            return f"the arm {name} was answered by versions {arm['first']} to {arm['last']}; an arm is one version"
    met = sum(_number(arm, "met") for arm in arms.values())
    if crossed > CROSSED_SHARE * met:
        return f"{crossed} of {met} subjects met both arms; see how subjects are named, and who else says the arms"
    if minutes and minutes[0][0] * MINUTE < since:
        return "the experiment began before the part of the log that is read; raise RATCHET_ANALYST_DAYS"
    return ""


def text_of(at: int) -> str:
    """Return a time in milliseconds since 1970 as the log writes it."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
