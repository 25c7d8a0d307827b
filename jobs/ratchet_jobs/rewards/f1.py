"""Reward for being right and sure."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ratchet_jobs.rewards.batch import RewardBatch


@dataclass(frozen=True, slots=True)
class F1:
    """Correct times confidence: a right choice earns its probability, a wrong one nothing."""

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) in 0..1."""
        return batch.need_correct("f1").float() * batch.confidences
