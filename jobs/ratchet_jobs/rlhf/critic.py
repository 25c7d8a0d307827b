"""What makes a reward model a critic: a head for each named quality of an answer, beside the one for the whole.

 1. Loss of a quality: cross-entropy between sigmoid(raw) and its number, as that of a score; the mean over the
    qualities is added to the score's, so that all of them together weigh as much as the whole, however many they are.
 2. Each head is calibrated by itself on held-out rows, and measured on rows that did not calibrate it.

Pure tensor and array maths; knows no model. Called by `reward_model.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ratchet_jobs.rlhf.calibration import Floats, Scaling, fit_scores


class Quality(NamedTuple):
    """One head, calibrated."""

    scaling: Scaling
    mean_squared_error: float
    """On held-out rows, each calibrated by the other half of them."""


def quality_losses(raw: Tensor, given: Sequence[Sequence[float]]) -> Tensor:
    """Loss of what is said of each answer's qualities, (R,) with gradient.

    Args:
        raw: (R, Q) of the heads, Q at least 1.
        given: (R, Q) numbers from 0 to 1.
    """
    wanted = torch.tensor([list(row) for row in given], device=raw.device, dtype=raw.dtype).reshape(raw.shape)
    return nn.functional.binary_cross_entropy_with_logits(raw, wanted, reduction="none").mean(1)


def calibrated_by_halves(raw: Floats, given: Floats) -> Floats:
    """Scores of held-out rows, (N,), each half scaled by what the other half says.

    Args:
        raw: (N,) of one head.
        given: (N,) 0 to 1.
    """
    honest = np.empty_like(raw)
    for half in (0, 1):
        own, other = np.arange(len(raw)) % 2 == half, np.arange(len(raw)) % 2 != half
        honest[own] = fit_scores(raw[other], given[other])(raw[own])
    return honest


def calibrated_qualities(raw: Floats, given: Floats) -> list[Quality]:
    """Calibrate and measure each head.

    Args:
        raw: (N, Q) of held-out rows, N at least 1.
        given: (N, Q) 0 to 1.
    """
    return [
        Quality(fit_scores(ours, theirs), float(np.square(calibrated_by_halves(ours, theirs) - theirs).mean()))
        for ours, theirs in zip(raw.T, given.T, strict=True)
    ]
