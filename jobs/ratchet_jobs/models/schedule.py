"""Small pure functions that a training loop asks at every step: learning rate, class weights.

Called by the recipes. How many steps there are stands in `ratchet_api.steps`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
