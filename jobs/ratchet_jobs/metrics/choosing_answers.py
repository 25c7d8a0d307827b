"""Which of two generators is committed: the one that RL trained, unless its answers may be worth less.

Decides by the whole interval of the difference of mean rewards, paired by prompt (non-inferiority; percentile
bootstrap, Efron and Tibshirani 1993, chapter 13), and by the gates, as `ratchet_api.gates` judges them for the
operator. Pure; called by the evaluate recipe of generators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratchet_api.comparison import CHOICE_LIMIT, Choice, Comparison
from ratchet_api.gates import judge_gate, told
from ratchet_api.training_run import Evaluation
from ratchet_jobs.metrics.comparison import Difference

Floats = NDArray[np.float64]

DECIMALS = 6
"""Of the numbers in status; comparison.json has them whole."""
SHOWN = ("reward", "mean_tokens", "kl", "perplexity", "distinct2", "repetition")
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
) -> Judged:
    """Hold the generator that RL trained against the one it started from.

    Args:
        candidate: metrics of what RL made.
        baseline: of what it started from.
        rewards: (N,) of the candidate's answers to N held-out prompts.
        baseline_rewards: (N,) of the baseline's, in the same order.
        role: of the baseline: supervised or start.
        wanted: gates and comparison.
        seed: of the run.
    """
    rules = wanted.comparison or Comparison()
    row = paired(rewards, baseline_rewards, confidence=rules.confidence, resamples=rules.resamples, seed=seed)
    reasons = [] if row.not_worse(rules.margin) else [_worse(row, rules.margin)]
    reasons += [told(result) for gate in wanted.gates if not (result := judge_gate(gate, candidate)).passed]
    chosen = role if reasons else "rl"
    wins = win_rate(rewards, baseline_rewards)
    text = f"reward {row.candidate:.4f} against {row.baseline:.4f}, difference {row.difference:+.4f}"
    why = "; ".join(reasons) or f"{text} ({row.low:+.4f} to {row.high:+.4f}), {wins:.0%} of the answers better"
    choice = Choice(candidate="rl", baseline=role, chosen=chosen, why=why[:CHOICE_LIMIT])
    numbers = {"diff/reward": row.difference, "diff/reward_low": row.low, "diff/reward_high": row.high}
    numbers["rl/win_rate"] = wins
    for name in SHOWN:
        numbers |= {f"baseline/{name}": baseline[name], f"rl/{name}": candidate[name]}
    report = {
        "choice": choice.to_wire(),
        "rules": rules.to_wire(),
        "seed": seed,
        "rl_against_baseline": {"reward": row._asdict(), "win_rate": wins},
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


def _worse(row: Difference, margin: float) -> str:
    text = f"reward {row.candidate:.4f} against {row.baseline:.4f}: the difference may be {row.low:+.4f}"
    return f"{text}, must be >= {0.0 - margin:g}"
