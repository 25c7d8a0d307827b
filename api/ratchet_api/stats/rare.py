"""Guardrails on rare events, such as failed requests: exact tests that may be looked at all the time.

A mean of almost nothing but zeros is not normal, so `sequences` does not hold for it. Decides with test martingales
that need no approximation: a likelihood ratio of a few fixed alternatives, averaged, is a martingale at the edge of
the null hypothesis and shrinks inside it, so that it ever reaches 1 / alpha has at most the probability alpha (Ville).
Called by `verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from ratchet_api.stats.errors import BadEvidence, require_between

FACTORS = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
"""How much worse (or better) than the margin the alternatives are."""


class RareCounts(NamedTuple):
    """Subjects of both arms to whom the rare thing happened."""

    candidate_events: int
    candidate_subjects: int
    champion_events: int
    champion_subjects: int
    share: float = 0.5
    """Probability that an enrolled subject is the candidate's: a half, as long as control grows with the canary."""

    def check(self, what: str) -> None:
        """Refuse counts that cannot be.

        Raises:
            BadEvidence: naming the metric and the count.
        """
        require_between(f"{what}: share", self.share, 0, 1)
        pairs = (
            ("candidate", self.candidate_events, self.candidate_subjects),
            ("champion", self.champion_events, self.champion_subjects),
        )
        for arm, events, subjects in pairs:
            if not 0 <= events <= subjects:
                raise BadEvidence(
                    f"{what}: {arm} has {events} events of {subjects} subjects; count each subject once, and events "
                    "among them"
                )


def e_ratio_above(seen: RareCounts, ratio: float) -> float:
    """Evidence that the candidate's rate is more than `ratio` times the champion's; exact at every time.

    Given that it happened to somebody, that one is the candidate's with probability s q / (s q + (1 - s)), where q is
    the ratio of the rates and s the candidate's share; so the events alone decide, however rare they are.

    Args:
        seen: counts.
        ratio: > 0.

    Returns:
        e-value; 1 / alpha is significant at alpha.
    """
    return _mixture(_ratio_terms(seen, ratio, (ratio * factor for factor in FACTORS)))


def e_ratio_below(seen: RareCounts, ratio: float) -> float:
    """Evidence that the candidate's rate is less than `ratio` times the champion's; as `e_ratio_above`."""
    return _mixture(_ratio_terms(seen, ratio, (ratio / factor for factor in FACTORS)))


def e_rate_below(events: int, subjects: int, ceiling: float) -> float:
    """Evidence that a rate is below a ceiling; exact at every time (Bernoulli likelihood ratios).

    Args:
        events: how often it happened.
        subjects: to how many it could happen.
        ceiling: in (0, 1).

    Returns:
        e-value; 1 / alpha is significant at alpha.
    """
    require_between("ceiling", ceiling, 0, 1)
    return _mixture(
        events * math.log(rate / ceiling) + (subjects - events) * (math.log1p(-rate) - math.log1p(-ceiling))
        for rate in (ceiling / factor for factor in FACTORS)
    )


def _ratio_terms(seen: RareCounts, null: float, alternatives: Iterable[float]) -> Iterable[float]:
    """Log likelihood ratios of the alternatives to the edge of the null hypothesis."""
    require_between("ratio", null, 0, math.inf)
    odds = seen.share / (1 - seen.share)
    edge = odds * null / (1 + odds * null)
    for ratio in alternatives:
        chance = odds * ratio / (1 + odds * ratio)
        yield seen.candidate_events * math.log(chance / edge) + seen.champion_events * math.log(
            (1 - chance) / (1 - edge)
        )


def _mixture(log_ratios: Iterable[float]) -> float:
    """Mean of the likelihood ratios, from their logarithms; at most e^700, so that it stays a number."""
    terms = list(log_ratios)
    top = max(terms)
    return math.exp(min(700.0, top + math.log(math.fsum(math.exp(term - top) for term in terms) / len(terms))))
