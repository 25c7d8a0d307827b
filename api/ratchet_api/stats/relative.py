"""By how much more, in relation to the champion: the ratio of two means with bounds that hold at all times at once.

Decides nothing: `readings` shows it to people. The bounds are Fieller's, on the confidence sequence of `sequences`: a
ratio k is within them as long as zero is within the sequence of "candidate's mean - k x champion's mean", so that they
hold for as long, and as exactly, as that sequence does.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ratchet_api.stats.samples import Arms
from ratchet_api.stats.sequences import Difference, difference, two_sided


class RelativeChange(NamedTuple):
    """Candidate's mean over champion's, minus 1: 0.2 = a fifth more."""

    estimate: float
    """Infinite or NaN where the champion's mean is 0."""
    low: float
    """-1 at least."""
    high: float
    """Infinite while the champion's mean is not shown to be above 0."""

    def __str__(self) -> str:
        """In percent, as people read it."""
        high = f"{self.high:+.1%}" if math.isfinite(self.high) else "any"
        return f"{self.estimate:+.1%}, between {self.low:+.1%} and {high}"


def relative_change(arms: Arms, *, alpha: float, tuned_to: float) -> RelativeChange:
    """Return the change of the mean in relation to the champion's.

    |c - k h| <= F sqrt(v_c + k^2 v_h), squared: (h^2 - F^2 v_h) k^2 - 2 c h k + (c^2 - F^2 v_c) <= 0, where c and h
    are the means, v their variances, and F how many standard errors wide the sequence is.

    Args:
        arms: counts.
        alpha: error over all time, two-sided, in (0, 1).
        tuned_to: subjects of both arms at which the bounds are narrowest.

    Raises:
        BadEvidence: an arm has fewer than two subjects.
    """
    n = difference(arms).subjects
    candidate, champion = arms.candidate.mean, arms.champion.mean
    wide = two_sided(Difference(0.0, 1.0, n), alpha=alpha, tuned_to=tuned_to).high ** 2
    square = champion**2 - wide * arms.champion.variance / arms.champion.subjects
    product = candidate * champion
    rest = candidate**2 - wide * arms.candidate.variance / arms.candidate.subjects
    root = math.sqrt(max(0.0, product**2 - square * rest))
    estimate = candidate / champion - 1 if champion else (math.inf if candidate else math.nan)
    # the smaller root without a difference of near numbers; where the candidate may be at 0, every smaller ratio may be
    low = rest / (product + root) if rest > 0 else 0.0
    high = (product + root) / square if square > 0 else math.inf
    return RelativeChange(estimate, low - 1, high - 1)
