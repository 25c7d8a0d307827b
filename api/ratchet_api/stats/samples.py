"""What is known of one arm: one value per subject, folded into three numbers that can be added up.

Decides what a value is: how a subject's feedback went, 0 to 1, entered once when its attribution window closes. Never
sees a subject. Replicas and time windows add their samples; nothing else of the log is needed for a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

from ratchet_api.stats.errors import BadEvidence

_ROUNDING = 1e-9
"""Relative error that adding up many values may leave."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One arm's values of one metric.

    Attributes:
        subjects: how many different subjects gave a value.
        total: sum of their values.
        squares: sum of the squared values.
    """

    subjects: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sums that no values between 0 and 1 have.

        Raises:
            BadEvidence: naming the sum.
        """
        room = _ROUNDING * max(1, self.subjects)
        if self.subjects < 0:
            raise BadEvidence(f"sample.subjects is {self.subjects}; count from 0 on")
        if not -room <= self.total <= self.subjects + room:
            raise BadEvidence(
                f"sample.total is {self.total:g} of {self.subjects} subjects; every value lies between 0 and 1"
            )
        if not self.total**2 <= (self.squares + room) * max(1, self.subjects) or not self.squares <= self.total + room:
            raise BadEvidence(
                f"sample.squares is {self.squares:g}, which {self.subjects} values between 0 and 1 with the sum "
                f"{self.total:g} cannot have; add up the squares of the same values"
            )

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Fold values, one per subject.

        Raises:
            BadEvidence: one of them is outside [0, 1] or no number.
        """
        kept = list(values)
        for place, value in enumerate(kept):
            if not 0 <= value <= 1:
                raise BadEvidence(
                    f"values[{place}] is {value:g}; scale the metric to 0..1 and leave out what is missing"
                )
        return cls(len(kept), math.fsum(kept), math.fsum(value * value for value in kept))

    @classmethod
    def of_counts(cls, successes: int, subjects: int) -> Self:
        """Fold yes-or-no values: so many yes of so many."""
        return cls(subjects, float(successes), float(successes))

    def __add__(self, other: Sample) -> Sample:
        """Put two samples of different subjects together."""
        return Sample(self.subjects + other.subjects, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """Mean value, 0..1; NaN without subjects."""
        return self.total / self.subjects if self.subjects else math.nan

    @property
    def variance(self) -> float:
        """Unbiased variance of one value (the divisor is n - 1); NaN below two subjects."""
        if self.subjects < 2:
            return math.nan
        return max(0.0, self.squares - self.total**2 / self.subjects) / (self.subjects - 1)

    @property
    def events(self) -> float:
        """The smaller of the sums of the values and of what they lack to 1: how many of the rarer outcome were seen."""
        return min(self.total, self.subjects - self.total)


class Arms(NamedTuple):
    """One metric in both arms of a rollout."""

    candidate: Sample
    champion: Sample
    """Of the control arm, whose subjects were drawn at the same time as the candidate's, never of everybody else."""

    @property
    def subjects(self) -> int:
        """Of both arms."""
        return self.candidate.subjects + self.champion.subjects
