"""From a reward model's raw numbers to scores on 0..1 that mean what people meant: Platt scaling.

Decides the two numbers slope and offset from held-out rows; never sees a row that was trained on. Pure numpy.
Called by `reward_model.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_ROWS = 20
"""Held-out rows below which raw numbers stay as they are: two numbers from fewer would be noise."""
_STEPS = 100
_SMALL = 1e-10
"""A step that changes nothing any more."""
_RIDGE = 1e-3
"""Pull of slope to 1 and offset to 0 in units of rows: keeps separable rows from an infinite slope."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """score = sigmoid(slope * raw + offset)."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, raw: Floats) -> Floats:
        """(N,) raw numbers -> (N,) scores in 0..1."""
        return np.asarray(sigmoid(self.slope * raw + self.offset))


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def fit_scores(raw: Floats, scores: Floats) -> Scaling:
    """Slope and offset of least cross-entropy with the scores that people gave (Platt 1999, with soft targets).

    Args:
        raw: (N,) of held-out rows.
        scores: (N,) in 0..1, what people gave them.

    Returns:
        The identity (slope 1, offset 0) where there are fewer than LEAST_ROWS rows, or where raw numbers fall while
        scores rise: then the model is no better than chance and no scaling mends it.
    """
    if len(raw) < LEAST_ROWS:
        return Scaling()
    inputs = np.stack([raw, np.ones_like(raw)], 1)  # (N, 2)
    start = np.array([1.0, 0.0])
    return _kept(_newton(inputs, scores, start))


def fit_differences(raw_better: Floats, raw_worse: Floats) -> Scaling:
    """Slope of least Bradley-Terry loss on held-out pairs, and the offset that gives the average answer one half.

    Args:
        raw_better: (N,) of the answers preferred.
        raw_worse: (N,) of the others.

    Returns:
        As `fit_scores`.
    """
    middle = float(np.concatenate([raw_better, raw_worse]).mean()) if len(raw_better) else 0.0
    if len(raw_better) < LEAST_ROWS:
        return Scaling(1.0, -middle)
    slope = _newton((raw_better - raw_worse)[:, None], np.ones(len(raw_better)), np.array([1.0]))[0]
    return Scaling(float(slope), -float(slope) * middle) if slope > 0 else Scaling(1.0, -middle)


def _newton(inputs: Floats, targets: Floats, start: Floats) -> Floats:
    """Coefficients of least cross-entropy plus _RIDGE / 2 * |w - start|^2, by Newton steps, halved until they pay.

    The sum is convex, so there is one minimum; a whole step overshoots where the curve is nearly straight.
    """

    def loss(weights: Floats) -> float:
        logits = inputs @ weights
        pull = 0.5 * _RIDGE * float(np.square(weights - start).sum())
        return float((np.logaddexp(0.0, logits) - targets * logits).sum()) + pull

    weights = start.copy()
    for _ in range(_STEPS):
        chance = sigmoid(inputs @ weights)
        gradient = inputs.T @ (chance - targets) + _RIDGE * (weights - start)
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and float(np.abs(step).max()) > _SMALL:
            step = step / 2
        weights = weights - step
        if float(np.abs(step).max()) <= _SMALL:
            break
    return weights


def _kept(weights: Floats) -> Scaling:
    return Scaling(float(weights[0]), float(weights[1])) if weights[0] > 0 else Scaling()
