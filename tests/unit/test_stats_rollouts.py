"""How often the verdict is wrong when somebody looks all the time; 10,000 rollouts are in bench/rollout_stats."""

from __future__ import annotations

import numpy as np

from ratchet_api.stats.ratio import SampleRatio
from ratchet_api.stats.rules import Mean, Rules
from ratchet_api.stats.samples import Arms, Sample
from ratchet_api.stats.verdict import Evidence, Outcome, judge

RULES = Rules(Mean("helpful"))
EVEN = SampleRatio((0.5, 0.5))


def outcomes(candidate: float, champion: float, *, rollouts: int, looks: int, seed: int) -> dict[Outcome, float]:
    """Shares of first final verdicts, looking after every 100 subjects of each arm."""
    draws = np.random.default_rng(seed)
    counts = draws.binomial(100, [[[candidate]], [[champion]]], (2, rollouts, looks)).cumsum(2)
    ends = dict.fromkeys(Outcome, 0)
    for place in range(rollouts):
        verdict = None
        for look in range(looks):
            n = 100 * (look + 1)
            canary, control = (Sample.of_counts(int(counts[arm, place, look]), n) for arm in (0, 1))
            verdict = judge(RULES, Evidence(split=EVEN, means={"helpful": Arms(canary, control)}))
            if verdict.final:
                break
        assert verdict is not None
        ends[verdict.outcome] += 1
    return {outcome: number / rollouts for outcome, number in ends.items()}


def test_equal_versions_are_hardly_ever_told_apart_however_often_somebody_looks() -> None:
    """P33."""
    ends = outcomes(0.7, 0.7, rollouts=200, looks=30, seed=5)
    assert ends[Outcome.FAILED] <= 0.05
    assert ends[Outcome.SUCCESSFUL] <= 0.05


def test_a_version_that_is_five_points_worse_is_rolled_back_and_never_promoted() -> None:
    """P34."""
    ends = outcomes(0.65, 0.7, rollouts=150, looks=40, seed=6)
    assert ends[Outcome.FAILED] >= 0.9
    assert ends[Outcome.SUCCESSFUL] == 0
