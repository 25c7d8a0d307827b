"""Reward by what each confusion costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ratchet_jobs.rewards.batch import RewardBatch
from ratchet_jobs.runtime.errors import BadConfigError, BadLabelsError


@dataclass(frozen=True, slots=True)
class CostMatrix:
    """Minus costs[true class][chosen class].

    Raises:
        BadConfigError: the table is not square, or holds something not finite.
    """

    costs: tuple[tuple[float, ...], ...]
    """C rows of C numbers, in the order of the dataset's labels."""

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.costs}
        if widths != {len(self.costs)}:
            raise BadConfigError(
                f"reward cost_matrix: {len(self.costs)} rows of {sorted(widths)} numbers; give one row and one column "
                "per label"
            )
        if not all(math.isfinite(cost) for row in self.costs for cost in row):
            raise BadConfigError("reward cost_matrix: a cost is NaN or infinite; give plain numbers")

    def __call__(self, batch: RewardBatch) -> Tensor:
        """Rewards (N,).

        Raises:
            BadLabelsError: the table is not of the policy's number of classes.
        """
        labels, classes = batch.need_labels("cost_matrix"), batch.probs.shape[1]
        if classes != len(self.costs):
            raise BadLabelsError(
                f"reward cost_matrix: {len(self.costs)} rows for {classes} classes; give one per label, in their order"
            )
        table = torch.tensor(self.costs, dtype=torch.float32, device=labels.device)  # (C, C)
        return -table[labels, batch.actions]
