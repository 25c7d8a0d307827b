"""Circuit breakers: when an RL run has to stop, and what its owner should change.

Pure checks on numbers; each either says nothing or raises. The recipe calls `check_update` after every update and keeps
the last checkpoint made before. NaN in a loss or gradient is caught earlier, before the step (`learner.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ratchet_jobs.rl.learner import UpdateStats
from ratchet_jobs.runtime.errors import BadConfigError, DivergedError, NotANumberError


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop.

    Raises:
        BadConfigError: a limit is out of range.
    """

    max_kl: float | None = 0.5
    """Largest approximate KL of one update; None = any."""
    min_entropy_ratio: float | None = 0.01
    """Smallest entropy as a share of that of the first update; None = any. A good classifier is sure."""
    patience: int = 3
    """Updates in a row that may break the entropy or variance rule before it fires; one batch may be unlucky."""

    def __post_init__(self) -> None:
        if self.max_kl is not None and not self.max_kl > 0:
            raise BadConfigError(f"breakers.max_kl: {self.max_kl}; give a number above 0, or none")
        if self.min_entropy_ratio is not None and not 0 <= self.min_entropy_ratio < 1:
            raise BadConfigError(f"breakers.min_entropy_ratio: {self.min_entropy_ratio}; give 0 to below 1, or none")
        if self.patience < 1:
            raise BadConfigError(f"breakers.patience: {self.patience}; give a whole number from 1 up")


@dataclass(frozen=True, slots=True)
class Remedies:
    """What a message tells the owner to change, by the settings that he has; those of the rl stage of classifiers."""

    no_number: str = "lower learningRate, or look for NaN in rewards and features"
    too_far: str = "lower learningRate or updateEpochs, set targetKl, or make rollouts larger"
    too_sure: str = "raise entropyCoef, lower learningRate, or start from a less certain version"
    no_signal: str = "check the reward's settings and its clip, or make rollouts larger"


OF_CLASSIFIERS = Remedies()


@dataclass(frozen=True, slots=True)
class BreakerState:
    """What the breakers remember between updates; part of a checkpoint."""

    first_entropy: float | None = None
    """Of the first update."""
    low_entropy: int = 0
    """Updates in a row below the floor."""
    constant_reward: int = 0
    """Updates in a row whose rewards were all equal."""


def check_update(
    stats: UpdateStats,
    before: BreakerState,
    *,
    limits: Limits,
    reward_constant: bool,
    update: int,
    remedies: Remedies = OF_CLASSIFIERS,
) -> BreakerState:
    """Judge one update.

    Args:
        stats: of the update.
        before: what the last call returned.
        limits: when to stop.
        reward_constant: all rewards of its rollout were equal.
        update: its number from 1, for messages.
        remedies: for messages.

    Returns:
        The state after it.

    Raises:
        NotANumberError: a statistic is NaN or infinite.
        DivergedError: the policy moved too far, stopped exploring, or gets no signal; says what to change.
    """
    for name, value in stats.as_metrics().items():
        if not math.isfinite(value):
            raise NotANumberError(f"update {update}: {name} is {value}; {remedies.no_number}")
    if limits.max_kl is not None and stats.approx_kl is not None and stats.approx_kl > limits.max_kl:
        raise DivergedError(
            f"update {update}: approx_kl {stats.approx_kl:.3g} is above {limits.max_kl:g}: the policy left the one "
            f"that acted; {remedies.too_far}"
        )
    first = stats.entropy if before.first_entropy is None else before.first_entropy
    floor = (limits.min_entropy_ratio or 0.0) * (first or 0.0)
    low = stats.entropy is not None and stats.entropy < floor
    after = BreakerState(
        first_entropy=first,
        low_entropy=before.low_entropy + 1 if low else 0,
        constant_reward=before.constant_reward + 1 if reward_constant else 0,
    )
    if after.low_entropy >= limits.patience:
        raise DivergedError(
            f"update {update}: entropy {stats.entropy:.3g} nats is below {floor:.3g}, its floor, for "
            f"{after.low_entropy} updates: the policy no longer explores; {remedies.too_sure}"
        )
    if after.constant_reward >= limits.patience:
        raise DivergedError(
            f"update {update}: every choice of the last {after.constant_reward} rollouts got the same reward: nothing "
            f"can be learned; {remedies.no_signal}"
        )
    return after
