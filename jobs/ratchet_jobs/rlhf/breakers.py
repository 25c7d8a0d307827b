"""When PPO on a language model has to stop, and what its owner should change; beside those of `rl/breakers.py`.

Pure checks on the numbers of one step; each says nothing or raises. Two of them are about *reward hacking*, a score
that rises for reasons its authors did not mean (Gao, Schulman and Hilton 2022, arXiv:2210.10760): scores that follow
the length of the answers while that drifts, and scores that rise while those of a second, independent judge fall.
Called by `ppo.py` after every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ratchet_jobs.rl.breakers import Remedies
from ratchet_jobs.runtime.errors import BadConfigError, DivergedError

WINDOW = 8
"""Steps that a comparison of early and late scores takes from each end."""
LEAST_DRIFT = 1.5
"""Factor by which the mean length must have changed before scores that follow it count as hacked."""
LENGTH_SHARE = 0.9
"""Correlation between score and length from which the score is taken to be the length."""
SIGMAS = 3.0
"""Standard errors by which two means must differ to count as risen or fallen."""

OF_GENERATORS = Remedies(
    no_number="lower learning_rate, or look for NaN in the reward",
    too_far="lower learning_rate or ppo_epochs, give warmup_ratio, raise batch_size, or raise max_update_kl",
    too_sure="lower learning_rate, raise init_kl_coef, or look whether the reward likes one answer to everything",
    no_signal="check that the reward tells answers apart, raise temperature, or raise batch_size",
)
"""Of the breakers that generators share with classifiers, by the loop's settings."""


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """When to stop.

    Raises:
        BadConfigError: a limit is out of range.
    """

    max_kl: float | None = 50.0
    """Largest mean KL of an answer from the reference, summed over its tokens, in nats; None = any."""
    max_empty_share: float = 0.5
    """Share of answers without any text that may not be passed."""
    patience: int = 3
    """Steps in a row that may break a rule before it fires; one batch may be unlucky."""

    def __post_init__(self) -> None:
        if self.max_kl is not None and not self.max_kl > 0:
            raise BadConfigError(f"max_kl: {self.max_kl}; give a number above 0, or none")
        if not 0 < self.max_empty_share <= 1:
            raise BadConfigError(f"max_empty_share: {self.max_empty_share}; give a number above 0 up to 1")
        if self.patience < 1:
            raise BadConfigError(f"patience: {self.patience}; give a whole number from 1 up")


@dataclass(frozen=True, slots=True)
class StepSeen:
    """What one step's answers were like, as the reward-hacking rules remember them."""

    score: float
    """Mean score."""
    length: float
    """Mean tokens."""
    score_of_length: float
    """Correlation between the scores and the lengths of its answers; 0 where either did not vary."""
    judged: float | None = None
    """Mean score by the independent judge; None = there is none."""
    claimed: float | None = None
    """Mean of the part of the score that the judge is held against; None = the score itself."""


@dataclass(frozen=True, slots=True)
class AnswerState:
    """What the breakers remember between steps; part of a checkpoint."""

    high_kl: int = 0
    """Steps in a row above max_kl."""
    empty: int = 0
    """Steps in a row with too many empty answers."""
    early: tuple[StepSeen, ...] = ()
    """The first WINDOW steps."""
    late: tuple[StepSeen, ...] = field(default=())
    """The latest WINDOW steps after those."""


def check_answers(
    seen: StepSeen, before: AnswerState, *, kl: float, empty_share: float, limits: AnswerLimits, step: int
) -> AnswerState:
    """Judge one step.

    Args:
        seen: its answers.
        before: what the last call returned.
        kl: mean KL of its answers from the reference.
        empty_share: share of its answers without text.
        limits: when to stop.
        step: its number from 1, for messages.

    Returns:
        The state after it.

    Raises:
        DivergedError: the policy left the reference, fell silent or games its reward; says what to change.
    """
    far = limits.max_kl is not None and kl > limits.max_kl
    early = (*before.early, seen) if len(before.early) < WINDOW else before.early
    late = before.late if len(before.early) < WINDOW else (*before.late, seen)[-WINDOW:]
    after = AnswerState(
        high_kl=before.high_kl + 1 if far else 0,
        empty=before.empty + 1 if empty_share > limits.max_empty_share else 0,
        early=early,
        late=late,
    )
    if after.high_kl >= limits.patience:
        raise DivergedError(
            f"step {step}: answers are {kl:.3g} nats from the reference, above max_kl {limits.max_kl:g}, for "
            f"{after.high_kl} steps: raise init_kl_coef, set or lower target_kl, or lower learning_rate"
        )
    if after.empty >= limits.patience:
        raise DivergedError(
            f"step {step}: {empty_share:.0%} of the answers were empty for {after.empty} steps: the policy learned to "
            "say nothing; check that the reward gives silence a low score, or raise init_kl_coef"
        )
    if len(late) == WINDOW:
        _check_hacking(after, step)
    return after


def _check_hacking(state: AnswerState, step: int) -> None:
    _check_length(state, step)
    _check_judged(state, step)


def _check_length(state: AnswerState, step: int) -> None:
    first, last = _mean([s.length for s in state.early]), _mean([s.length for s in state.late])
    drift = max(first, last) / max(min(first, last), 1e-9)
    follows = _mean([s.score_of_length for s in state.late])
    risen = _change([s.score for s in state.early], [s.score for s in state.late]) >= SIGMAS
    if risen and drift > LEAST_DRIFT and follows * math.copysign(1.0, last - first) > LENGTH_SHARE:
        raise DivergedError(
            f"step {step}: reward hacking: scores follow the answers' length (correlation {follows:.2f}), which went "
            f"from {first:.3g} to {last:.3g} tokens: rate answers of all lengths alike, or add a length penalty"
        )


def _check_judged(state: AnswerState, step: int) -> None:
    claimed_early, claimed_late = ([_claimed(s) for s in part] for part in (state.early, state.late))
    judged_early = [s.judged for s in state.early if s.judged is not None]
    judged_late = [s.judged for s in state.late if s.judged is not None]
    if len(judged_early) < WINDOW or len(judged_late) < WINDOW:
        return
    if _change(claimed_early, claimed_late) >= SIGMAS and _change(judged_early, judged_late) < -SIGMAS:
        raise DivergedError(
            f"step {step}: reward hacking: the score rose from {_mean(claimed_early):.3g} to "
            f"{_mean(claimed_late):.3g} while the independent judge's fell from "
            f"{_mean(judged_early):.3g} to {_mean(judged_late):.3g}: collect feedback on such answers, or raise "
            "init_kl_coef"
        )


def _claimed(seen: StepSeen) -> float:
    return seen.score if seen.claimed is None else seen.claimed


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _change(early: Sequence[float], late: Sequence[float]) -> float:
    """Difference of two means in standard errors (Welch); infinite where neither varies and they differ."""
    gap = _mean(late) - _mean(early)
    spread = sum(sum((n - _mean(part)) ** 2 for n in part) / (len(part) - 1) / len(part) for part in (early, late))
    if spread == 0.0:
        return math.copysign(math.inf, gap) if gap else 0.0
    return gap / math.sqrt(spread)


def correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Pearson's correlation of two equally long series; 0 where either does not vary."""
    x, y = _mean(left), _mean(right)
    across = sum((a - x) * (b - y) for a, b in zip(left, right, strict=True))
    scale = math.sqrt(sum((a - x) ** 2 for a in left) * sum((b - y) ** 2 for b in right))
    return across / scale if scale > 0 else 0.0
