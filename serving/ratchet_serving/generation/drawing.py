"""The next token from logits: the likeliest one, or one drawn by temperature and top_p.

Decides that a drawn token follows from its own row's numbers and its own request's random number alone, so that an
answer with a seed is the same whatever runs beside it. Pure; called by `streams`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FEW = 256
"""Likeliest tokens among which the mass of top_p is looked for first: sorting all of a large vocabulary is slow."""


class Choice(NamedTuple):
    """How a token was chosen."""

    token: int
    propensity: float
    """Probability with which it was; 1 for the likeliest."""


class Manner(NamedTuple):
    """How a request wants its tokens chosen."""

    temperature: float
    """0 = the likeliest."""
    top_p: float
    """Mass of the likeliest tokens that a draw is limited to; 1 = all tokens."""


def choose(logits: Tensor, manners: list[Manner], draws: list[float]) -> list[Choice]:
    """Choose one token for each row.

    Args:
        logits: (B, V) float32.
        manners: of B requests.
        draws: B numbers in [0, 1); those of rows without temperature are not used.
    """
    best = logits.argmax(-1).tolist()
    chosen = [Choice(token, 1.0) for token in best]
    if drawn := [row for row, manner in enumerate(manners) if manner.temperature > 0]:
        probs = probabilities(logits[drawn], [manners[row] for row in drawn])
        sums = probs.cumsum(-1)  # (R, V)
        # of the row's own sum, which rounding keeps from being 1
        points = torch.tensor([draws[row] for row in drawn], dtype=torch.float64).unsqueeze(1) * sums[:, -1:]
        tokens = torch.searchsorted(sums, points, right=True)
        tokens = torch.minimum(tokens, (sums < sums[:, -1:]).sum(-1, keepdim=True))  # a point may round up to the sum
        propensities = probs.gather(-1, tokens)
        for row, token, propensity in zip(drawn, tokens[:, 0].tolist(), propensities[:, 0].tolist(), strict=True):
            chosen[row] = Choice(token, propensity)
    return chosen


def probabilities(logits: Tensor, manners: list[Manner]) -> Tensor:
    """Probabilities that tokens are drawn with, in float64 on the CPU.

    Args:
        logits: (R, V).
        manners: R of them, each with a temperature.

    Returns:
        (R, V); 0 outside the smallest set of likeliest tokens of mass top_p, which are scaled up to 1.
    """
    numbers = logits.to("cpu", torch.float64)
    heat = torch.tensor([manner.temperature for manner in manners], dtype=torch.float64).unsqueeze(1)
    # the largest becomes 0 first, so that no small temperature makes an infinity
    probs = ((numbers - numbers.amax(-1, keepdim=True)) / heat).softmax(-1)
    for row, manner in enumerate(manners):
        if manner.top_p < 1:
            kept = probs[row] >= least_kept(probs[row], manner.top_p)
            probs[row] = torch.where(kept, probs[row], 0.0)
            probs[row] /= probs[row].sum()
    return probs


def least_kept(probs: Tensor, top_p: float) -> float:
    """Smallest probability in the smallest set of likeliest tokens whose mass is at least top_p: (V,)."""
    likeliest = probs.topk(min(FEW, len(probs))).values
    if float(likeliest.sum()) < top_p:
        likeliest = probs.sort(descending=True).values
    below = int((likeliest.cumsum(-1) < top_p).sum())
    return float(likeliest[min(below, len(likeliest) - 1)])  # rounding may keep the sum of all below top_p
