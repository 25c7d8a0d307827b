"""What a new policy would have earned on the live one's traffic, before the first user meets it.

Decides the estimate, its interval, and when there is none: where the live policy hardly ever answered as the new one
would, the log says nothing about it, and `NoSupport` is the honest answer. Torch-free and for a verdict; the tensors
of training have their own formulas in the stages' code. For notebooks and scripts: no rollout asks it yet.

Notation: mu = probability with which the live policy gave the logged answer, pi = probability with which the new one
would, w = pi / mu, r = reward that people gave, q = a model's estimate of it made without this row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

from ratchet_api.stats.errors import BadEvidence, require_between

MIN_EFFECTIVE = 100.0
"""Effective samples below which nothing is said: as many as one arm of a rollout needs."""


class Logged(NamedTuple):
    """One answer of the live policy that somebody rated."""

    reward: float
    """r, 0..1."""
    propensity: float
    """mu of the logged answer, in (0, 1]."""
    target: float
    """pi of the same answer, in [0, 1]."""
    logged_estimate: float = 0.0
    """q of the logged answer; 0 everywhere = plain inverse propensity scoring."""
    target_estimate: float = 0.0
    """sum over all answers of pi q; 0 everywhere likewise."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the new policy is worth.

    Attributes:
        value: mean reward per answer.
        low: lower end of the interval.
        high: upper end.
        samples: rows.
        effective_samples: how many equally weighted rows they are worth.
        clipped: share of the rows whose weight was cut.
    """

    value: float
    low: float
    high: float
    samples: int
    effective_samples: float
    clipped: float


@dataclass(frozen=True, slots=True)
class NoSupport:
    """The log says nothing about the new policy.

    Attributes:
        samples: rows.
        effective_samples: how many equally weighted rows they are worth.
        needed: below which nothing is said.
    """

    samples: int
    effective_samples: float
    needed: float

    @property
    def sentence(self) -> str:
        """Why there is no number, and what to do."""
        return (
            f"{self.samples} rated answers are worth {self.effective_samples:.1f} samples of the new policy, fewer than "
            f"{self.needed:g}: the live policy hardly ever answers as it would; raise explorationPercent, or start "
            "with a shadow or a small canary"
        )


def effective_samples(weights: Sequence[float]) -> float:
    """(sum w)^2 / sum w^2 (Kong 1992), 0..N; 0 without any weight."""
    squares = math.fsum(weight * weight for weight in weights)
    return math.fsum(weights) ** 2 / squares if squares > 0 else 0.0


def inverse_propensity(
    rows: Sequence[Logged], *, max_weight: float | None = None, alpha: float = 0.05, needed: float = MIN_EFFECTIVE
) -> Estimate | NoSupport:
    """Mean of w r (Horvitz-Thompson), with a normal interval.

    Args:
        rows: rated answers, one per subject.
        max_weight: w is cut here: less variance, for a bias towards 0 (Ionides 2008); None = never.
        alpha: 1 - coverage of the interval, for one look.
        needed: effective samples.

    Raises:
        BadEvidence: a row cannot be.
    """
    weights, clipped = _weights(rows, max_weight)
    values = [weight * row.reward for weight, row in zip(weights, rows, strict=True)]
    return _estimate(values, weights, clipped, alpha=alpha, needed=needed)


def doubly_robust(
    rows: Sequence[Logged], *, max_weight: float | None = None, alpha: float = 0.05, needed: float = MIN_EFFECTIVE
) -> Estimate | NoSupport:
    """Mean of target_estimate + w (r - logged_estimate) (Dudik, Langford and Li 2011, arXiv:1103.4601, eq. 3).

    Right when either the propensities or the estimates are; arguments and errors as `inverse_propensity`.
    """
    weights, clipped = _weights(rows, max_weight)
    values = [
        row.target_estimate + weight * (row.reward - row.logged_estimate)
        for weight, row in zip(weights, rows, strict=True)
    ]
    return _estimate(values, weights, clipped, alpha=alpha, needed=needed)


def _weights(rows: Sequence[Logged], max_weight: float | None) -> tuple[list[float], float]:
    """Return w of each row, cut, and the share that was."""
    if max_weight is not None:
        require_between("max_weight", max_weight, 0, math.inf)
    for place, row in enumerate(rows):
        if not 0 < row.propensity <= 1:
            raise BadEvidence(
                f"rows[{place}].propensity is {row.propensity:g}; a logged answer had a probability above 0 and at "
                "most 1: log it when answering, or leave the row out"
            )
        for name, value in row._asdict().items():
            if name != "propensity" and not 0 <= value <= 1:
                raise BadEvidence(f"rows[{place}].{name} is {value:g}; give a number from 0 to 1")
    plain = [row.target / row.propensity for row in rows]
    if max_weight is None:
        return plain, 0.0
    cut = sum(weight > max_weight for weight in plain)
    return [min(weight, max_weight) for weight in plain], cut / max(1, len(plain))


def _estimate(
    values: Sequence[float], weights: Sequence[float], clipped: float, *, alpha: float, needed: float
) -> Estimate | NoSupport:
    require_between("alpha", alpha, 0, 1)
    n, effective = len(values), effective_samples(weights)
    if effective < needed or n < 2:
        return NoSupport(n, effective, needed)
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = NormalDist().inv_cdf(1 - alpha / 2) * error
    return Estimate(mean, mean - half, mean + half, n, effective, clipped)
