"""Ratings as levels in an order: how far apart people think that three stars and four are is learned, not assumed.

Implements the cumulative-link model with one slope for all thresholds (McCullagh 1980; CORAL, Cao, Mirjalili and
Raschka 2020, arXiv:1901.07884, eq. 4): of the levels s_0 < ... < s_K an answer with raw number x is above s_k with

    P(score > s_k) = sigmoid(x - b_k)

so one number per answer orders them all, as a reward needs it, and K thresholds b_k are learned beside the model. They
end with training: what a raw number means on 0..1 is calibrated on held-out rows (`calibration.py`). With two levels,
as thumbs have, it is the cross-entropy of regression with an offset. Pure but for the parameter. Called by
`reward_model.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ratchet_jobs.runtime.errors import BadDataError

MOST_LEVELS = 20
"""Different scores beyond which ratings are numbers and no levels."""


class Levels:
    """The levels of some ratings and the thresholds between them."""

    def __init__(self, scores: Sequence[float]) -> None:
        """Find the levels; thresholds begin where a model that knows nothing (x = 0) gives each level its share.

        Args:
            scores: N ratings in 0..1.

        Raises:
            BadDataError: they are of one level, or of too many.
        """
        self.scores = tuple(sorted(set(scores)))
        if not 2 <= len(self.scores) <= MOST_LEVELS:
            raise BadDataError(
                f"feedback: the scores to learn from have {len(self.scores)} different values; ordinal ratings have 2 "
                f"to {MOST_LEVELS} levels: set the rating loss to regression, or round the scores"
            )
        given = torch.tensor(scores, dtype=torch.float64)
        above = torch.stack([(given > level).double().mean() for level in self.scores[:-1]])  # (K,), none 0 or 1
        self.thresholds = nn.Parameter(-torch.logit(above).float())

    def losses(self, raw: Tensor, scores: Tensor) -> Tensor:
        """Mean over the thresholds of the cross-entropy of being above: (B,) and (B,) -> (B,).

        Args:
            raw: (B,) float32, carries the gradient.
            scores: (B,) of the levels.
        """
        levels = torch.tensor(self.scores[:-1], device=raw.device, dtype=scores.dtype)
        above = (scores.unsqueeze(1) > levels).float()  # (B, K)
        chances = raw.unsqueeze(1) - self.thresholds  # (B, K)
        return nn.functional.binary_cross_entropy_with_logits(chances, above, reduction="none").mean(1)
