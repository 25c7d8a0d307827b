"""Reward that punishes confident mistakes; its name in a spec is `custom`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ratchet_jobs.rewards.batch import RewardBatch
from ratchet_jobs.runtime.errors import BadConfigError


@dataclass(frozen=True, slots=True)
class ConfidentMistakes:
    """Correct - penalty * (1 - correct) * confidence: the surer a mistake, the dearer.

    Raises:
        BadConfigError: the penalty is negative or not finite.
    """

    confidence_penalty: float = 0.5
    """What a mistake made with probability 1 costs; >= 0."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.confidence_penalty) and self.confidence_penalty >= 0):
            raise BadConfigError(
                f"reward custom: confidence_penalty {self.confidence_penalty}; give a number from 0 up"
            )

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) in -penalty..1."""
        correct = batch.need_correct("custom").float()
        return correct - self.confidence_penalty * (1.0 - correct) * batch.confidences
