"""What the newest verdicts say about a policy's confidence: one temperature, fitted without any label.

Verdicts are collected before they are learned from, so they are held-out evidence: how often answers given with
probability p were right. Pure. Called by the rl recipe.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

LEAST = 200
"""Verdicts below which no temperature is fitted: the estimate would be noise."""

_TEMPERATURES = tuple(math.exp(step / 50) for step in range(-55, 56))  # 1/3 to 3, 2 % apart
_NOISES = torch.linspace(0.0, 0.3, 31, dtype=torch.float64)


class Verdicts(NamedTuple):
    """N answers and what was said about them."""

    logits: Tensor
    """(N, C) when answering."""
    actions: Tensor
    """(N,) int64, the classes answered."""
    right: Tensor
    """(N,) 1 = right, 0 = wrong."""

    @classmethod
    def none(cls, *, classes: int, device: torch.device) -> Self:
        """No verdict yet."""
        empty = torch.zeros(0, device=device)
        return cls(torch.zeros((0, classes), device=device), empty.long(), empty)

    def followed_by(self, newer: Self, *, limit: int) -> Self:
        """These and the newer ones, the newest `limit` of them."""
        return type(self)(*(torch.cat(pair)[-limit:] for pair in zip(self, newer, strict=True)))

    def of_classes(self, start: int, stop: int) -> Self:
        """Those on answers among the classes start..stop-1, as if there were no others: the ones of one task."""
        mine = (self.actions >= start) & (self.actions < stop)
        return type(self)(self.logits[mine][:, start:stop], self.actions[mine] - start, self.right[mine])

    def temperature(self) -> float:
        """Temperature under which the verdicts are likeliest; 1 for fewer than LEAST of them.

        The likelihood is that of `rl.losses.verdict_loss`, by temperature and by share of wrong verdicts together:
        wrong verdicts must not pass for over-confidence. A grid, because both are wanted to a percent or two only.
        """
        if len(self.right) < LEAST:
            return 1.0
        logits, right = self.logits.double().cpu(), self.right.double().cpu()
        places = self.actions.cpu().unsqueeze(1)
        likeliest = (math.inf, 1.0)
        for temperature in _TEMPERATURES:
            probs = (logits / temperature).log_softmax(-1).gather(1, places).exp()  # (N, 1)
            good = (_NOISES + (1.0 - 2.0 * _NOISES) * probs).clamp(1e-6, 1.0 - 1e-6)  # (N, K)
            losses = -right.unsqueeze(1) * good.log() - (1.0 - right).unsqueeze(1) * (-good).log1p()
            likeliest = min(likeliest, (float(losses.mean(0).min()), temperature))
        return likeliest[1]
