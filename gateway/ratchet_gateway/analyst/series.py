"""How an experiment's counts came about: what was known at each of some hundred moments since it began.

Decides the moments. Nothing is kept for it: who entered the comparison when follows from the folded log alone, so a
point is what an analyst that had read the log up to that moment would have answered, and every reader of one log draws
the same curve. What is read late, or erased, changes all points that it belongs to. Called by `watch`.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ratchet_api.evidence import SHARES, ArmSums, ExperimentPoint, MetricSums, SplitCounts
from ratchet_api.stats.ratio import SampleRatio
from ratchet_gateway.analyst.counts import MINUTE, MINUTES, text_of
from ratchet_gateway.analyst.tables import SCALE, SLOT, Tables, experiment_key

MOST_POINTS = 100
STEPS = tuple(MINUTE * minutes for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10_080))
"""Milliseconds between two moments. They are whole multiples of it since 1970, so that curves drawn one after the
other agree in their points until the experiment is too long for its step."""

# A slot counts from the first moment at which the windows of all its subjects have closed.
_ENTERED = """
SELECT ((place + 1) * :slot + :votes + :step - 1) / :step * :step, canary, sum(scored), sum(score), sum(score2)
FROM slot WHERE experiment = :experiment AND (place + 1) * :slot + :votes <= :known GROUP BY 1, 2 ORDER BY 1
"""


class _Arm(NamedTuple):
    """Sums of one arm, in the tables' whole numbers."""

    subjects: int = 0
    total: int = 0
    squares: int = 0

    def plus(self, subjects: int, total: int, squares: int) -> _Arm:
        return _Arm(self.subjects + subjects, self.total + total, self.squares + squares)

    @property
    def sums(self) -> ArmSums:
        return ArmSums(subjects=self.subjects, total=self.total / SCALE, squares=self.squares / SCALE**2)


def points(tables: Tables, policy: str, experiment: str, *, settle_seconds: float) -> tuple[ExperimentPoint, ...]:
    """Return what was known at each moment, oldest first; none for an experiment that nobody met.

    The last one says what `count` does. It is of now, or of the time when the last subject had entered.

    Args:
        tables: the folded log.
        policy: its name.
        experiment: the id that servers sign.
        settle_seconds: how far behind the newest event the log is taken for whole.
    """
    key = experiment_key(policy, experiment)
    minutes = deque(tables.database.execute(MINUTES, {"experiment": key, "slot": SLOT}).fetchall())
    if not minutes or tables.newest is None:
        return ()
    known = tables.newest - round(1000 * settle_seconds)
    began, last = minutes[0][0] * MINUTE, (minutes[-1][0] + 1) * MINUTE + tables.attribution
    end = max(began, min(known, last))
    step = next((each for each in STEPS if end - began <= each * (MOST_POINTS - 2)), STEPS[-1])
    asked = {"experiment": key, "slot": SLOT, "votes": tables.attribution, "step": step, "known": known}
    entered = deque(tables.database.execute(_ENTERED, asked).fetchall())

    made, arms, split = [], {True: _Arm(), False: _Arm()}, SampleRatio(SHARES, (0, 0))
    for at in [*range((began // step + 1) * step, end, step), end]:
        while entered and (at == end or entered[0][0] <= at):
            _, canary, *sums = entered.popleft()
            arms[bool(canary)] = arms[bool(canary)].plus(*sums)
        while minutes and (at == end or (minutes[0][0] + 1) * MINUTE <= at):
            _, canary, control = minutes.popleft()
            split = split.seen((split.counts[0] + canary, split.counts[1] + control))
        made.append(
            ExperimentPoint(
                at=text_of(at),
                split=SplitCounts(counts=(split.counts[0], split.counts[1]), worst=split.worst),
                feedback=MetricSums(candidate=arms[True].sums, champion=arms[False].sums),
            )
        )
    return tuple(made)
