"""Does the router split as it was told: a test of the sample ratio that may be looked at all the time.

Decides how unlikely the counts are under the intended shares. Never decides what to do about it. The test is the
Dirichlet-multinomial one of Lindon and Malek (NeurIPS 2022, "Anytime-valid inference for multinomial count data"): the
Bayes factor of "some other shares" against "these shares" is a martingale under the latter, so that it ever reaches
1 / p has at most the probability p, whenever one looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ratchet_api.stats.errors import BadEvidence

CONCENTRATION = 100.0
"""Of the Dirichlet around the intended shares: about as sure as a hundred subjects would make one."""


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """What the counts of subjects have said about the shares so far.

    Attributes:
        shares: intended, by arm; they sum to 1. An arm with share 0 must get nobody.
        counts: of subjects by arm, each at its first exposure.
        worst: largest log Bayes factor of all looks; the evidence never shrinks by looking again.
    """

    shares: tuple[float, ...]
    counts: tuple[int, ...] = ()
    worst: float = field(default=0.0)

    def __post_init__(self) -> None:
        """Refuse shares that are none.

        Raises:
            BadEvidence: naming them.
        """
        if len(self.shares) < 2 or any(not 0 <= share <= 1 for share in self.shares):
            raise BadEvidence(f"shares are {list(self.shares)}; give at least two, each between 0 and 1")
        if abs(math.fsum(self.shares) - 1) > 1e-9:
            raise BadEvidence(f"shares are {list(self.shares)} and sum to {math.fsum(self.shares):g}; make that 1")

    def seen(self, counts: Sequence[int]) -> SampleRatio:
        """Look at the counts so far.

        Raises:
            BadEvidence: there are not as many as shares, or one shrank.
        """
        before = self.counts or (0,) * len(self.shares)
        if len(counts) != len(self.shares):
            raise BadEvidence(f"counts are {list(counts)} for {len(self.shares)} arms; give one for each")
        if any(now < was for now, was in zip(counts, before, strict=True)):
            raise BadEvidence(
                f"counts went from {list(before)} to {list(counts)}; subjects are counted once and stay counted: "
                "a new set of arms is a new test"
            )
        evidence = log_bayes_factor(counts, self.shares)
        return replace(self, counts=tuple(counts), worst=max(self.worst, evidence))

    @property
    def p_value(self) -> float:
        """Anytime-valid p-value of "the router splits as told", in [0, 1]; 0 when an arm without share got somebody."""
        return min(1.0, math.exp(-self.worst))

    @property
    def sentence(self) -> str:
        """The counts beside the shares, for people."""
        pairs = zip(self.counts or (0,) * len(self.shares), self.shares, strict=True)
        return ", ".join(f"{count} subjects where the share is {share:g}" for count, share in pairs)


def log_bayes_factor(counts: Sequence[int], shares: Sequence[float], *, concentration: float = CONCENTRATION) -> float:
    """Log of the Dirichlet-multinomial's likelihood over the multinomial's.

    With a = concentration * shares, A = sum a, n = sum counts:
    lnG(A) - lnG(A + n) + sum (lnG(a + c) - lnG(a)) - sum c ln(share), over the arms with a share.

    Args:
        counts: (K,) subjects.
        shares: (K,) intended, summing to 1.
        concentration: of the Dirichlet.

    Returns:
        > 0 speaks for other shares; infinite when an arm with share 0 got somebody.
    """
    if any(count > 0 and share == 0 for count, share in zip(counts, shares, strict=True)):
        return math.inf
    pairs = [(count, share) for count, share in zip(counts, shares, strict=True) if share > 0]
    weight, total = concentration * math.fsum(share for _, share in pairs), sum(count for count, _ in pairs)
    terms = [
        math.lgamma(concentration * share + count) - math.lgamma(concentration * share) - count * math.log(share)
        for count, share in pairs
    ]
    return math.lgamma(weight) - math.lgamma(weight + total) + math.fsum(terms)
