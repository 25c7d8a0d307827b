"""Confidence sequences of a difference: bounds that hold at all times at once, however often somebody looks.

Decides how wide a bound is. Never decides what follows from it (`verdict`). The formulas are the asymptotic confidence
sequences of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (arXiv:2103.06476v7): theorem 2.2 for two sides, its
one-sided form for decisions, equation 161 for the tuning. They need enough subjects for a mean to be near normal:
callers look at none before `Rules.min_subjects` and `Rules.min_events`.

Notation: n = subjects of both arms, se2 = variance of the difference of means, t = difference / sqrt(se2), r2 = rho
squared, the precision of the mixture per subject.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ratchet_api.stats.errors import BadEvidence, require_between
from ratchet_api.stats.samples import Arms


class Difference(NamedTuple):
    """Candidate minus champion."""

    estimate: float
    """Difference of the two means, -1..1."""
    se2: float
    """Variance of the estimate (Welch: each arm has its own)."""
    subjects: int
    """n, of both arms."""


class Interval(NamedTuple):
    """Where the difference lies, at every time at once."""

    low: float
    high: float


def difference(arms: Arms) -> Difference:
    """Subtract the means.

    Raises:
        BadEvidence: an arm has fewer than two subjects, so that its variance is unknown.
    """
    for name, arm in (("candidate", arms.candidate), ("champion", arms.champion)):
        if arm.subjects < 2:
            raise BadEvidence(f"{name}.subjects is {arm.subjects}; a variance needs at least 2")
    se2 = arms.candidate.variance / arms.candidate.subjects + arms.champion.variance / arms.champion.subjects
    return Difference(arms.candidate.mean - arms.champion.mean, se2, arms.subjects)


def tuned_precision(alpha: float, subjects: float) -> float:
    """r2 that makes the two-sided sequence narrowest at so many subjects (eq. 161).

    It must be fixed before the first look; a wrong guess costs width, never validity.

    Args:
        alpha: error over all time, two-sided, in (0, 1).
        subjects: of both arms, > 0.
    """
    require_between("alpha", alpha, 0, 1)
    require_between("subjects to tune to", subjects, 0, math.inf)
    return (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / subjects


def two_sided(seen: Difference, *, alpha: float, tuned_to: float) -> Interval:
    """Interval that holds the true difference at all times with probability 1 - alpha (theorem 2.2).

    half width = sqrt(se2 n) sqrt(2 (n r2 + 1) / (n^2 r2) ln(sqrt(n r2 + 1) / alpha)).

    Args:
        seen: estimate, its variance, subjects.
        alpha: error over all time.
        tuned_to: subjects of both arms at which it is narrowest.
    """
    r2 = tuned_precision(alpha, tuned_to)
    wide = seen.subjects * r2 + 1
    half = _half_width(seen, r2, math.log(math.sqrt(wide) / alpha))
    return Interval(seen.estimate - half, seen.estimate + half)


def one_sided(seen: Difference, *, alpha: float, tuned_to: float) -> Interval:
    """Two bounds, each of which alone holds at all times with probability 1 - alpha.

    The logarithm of `two_sided` becomes ln(1 + sqrt(n r2 + 1) / (2 alpha)), and r2 is tuned for 2 alpha, as a
    one-sided bound of alpha is about as wide as a two-sided one of 2 alpha.

    Args:
        seen: estimate, its variance, subjects.
        alpha: error of either bound, in (0, 1/2).
        tuned_to: subjects of both arms at which they are narrowest.

    Returns:
        The lower bound and the upper bound; they are two statements, not an interval of 1 - alpha.
    """
    require_between("alpha", alpha, 0, 0.5)
    r2 = tuned_precision(2 * alpha, tuned_to)
    wide = seen.subjects * r2 + 1
    half = _half_width(seen, r2, math.log1p(math.sqrt(wide) / (2 * alpha)))
    return Interval(seen.estimate - half, seen.estimate + half)


def p_two_sided(seen: Difference, *, alpha: float, tuned_to: float) -> float:
    """Anytime-valid p-value of "no difference", in (0, 1] (eq. 155): 1 / e-value of the normal mixture.

    Args:
        seen: estimate, its variance, subjects.
        alpha: that the sequence is tuned for; below it, zero is outside `two_sided`.
        tuned_to: as there.
    """
    r2 = tuned_precision(alpha, tuned_to)
    wide = seen.subjects * r2 + 1
    return min(1.0, math.sqrt(wide) * math.exp(-min(700.0, _exponent(seen, r2))))


def p_above(seen: Difference, margin: float, *, alpha: float, tuned_to: float) -> float:
    """Anytime-valid p-value of "the difference is at most margin", in (0, 1]: `one_sided` solved for alpha.

    Args:
        seen: estimate, its variance, subjects.
        margin: the difference to beat.
        alpha: that the sequence is tuned for; below it, the lower bound of `one_sided` is above margin.
        tuned_to: as there.
    """
    require_between("alpha", alpha, 0, 0.5)
    if not seen.estimate > margin:
        return 1.0
    r2 = tuned_precision(2 * alpha, tuned_to)
    shifted = seen._replace(estimate=seen.estimate - margin)
    likelihood = math.expm1(min(700.0, _exponent(shifted, r2)))
    wide = seen.subjects * r2 + 1
    return min(1.0, math.sqrt(wide) / (2 * likelihood)) if likelihood > 0 else 1.0


def _half_width(seen: Difference, r2: float, logarithm: float) -> float:
    n = seen.subjects
    return math.sqrt(seen.se2 * n) * math.sqrt(2 * (n * r2 + 1) / (n * n * r2) * logarithm)


def _exponent(seen: Difference, r2: float) -> float:
    """r2 t^2 n / (2 (n r2 + 1)); infinite where the arms differ and neither varies."""
    if seen.se2 <= 0:
        return math.inf if seen.estimate else 0.0
    t2 = seen.estimate**2 / seen.se2
    return r2 * t2 * seen.subjects / (2 * (seen.subjects * r2 + 1))
