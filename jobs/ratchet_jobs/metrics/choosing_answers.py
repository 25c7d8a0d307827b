"""Which of two generators is committed: the one that RL trained, unless its answers may be worth less.

Decides by the whole interval of the difference of mean worths, paired by row (non-inferiority; percentile bootstrap,
Efron and Tibshirani 1993, chapter 13), and by the gates, as `ratchet_api.gates` judges them for the operator. A row is
worth the reward of an answer, or, where the policy learned from judged answers, whether it tells a held-out pair apart.
Pure; called by the evaluate recipe of generators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratchet_api.comparison import CHOICE_LIMIT, Choice, Comparison
from ratchet_api.gates import judge_gate, told
from ratchet_api.policy_types import JUDGED
from ratchet_api.training_run import Evaluation
from ratchet_jobs.metrics.comparison import Difference

Floats = NDArray[np.float64]

DECIMALS = 6
"""Of the numbers in status; comparison.json has them whole."""
Worth = Literal["reward", "agreement"]
SHOWN = ("mean_tokens", "kl", "perplexity", "distinct2", "repetition")
"""Numbers of both policies that stand beside each other in status."""
_AT_ONCE = 4_000_000
"""Numbers held at once while resampling: 32 MB."""


class Judged(NamedTuple):
    """The choice, the numbers for status, and comparison.json."""

    choice: Choice
    metrics: dict[str, float]
    report: dict[str, Any]


def choose_answers(
    candidate: Mapping[str, float],
    baseline: Mapping[str, float],
    rewards: Floats,
    baseline_rewards: Floats,
    *,
    role: str,
    wanted: Evaluation,
    seed: int,
    worth: Worth = "reward",
    judge_win_rate: float | None = None,
) -> Judged:
    """Hold the generator that RL trained against the one it started from.

    Args:
        candidate: metrics of what RL made.
        baseline: of what it started from.
        rewards: (N,) what N held-out rows are worth with the candidate.
        baseline_rewards: (N,) with the baseline, in the same order.
        role: of the baseline: supervised or start.
        wanted: gates and comparison.
        seed: of the run.
        worth: what a row's worth is called; a number of both metrics.
        judge_win_rate: share of the prompts on which a judge prefers the candidate's answer; None = no judge was asked.
    """
    rules = wanted.comparison or Comparison()
    row = paired(rewards, baseline_rewards, confidence=rules.confidence, resamples=rules.resamples, seed=seed)
    numbers = {f"diff/{worth}": row.difference, f"diff/{worth}_low": row.low, f"diff/{worth}_high": row.high}
    found: dict[str, Any] = {worth: row._asdict()}
    text = f"{worth} {row.candidate:.4f} against {row.baseline:.4f}, difference {row.difference:+.4f}"
    text += f" ({row.low:+.4f} to {row.high:+.4f})"
    if worth == "reward":
        found["win_rate"] = numbers["rl/win_rate"] = win_rate(rewards, baseline_rewards)
        text += f", {found['win_rate']:.0%} of the answers better"
        # gates may ask for it; a policy that is held against itself wins half
        candidate, baseline = {**candidate, "win_rate": found["win_rate"]}, {**baseline, "win_rate": 0.5}
    if judge_win_rate is not None:
        numbers["rl/judge_win_rate"] = found["judge_win_rate"] = judge_win_rate
        text += f", {judge_win_rate:.0%} by the judge"
        candidate, baseline = {**candidate, JUDGED: judge_win_rate}, {**baseline, JUDGED: 0.5}
    reasons = [] if row.not_worse(rules.margin) else [_worse(row, rules.margin, worth)]
    reasons += [told(result) for gate in wanted.gates if not (result := judge_gate(gate, candidate)).passed]
    chosen, why = role if reasons else "rl", "; ".join(reasons) or text
    choice = Choice(candidate="rl", baseline=role, chosen=chosen, why=why[:CHOICE_LIMIT])
    if worth == "reward":
        numbers["win_rate"] = (baseline if reasons else candidate)["win_rate"]
    if judge_win_rate is not None:
        numbers[JUDGED] = (baseline if reasons else candidate)[JUDGED]
    for name in (worth, *SHOWN):
        numbers |= {f"baseline/{name}": baseline[name], f"rl/{name}": candidate[name]}
    report = {
        "choice": choice.to_wire(),
        "rules": rules.to_wire(),
        "seed": seed,
        "policies": {name: {"metrics": dict(each)} for name, each in (("rl", candidate), (role, baseline))},
        "worths": {"rl": _rounded(rewards), role: _rounded(baseline_rewards)},
        "rl_against_baseline": found,
    }
    return Judged(choice, {name: round(value, DECIMALS) for name, value in numbers.items()}, report)


def paired(candidate: Floats, baseline: Floats, *, confidence: float, resamples: int, seed: int) -> Difference:
    """Difference of two means over the same N prompts with its interval, candidate minus baseline."""
    gaps = candidate - baseline
    draws = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // len(gaps))
    means = np.concatenate(
        [
            gaps[draws.integers(0, len(gaps), (min(at_once, resamples - done), len(gaps)))].mean(1)
            for done in range(0, resamples, at_once)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(float(baseline.mean()), float(candidate.mean()), float(gaps.mean()), float(low), float(high))


def win_rate(candidate: Floats, baseline: Floats) -> float:
    """Share of prompts on which the candidate's answer is worth more; equal ones count half."""
    return float((candidate > baseline).mean() + 0.5 * (candidate == baseline).mean())


def _rounded(worths: Floats) -> list[float]:
    return [round(float(worth), DECIMALS) for worth in worths]


def _worse(row: Difference, margin: float, worth: Worth) -> str:
    text = f"{worth} {row.candidate:.4f} against {row.baseline:.4f}: the difference may be {row.low:+.4f}"
    return f"{text}, must be >= {0.0 - margin:g}"
