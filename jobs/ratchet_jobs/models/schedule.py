"""Small pure functions that a training loop asks at every step: learning rate, class weights, step counts.

Called by the recipes; the operator's estimate counts steps by the same rule.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps of one pass: the last batch may be smaller, and a batch above the data is one step."""
    return math.ceil(rows / batch_size)


def total_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Optimizer steps of a run, at least 1; a fraction of an epoch is rounded up to whole steps."""
    return max(1, math.ceil(round(steps_per_epoch(rows, batch_size) * epochs, 6)))


def learning_rate_factor(step: int, *, steps: int, warmup_ratio: float) -> float:
    """Share of the peak learning rate at a step: linear up over the warmup, then linear down to 0 after the last step.

    Args:
        step: 0..steps-1, the step about to be taken.
        steps: in all.
        warmup_ratio: share of the steps that warm up; 0 starts at the peak.

    Returns:
        In (0, 1]: (step + 1) / warmup while warming up, then (steps - step) / (steps - warmup).
    """
    warmup = round(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / (steps - warmup)


def balanced_class_weights(labels: NDArray[np.int64], *, classes: int) -> NDArray[np.float32]:
    """Weights inverse to frequency: N / (classes that occur * rows of the class), 0 for a class without rows.

    Args:
        labels: (N,) class numbers.
        classes: C.

    Returns:
        (C,); weighted by frequency they average 1.
    """
    counts = np.bincount(labels, minlength=classes)
    occurring = int((counts > 0).sum())
    weights = np.divide(len(labels), occurring * counts, out=np.zeros(classes), where=counts > 0)
    return weights.astype(np.float32)
