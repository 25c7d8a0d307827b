"""A model of what people would say of an answer nobody gave: the q of doubly robust estimates.

Per class, ridge regression on pooled features of how far verdicts lie from the start policy's own probability: without
a verdict near by, q is what that policy believes. Its errors cost variance, not truth, for the propensities correct
them; therefore each row's q is made without the row's own verdict. Solved in closed form, so equal logs give equal
bits. Called by `rl_from_log`.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1.0
"""Rows that the prior, the start policy's probability, is worth: features have length 1."""


def estimate_rewards(
    features: Tensor,
    probs: Tensor,
    *,
    actions: Tensor,
    scores: Tensor,
    folds: Tensor,
    ridge: float = RIDGE,
) -> Tensor:
    """Estimate the verdict on every class of every row, each from the verdicts on the other folds' rows.

    Args:
        features: (N, D) of all rows.
        probs: (N, C) of the start policy.
        actions: (N,) int64, the class logged.
        scores: (N,) 0..1.
        folds: (N,) int64; of rows with -1 no verdict is used, and they are told from all other rows'.
        ridge: > 0, how strongly q stays with `probs`.

    Returns:
        (N, C) float32 in 0..1, on the device of `probs`.
    """
    made = probs.detach().double().cpu().clone()  # on the host, where sums have one order
    inputs = _unit_rows(features.detach().double().cpu())
    actions, folds = actions.cpu(), folds.cpu()
    missed = scores.detach().double().cpu() - made.gather(1, actions.unsqueeze(1)).squeeze(1)
    for fold in folds.unique().tolist():
        here, known = folds == fold, (folds != fold) & (folds >= 0)
        for action in actions[known].unique().tolist():
            rows = known & (actions == action)
            made[here, action] += inputs[here] @ _ridge(inputs[rows], missed[rows], ridge)
    return made.clamp(0.0, 1.0).float().to(probs.device)


def _unit_rows(features: Tensor) -> Tensor:
    """Centered rows of length 1 with a constant beside them, (N, D + 1), again of length 1."""
    centered = features - features.mean(0)
    scaled = centered / centered.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return torch.cat([scaled, torch.ones_like(scaled[:, :1])], 1) / 2**0.5


def _ridge(inputs: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Weights (D,) least in |targets - inputs w|^2 + ridge |w|^2; the smaller of the two equal systems is solved."""
    rows, width = inputs.shape
    if rows < width:
        kernel = inputs @ inputs.T + ridge * torch.eye(rows, dtype=inputs.dtype)
        return inputs.T @ torch.linalg.solve(kernel, targets)
    normal = inputs.T @ inputs + ridge * torch.eye(width, dtype=inputs.dtype)
    return torch.linalg.solve(normal, inputs.T @ targets)
