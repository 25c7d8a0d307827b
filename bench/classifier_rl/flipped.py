"""Verdicts of which a tenth is wrong, as a reward of the user's own: named by entry point, as in an own image."""

from __future__ import annotations

import torch
from torch import Tensor

SHARE = 0.1
_PRIME = 2_147_483_647


def verdict(predictions: Tensor, labels: Tensor, confidences: Tensor) -> Tensor:
    """1 = called right. Which are wrong follows from the confidence's last digits, so that it resumes to the bit."""
    right = (predictions == labels).float()
    digits = (confidences.double() * _PRIME).long() * 48_271 % _PRIME
    return torch.where(digits < SHARE * _PRIME, 1.0 - right, right)
