"""Reward for being right."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ratchet_jobs.rewards.batch import RewardBatch


@dataclass(frozen=True, slots=True)
class Accuracy:
    """1 for a right choice, 0 for a wrong one."""

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) in 0..1."""
        return batch.need_correct("accuracy").float()
