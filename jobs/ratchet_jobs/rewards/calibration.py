"""Reward for being as sure as one is right."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ratchet_jobs.rewards.batch import RewardBatch


@dataclass(frozen=True, slots=True)
class Calibration:
    """1 - |confidence - correct|: 1 for a sure right choice and for a wrong one that was doubted."""

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) in 0..1."""
        return 1.0 - (batch.confidences - batch.need_correct("calibration").float()).abs()
