"""How often the verdict is wrong, and how many subjects it takes, on simulated rollouts looked at in every window.

    make bench-rollout-stats            or: python -m bench.rollout_stats [--rollouts 10000]

Every look calls `ratchet_api.stats.verdict.judge`, the function that decides in the product; numpy only draws the
subjects. Yes-or-no feedback, a champion at 70 % unless said otherwise, arms of equal size, one primary metric whose
harm rolls back and whose improvement promotes, alpha 0.05 each.

1. A/A: the versions are equal. Wrong rollbacks and wrong promotions must each stay below alpha.
2. A/A with four guardrails, one of them on rare errors: all rollbacks together must.
3. five points worse: rolled back in at least 0.9 of the rollouts within a number of subjects that is printed; never
   promoted; the mean number of subjects against a one-sided fixed test with alpha 0.05 and power 0.9.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ratchet_api.stats.planning import fixed_subjects
from ratchet_api.stats.rare import RareCounts
from ratchet_api.stats.ratio import SampleRatio
from ratchet_api.stats.rules import Mean, Rare, Rules
from ratchet_api.stats.samples import Arms, Sample
from ratchet_api.stats.verdict import Evidence, Outcome, judge

ALPHA, POWER, CHAMPION, HARM = 0.05, 0.9, 0.7, 0.05
EVEN = SampleRatio((0.5, 0.5))


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a simulated rollout: its rule, and its probabilities in both arms."""

    rule: Mean | Rare
    candidate: float
    champion: float


@dataclass(frozen=True, slots=True)
class Ends:
    """How rollouts ended: a row each."""

    outcomes: NDArray[np.str_]
    subjects: NDArray[np.int64]

    def share(self, outcome: Outcome) -> float:
        return float((self.outcomes == outcome.value).mean())


def simulate(metrics: Sequence[Metric], *, rollouts: int, window: int, looks: int, tuned_to: float, seed: int) -> Ends:
    """Run rollouts to their first final verdict.

    Args:
        metrics: the first is the primary; they are drawn independently of each other.
        rollouts: how many.
        window: subjects of each arm between two looks.
        looks: at most.
        tuned_to: subjects of both arms.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    first = metrics[0].rule
    assert isinstance(first, Mean)
    rules = Rules(first, tuple(metric.rule for metric in metrics[1:]), alpha=ALPHA, tuned_to=tuned_to)
    outcomes, subjects = [], []
    for _ in range(rollouts):
        chances = np.array([[metric.candidate, metric.champion] for metric in metrics])
        counts = rng.binomial(window, chances[..., None], (len(metrics), 2, looks)).cumsum(-1)
        outcome, n = Outcome.INCONCLUSIVE, looks * window
        for look in range(looks):
            verdict = judge(rules, evidence(metrics, counts[..., look], window * (look + 1)))
            if verdict.final:
                outcome, n = verdict.outcome, window * (look + 1)
                break
        outcomes.append(outcome.value)
        subjects.append(2 * n)
    return Ends(np.array(outcomes), np.array(subjects))


def evidence(metrics: Sequence[Metric], counts: NDArray[np.int64], n: int) -> Evidence:
    """The counts (metric, arm) after n subjects of each arm, as the product is given them."""
    means, rare = {}, {}
    for metric, (candidate, champion) in zip(metrics, counts.tolist(), strict=True):
        if isinstance(metric.rule, Mean):
            means[metric.rule.name] = Arms(Sample.of_counts(candidate, n), Sample.of_counts(champion, n))
        else:
            rare[metric.rule.name] = RareCounts(candidate, n, champion, n)
    return Evidence(split=EVEN, means=means, rare=rare, age_seconds=1.0, data_age_seconds=0.0)


def equal(rollouts: int) -> dict[str, bool]:
    """A/A rollouts; returns the targets and whether they are met."""
    targets: dict[str, bool] = {}
    print("\n| equal versions | rollouts | looks | wrong rollbacks | wrong promotions |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for rate, count in ((CHAMPION, rollouts), (0.95, rollouts // 10), (0.5, rollouts // 10)):
        primary = [Metric(Mean("helpful"), rate, rate)]
        ends = simulate(primary, rollouts=count, window=100, looks=50, tuned_to=5000, seed=1)
        failed, promoted = ends.share(Outcome.FAILED), ends.share(Outcome.SUCCESSFUL)
        print(f"| {rate:.0%} say yes | {count:,} | 50 | {failed:.4f} | {promoted:.4f} |")
        targets[f"equal at {rate:.0%}: wrong rollbacks and promotions at most {ALPHA} each"] = (
            max(failed, promoted) <= ALPHA
        )
    guarded = [
        Metric(Mean("helpful"), CHAMPION, CHAMPION),
        Metric(Mean("complaints", higher_is_better=False), 0.1, 0.1),
        Metric(Mean("abstentions", higher_is_better=False), 0.2, 0.2),
        Metric(Mean("feedback rate"), 0.3, 0.3),
        Metric(Rare("errors"), 0.005, 0.005),
    ]
    ends = simulate(guarded, rollouts=rollouts // 10, window=100, looks=50, tuned_to=5000, seed=2)
    failed, promoted = ends.share(Outcome.FAILED), ends.share(Outcome.SUCCESSFUL)
    print(f"| with four guardrails | {rollouts // 10:,} | 50 | {failed:.4f} | {promoted:.4f} |")
    targets[f"four guardrails: wrong rollbacks at most {ALPHA} together"] = failed <= ALPHA
    return targets


def harmful(rollouts: int) -> dict[str, bool]:
    """Rollouts of a version that is five points worse; returns the targets and whether they are met."""
    bad = CHAMPION - HARM
    variance = (CHAMPION * (1 - CHAMPION) + bad * (1 - bad)) / 2
    fixed = {points: fixed_subjects(points / 100, variance=variance, alpha=ALPHA, power=POWER) for points in (5, 2)}
    targets: dict[str, bool] = {}
    print(
        "\n| five points worse, tuned to | mean subjects | 90 % rolled back by | promoted | fixed test for 5 | for 2 |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, tuned_to in (("the test for 5", fixed[5]), ("the test for 2", fixed[2]), ("5,000 (default)", 5000)):
        ends = simulate(
            [Metric(Mean("helpful"), bad, CHAMPION)],
            rollouts=rollouts, window=25, looks=600, tuned_to=tuned_to, seed=3,
        )  # fmt: skip
        mean, most = float(ends.subjects.mean()), float(np.quantile(ends.subjects, 0.9))
        failed, promoted = ends.share(Outcome.FAILED), ends.share(Outcome.SUCCESSFUL)
        print(f"| {name} | {mean:,.0f} | {most:,.0f} | {promoted:.4f} | {fixed[5]:,} | {fixed[2]:,} |")
        targets[f"{name}: {failed:.3f} rolled back, at least {POWER}"] = failed >= POWER
        targets[f"{name}: promoted in {promoted:.4f}, at most {ALPHA}"] = promoted <= ALPHA
        if name == "the test for 5":
            targets[f"{name}: mean {mean / fixed[5]:.2f} x the fixed test, at most 1.1"] = mean <= 1.1 * fixed[5]
        if name == "the test for 2":
            targets[f"{name}: mean {mean / fixed[2]:.2f} x the fixed test, at most 0.25"] = mean <= 0.25 * fixed[2]
    return targets


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=10_000, help="of the first row; others have fewer")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    targets = equal(options.rollouts) | harmful(options.rollouts // 10)
    print()
    for text, met in targets.items():
        print(f"{'met   ' if met else 'MISSED'} {text}")
    print(f"{time.perf_counter() - began:.0f} s")
    return 0 if all(targets.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
