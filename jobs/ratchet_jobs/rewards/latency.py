"""Reward shaping by measured latency."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ratchet_jobs.rewards.batch import RewardBatch
from ratchet_jobs.runtime.errors import BadConfigError


@dataclass(frozen=True, slots=True)
class Latency:
    """0 up to target_ms, then falling linearly to -1 at twice the target and beyond.

    The time is measured at serving batch size and handed in with the batch; it is never a setting.

    Raises:
        BadConfigError: the target is not above 0.
    """

    target_ms: float

    def __post_init__(self) -> None:
        if not self.target_ms > 0:
            raise BadConfigError(f"reward latency: target_ms {self.target_ms}; give milliseconds above 0")

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,) in -1..0."""
        over = (batch.need_latency("latency").float() - self.target_ms) / self.target_ms
        return -over.clamp(0.0, 1.0)
