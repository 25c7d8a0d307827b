"""Draws, and log-probabilities of the actions taken, where actions are a vocabulary.

`categorical.sample` takes a random number for every action there is; here it is one for every row.
`categorical.log_prob_of` keeps the log-softmax of every action for the gradient, as large as the logits themselves, and
its backward pass makes two more. Here a few rows at a time are normalised, in the pass forward and again in the one
backward: the only other table is the logits' own gradient. Pure. Called by `rlhf/generate.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_CELLS = 2**20
"""Numbers that are worked on at a time."""


class _Picked(torch.autograd.Function):
    """log softmax(z / t)[a] of each row.

    Shapes: z (N, V), a (N,) int64, the result and its gradient g (N,). With p = softmax(z / t):

        gz[n, v] = g[n] * ([v is a[n]] - p[n, v]) / t
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, actions: Tensor, temperature: float) -> Tensor:
        norms, picked = (torch.empty(len(logits), device=logits.device) for _ in range(2))
        for rows in _parts(logits):
            scaled = _scaled(logits[rows], temperature)
            norms[rows] = scaled.logsumexp(1)
            picked[rows] = scaled.gather(1, actions[rows].unsqueeze(1)).squeeze(1) - norms[rows]
        ctx.save_for_backward(logits, actions, norms)
        ctx.temperature = temperature
        return picked

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        logits, actions, norms = ctx.saved_tensors
        grad = grad_outputs[0].unsqueeze(1) / ctx.temperature  # (N, 1)
        table = torch.empty_like(logits)
        for rows in _parts(logits):
            share = (_scaled(logits[rows], ctx.temperature) - norms[rows].unsqueeze(1)).exp_().mul_(-grad[rows])
            table[rows] = share.scatter_add_(1, actions[rows].unsqueeze(1), grad[rows])
        return table, None, None


def picked_log_probs(logits: Tensor, actions: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of the actions taken, in float32 whatever the logits' dtype.

    Args:
        logits: (N, V), at least one per row finite.
        actions: (N,) int64.
        temperature: > 0, that the logits are divided by.

    Returns:
        (N,) float32.

    Raises:
        ValueError: one action per row of logits is not given.
    """
    if logits.ndim != 2 or actions.shape != logits.shape[:1]:
        raise ValueError(
            f"picked_log_probs: logits {tuple(logits.shape)}, actions {tuple(actions.shape)}; give (N, V) and (N,)"
        )
    picked: Tensor = _Picked.apply(logits, actions, temperature)
    return picked


def draw(logits: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw one action per row from softmax(logits), where the cumulated probabilities pass a uniform number.

    Args:
        logits: (B, V); -inf = the action does not exist and is never drawn.
        generator: of the draws, on the logits' device.

    Returns:
        (B,) int64.
    """
    passed = torch.softmax(logits.float(), -1).cumsum(-1, dtype=torch.float64)  # (B, V)
    total = passed[:, -1:]
    uniform = torch.rand(total.shape, generator=generator, device=logits.device, dtype=torch.float64)
    # below the total even where the product rounds up to it: an action of probability 0 has passed nothing
    wanted = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(passed, wanted, right=True).squeeze(1)


def _parts(logits: Tensor) -> Iterator[slice]:
    step = max(1, _CELLS // logits.shape[1])
    return (slice(start, start + step) for start in range(0, len(logits), step))


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    part = logits.float()
    return part if temperature == 1.0 else part / temperature
