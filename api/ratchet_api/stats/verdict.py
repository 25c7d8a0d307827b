"""The verdict on a candidate: Successful, Failed, Inconclusive or Error, with the numbers and the sentence why.

Decides from counts alone, by an ordered list of rules of which the first that speaks wins. Never acts: whoever asked
promotes, rolls back or waits. No data never promotes and never rolls back. It may be asked at every moment: all its
statistics hold at all times at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from ratchet_api.stats.errors import BadEvidence
from ratchet_api.stats.planning import days_for
from ratchet_api.stats.rare import RareCounts
from ratchet_api.stats.ratio import SampleRatio
from ratchet_api.stats.readings import Reading, read_mean, read_rare
from ratchet_api.stats.rules import Goal, Mean, Rules
from ratchet_api.stats.samples import Arms, Sample

_NOBODY = Sample()


class Outcome(StrEnum):
    """What became of the question whether the candidate is good enough."""

    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"
    """The evidence itself cannot be trusted: nothing is decided until it can."""


class Why(StrEnum):
    """The rule that spoke."""

    NOT_READY = "NotReady"
    RESTARTED = "Restarted"
    LIMIT_BREACHED = "LimitBreached"
    SAMPLE_RATIO_MISMATCH = "SampleRatioMismatch"
    RECORDS_DROPPED = "RecordsDropped"
    STALE = "StaleEvidence"
    HARM = "Harm"
    DEADLINE = "DeadlineExceeded"
    TOO_YOUNG = "TooYoung"
    LIMIT_UNKNOWN = "LimitUnknown"
    LIMIT_BEYOND = "LimitBeyond"
    TOO_FEW = "TooFewSubjects"
    GOOD_ENOUGH = "GoodEnough"
    UNDECIDED = "Undecided"


class Limit(NamedTuple):
    """Hard bounds of something that is measured, such as a number of the user's own.

    It is no statistics: a value that stays beyond for so long is taken for broken.
    """

    name: str
    value: float | None
    """Now; None or not finite = not known."""
    most: float = math.inf
    least: float = -math.inf
    beyond_seconds: float = 0.0
    """For how long it has been beyond a bound, without a gap."""
    allowed_seconds: float = 0.0
    """The candidate fails after so long."""
    problem: str = ""
    """Why it is not known."""

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return self.value is not None and math.isfinite(self.value)

    @property
    def beyond(self) -> bool:
        """Whether the value is known, and out of bounds."""
        return self.value is not None and self.known and not self.least <= self.value <= self.most

    @property
    def broken(self) -> bool:
        """Whether it has been beyond a bound for too long."""
        return self.beyond and self.beyond_seconds >= self.allowed_seconds

    @property
    def sentence(self) -> str:
        """What is seen, in words."""
        if self.value is None or not self.known:
            return f"{self.name} is not known" + (f": {self.problem}" if self.problem else "")
        if not self.beyond:
            return f"{self.name} is {self.value:g}"
        above = self.value > self.most
        bound = f"above {self.most:g}" if above else f"below {self.least:g}"
        return f"{self.name} is {self.value:g}, {bound}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known at one moment.

    Attributes:
        means: counts of each metric of kind Mean, by its name; missing = nobody yet.
        rare: counts of each guardrail of kind Rare, by its name.
        split: what the counts of subjects say about the router.
        age_seconds: since all routers confirmed the first share, by the clock of whoever wrote that down.
        data_age_seconds: since the end of what was folded into the counts; None = nothing was yet.
        dropped: exposures or interactions that were lost.
        ready: the candidate answers at all.
        limits: hard limits.
        subjects_per_day: of both arms, at the present traffic; 0 = unknown.
    """

    split: SampleRatio
    means: Mapping[str, Arms] = field(default_factory=dict)
    rare: Mapping[str, RareCounts] = field(default_factory=dict)
    age_seconds: float = 0.0
    data_age_seconds: float | None = None
    dropped: int = 0
    ready: bool = True
    limits: tuple[Limit, ...] = ()
    subjects_per_day: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to think of the candidate now.

    Attributes:
        outcome: one of four.
        why: the rule that spoke.
        sentence: with its numbers, for a status, an event and a person.
        final: nothing that comes later would change it: the question is closed.
        readings: every metric's numbers.
        more: subjects of both arms that a decision still takes, as it looks; None = cannot be said.
        days: the same at the present traffic.
    """

    outcome: Outcome
    why: Why
    sentence: str
    final: bool
    readings: tuple[Reading, ...]
    more: int | None = None
    days: float | None = None


class _Case(NamedTuple):
    rules: Rules
    seen: Evidence
    readings: tuple[Reading, ...]


_Rule = Callable[[_Case], Verdict | None]


def judge(rules: Rules, seen: Evidence) -> Verdict:
    """Return the verdict.

    Raises:
        BadEvidence: the counts contradict themselves, or are about metrics that the rules do not name.
    """
    _check(rules, seen)
    case = _Case(rules, seen, tuple(_readings(rules, seen)))
    found = next(verdict for rule in _RULES if (verdict := rule(case)) is not None)
    return closed_if_late(rules, seen.age_seconds, found)


def closed_if_late(rules: Rules, age_seconds: float, found: Verdict) -> Verdict:
    """Return the verdict or, if its evidence cannot be trusted and the deadline has passed, that nobody will know.

    Else one lost record would leave a candidate on its share for ever. Nothing is concluded from the evidence.
    """
    limit = rules.deadline_seconds
    if found.outcome is not Outcome.ERROR or limit is None or age_seconds < limit:
        return found
    sentence = f"no decision after {age_seconds:.0f} s, the deadline was {limit:g} s: {found.sentence}"
    return Verdict(Outcome.INCONCLUSIVE, Why.DEADLINE, sentence, True, found.readings)


def _check(rules: Rules, seen: Evidence) -> None:
    wanted = {metric.name for metric in rules.metrics}
    if unknown := sorted((set(seen.means) | set(seen.rare)) - wanted):
        raise BadEvidence(
            f"evidence has the metrics {', '.join(unknown)}, which the rules do not name ({', '.join(sorted(wanted))}); "
            "judge a metric from the first subject on, or leave it out"
        )
    for what, value in (("age_seconds", seen.age_seconds), ("data_age_seconds", seen.data_age_seconds or 0.0)):
        if not value >= 0:
            raise BadEvidence(f"evidence.{what} is {value:g}; take both times from one clock")
    if seen.dropped < 0:
        raise BadEvidence(f"evidence.dropped is {seen.dropped}; count from 0 on")


def _readings(rules: Rules, seen: Evidence) -> list[Reading]:
    found = []
    for metric in rules.metrics:
        if isinstance(metric, Mean):
            superior = metric is rules.primary and rules.goal is Goal.SUPERIOR
            arms = seen.means.get(metric.name, Arms(_NOBODY, _NOBODY))
            found.append(read_mean(metric, arms, rules, superior=superior))
        else:
            found.append(read_rare(metric, seen.rare.get(metric.name, RareCounts(0, 0, 0, 0)), rules))
    return found


def _not_ready(case: _Case) -> Verdict | None:
    if case.seen.ready:
        return None
    return _say(case, Outcome.FAILED, Why.NOT_READY, "the candidate does not answer; see the events of its pods")


def _limit_breached(case: _Case) -> Verdict | None:
    for limit in case.seen.limits:
        if limit.broken:
            sentence = f"{limit.sentence} for {limit.beyond_seconds:.0f} s"
            return _say(case, Outcome.FAILED, Why.LIMIT_BREACHED, sentence)
    return None


def _mismatch(case: _Case) -> Verdict | None:
    split = case.seen.split
    if split.p_value > case.rules.sample_ratio_alpha:
        return None
    sentence = (
        f"the router does not split as told (p = {split.p_value:.2g}): {split.sentence}; see how subjects are named"
    )
    return _say(case, Outcome.ERROR, Why.SAMPLE_RATIO_MISMATCH, sentence)


def _dropped(case: _Case) -> Verdict | None:
    if not case.seen.dropped:
        return None
    sentence = f"{case.seen.dropped} records were dropped on their way to the log, so that the arms cannot be compared"
    return _say(case, Outcome.ERROR, Why.RECORDS_DROPPED, sentence)


def _stale(case: _Case) -> Verdict | None:
    age, limit = case.seen.data_age_seconds, case.rules.stale_seconds
    if age is None or age <= limit:
        return None
    return _say(case, Outcome.ERROR, Why.STALE, f"the newest evidence is {age:.0f} s old, older than {limit:g} s")


def _harm(case: _Case) -> Verdict | None:
    worse = [reading.sentence for reading in case.readings if reading.harm]
    return _say(case, Outcome.FAILED, Why.HARM, "worse by more than its margin: " + "; ".join(worse)) if worse else None


def _successful(case: _Case) -> Verdict | None:
    if _waits(case) is not None or not all(_passes(case, reading) for reading in case.readings):
        return None
    primary = case.readings[0]
    word = "better" if case.rules.goal is Goal.SUPERIOR else "no worse than its margin"
    guardrails = len(case.readings) - 1
    rest = f", and {guardrails} guardrail{'s hold' if guardrails > 1 else ' holds'}" if guardrails else ""
    return _say(case, Outcome.SUCCESSFUL, Why.GOOD_ENOUGH, f"{word}: {primary.sentence}{rest}")


def _deadline(case: _Case) -> Verdict | None:
    limit = case.rules.deadline_seconds
    if limit is None or case.seen.age_seconds < limit:
        return None
    sentence = f"no decision after {case.seen.age_seconds:.0f} s, the deadline was {limit:g} s: {_open(case)}"
    return _say(case, Outcome.INCONCLUSIVE, Why.DEADLINE, sentence)


def _waiting(case: _Case) -> Verdict | None:
    return _waits(case)


def _undecided(case: _Case) -> Verdict:
    few = [reading for reading in case.readings if not reading.enough and _required(case, reading)]
    why = Why.TOO_FEW if few else Why.UNDECIDED
    verdict = _say(case, Outcome.INCONCLUSIVE, why, few[0].sentence if few else _open(case))
    known = [reading.more for reading in case.readings if not _passes(case, reading)]
    if any(more is None for more in known):
        return verdict
    more = max(more for more in known if more is not None)
    days = days_for(more, per_day=case.seen.subjects_per_day)
    when = f", {days:.1f} days at this traffic" if days is not None else ""
    return Verdict(
        verdict.outcome, why, f"{verdict.sentence}; about {more} more subjects{when}", False, case.readings, more, days
    )


_RULES: tuple[_Rule, ...] = (
    _not_ready,
    _limit_breached,
    _mismatch,
    _dropped,
    _stale,
    _harm,
    _successful,
    _deadline,
    _waiting,
    _undecided,
)


def _waits(case: _Case) -> Verdict | None:
    """What a promotion must still wait for, besides evidence."""
    age, least = case.seen.age_seconds, case.rules.min_age_seconds
    if age < least:
        return _say(case, Outcome.INCONCLUSIVE, Why.TOO_YOUNG, f"runs for {age:.0f} s, at least {least:g} s are wanted")
    return _held_by_limit(case)


def _held_by_limit(case: _Case) -> Verdict | None:
    """A value that is not known, or beyond a bound and not for long, promotes nothing and rolls nothing back."""
    if unknown := [limit for limit in case.seen.limits if not limit.known]:
        return _say(case, Outcome.INCONCLUSIVE, Why.LIMIT_UNKNOWN, "; ".join(limit.sentence for limit in unknown))
    if beyond := [limit for limit in case.seen.limits if limit.beyond]:
        sentence = "; ".join(
            f"{limit.sentence}; the candidate fails after {limit.allowed_seconds:g} s" for limit in beyond
        )
        return _say(case, Outcome.INCONCLUSIVE, Why.LIMIT_BEYOND, sentence)
    return None


def _passes(case: _Case, reading: Reading) -> bool:
    if not reading.enough:
        return not _required(case, reading)
    primary = reading is case.readings[0]
    return reading.better if primary and case.rules.goal is Goal.SUPERIOR else reading.safe


def _required(case: _Case, reading: Reading) -> bool:
    metric = case.rules.metrics[case.readings.index(reading)]
    return metric is case.rules.primary or not isinstance(metric, Mean) or metric.required


def _open(case: _Case) -> str:
    return "; ".join(reading.sentence for reading in case.readings if not _passes(case, reading)) or "all metrics pass"


def _say(case: _Case, outcome: Outcome, why: Why, sentence: str) -> Verdict:
    final = outcome in (Outcome.SUCCESSFUL, Outcome.FAILED) or why is Why.DEADLINE
    return Verdict(outcome, why, sentence, final, case.readings)
