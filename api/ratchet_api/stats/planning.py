"""How many subjects a decision takes: beforehand, and "about N more" while a rollout runs.

Decides nothing about the rollout; its numbers are for people and for the tuning of the sequences. Called by whoever
shows a status, and by the bench.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from ratchet_api.stats.errors import require_between
from ratchet_api.stats.sequences import Difference, one_sided

MOST = 1_000_000_000
"""Subjects beyond which "never, as it looks" is the honest answer."""


def fixed_subjects(effect: float, *, variance: float, alpha: float, power: float) -> int:
    """Subjects of both arms that a one-sided z-test with a single look needs.

    2 * (z_{1-alpha} + z_{power})^2 * 2 variance / effect^2, half of them in each arm.

    Args:
        effect: difference of the means that shall be found, not 0.
        variance: of one value, about the same in both arms; p (1 - p) for yes or no.
        alpha: one-sided error, in (0, 1).
        power: probability to find the effect, in (0, 1).
    """
    require_between("effect", abs(effect), 0, math.inf)
    require_between("variance", variance, 0, math.inf)
    require_between("alpha", alpha, 0, 1)
    require_between("power", power, 0, 1)
    quantiles = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)
    return 2 * math.ceil(2 * variance * quantiles**2 / effect**2)


def subjects_to_show(seen: Difference, margin: float, *, alpha: float, tuned_to: float) -> int | None:
    """Further subjects after which the lower bound would exceed margin, if the arms go on as they went.

    Args:
        seen: difference so far, with at least two subjects in each arm.
        margin: to exceed; candidate minus champion.
        alpha: of the one-sided bound.
        tuned_to: of the sequence.

    Returns:
        Of both arms; 0 = it does already; None = not within a thousand million, as it looks.
    """

    def shown(subjects: int) -> bool:
        later = Difference(seen.estimate, seen.se2 * seen.subjects / subjects, subjects)
        return one_sided(later, alpha=alpha, tuned_to=tuned_to).low > margin

    if shown(seen.subjects):
        return 0
    if not shown(MOST):
        return None
    low, high = seen.subjects, 2 * seen.subjects
    while not shown(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high - seen.subjects


def days_for(subjects: int, *, per_day: float) -> float | None:
    """Days in which so many subjects come; None when nobody comes."""
    return subjects / per_day if per_day > 0 else None
