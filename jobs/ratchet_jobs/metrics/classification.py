"""How good a classifier is: the formulas behind every number of evaluation.json and of a gate.

Pure numpy, float64. Decides how each number is defined (and what it is where the textbook leaves it undefined);
reads and writes nothing. Called by the evaluate recipe.

Notation: N examples, C classes. `logits` (N, C) are unnormalised scores; `probs` (N, C) rows sum to 1;
`labels` (N,) and `predicted` (N,) hold class numbers 0..C-1; `confidence` (N,) is the largest probability of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TEMPERATURE_BOUNDS = (0.05, 20.0)
"""A fit at a bound: no finite temperature is best, since every validation example is right (or hopelessly wrong)."""

ABSTAIN_ALWAYS = 1.0
"""Threshold when no confidence reaches the wanted accuracy: only a prediction that rounds to certainty is answered."""

_GOLDEN = (5**0.5 - 1) / 2


def log_softmax(logits: Floats, *, temperature: float = 1.0) -> Floats:
    """Log-probabilities of logits / temperature, row by row, safe for logits of any size.

    Args:
        logits: (N, C), finite.
        temperature: > 0; above 1 flattens, below 1 sharpens.

    Returns:
        (N, C), <= 0.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    result: Floats = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return result


class Prediction(NamedTuple):
    """What a policy says about N examples."""

    probs: Floats
    """(N, C)."""
    classes: Ints
    """(N,) the likeliest class; of equal ones the first."""
    confidence: Floats
    """(N,) its probability."""


def predict(logits: Floats, *, temperature: float) -> Prediction:
    """Turn logits (N, C) into probabilities, classes and confidences; the temperature never changes a class."""
    probs = np.exp(log_softmax(logits, temperature=temperature))
    return Prediction(probs=probs, classes=logits.argmax(axis=1).astype(np.int64), confidence=probs.max(axis=1))


def negative_log_likelihood(logits: Floats, labels: Ints, *, temperature: float = 1.0) -> float:
    """Mean of -log p(label), in nats."""
    picked = log_softmax(logits, temperature=temperature)[np.arange(len(labels)), labels]
    return float(-picked.mean())


def confusion_matrix(labels: Ints, predicted: Ints, *, classes: int) -> Ints:
    """Count pairs: row = true class, column = predicted class.

    Returns:
        (C, C) int64; the sum is N.
    """
    pairs = np.asarray(labels, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


@dataclass(frozen=True, slots=True)
class PerClass:
    """Precision, recall, F1 and support of each class, (C,) each; a ratio without denominator is 0."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints
    occurs: NDArray[np.bool_]
    """True = the class is among the labels or the predictions, so it counts in macro-F1."""


def per_class(confusion: Ints) -> PerClass:
    """Break a (C, C) confusion matrix down by class.

    precision = right / predicted, recall = right / support, F1 = 2 right / (predicted + support).
    """
    right = np.diag(confusion).astype(np.float64)
    predicted = confusion.sum(axis=0)
    support = confusion.sum(axis=1)
    return PerClass(
        precision=_ratio(right, predicted),
        recall=_ratio(right, support),
        f1=_ratio(2 * right, predicted + support),
        support=support,
        occurs=(predicted + support) > 0,
    )


def macro_f1(table: PerClass) -> float:
    """Unweighted mean of F1 over the classes that occur among labels or predictions (as scikit-learn has it)."""
    return float(table.f1[table.occurs].mean())


def accuracy(confusion: Ints) -> float:
    """Share of examples on the diagonal."""
    return float(np.trace(confusion) / confusion.sum())


def expected_calibration_error(confidence: Floats, right: NDArray[np.bool_] | Floats, *, bins: int) -> float:
    """Expected calibration error over equal-width bins (Naeini et al. 2015; Guo et al. 2017, eq. 3).

    ECE = sum over bins of (examples in bin / N) * |accuracy in bin - mean confidence in bin|; bin b holds
    confidences in (b/bins, (b+1)/bins], and the first one 0 too.

    Args:
        confidence: (N,) in [0, 1].
        right: (N,), True = the prediction is the label; or what came true, as a number in [0, 1].
        bins: number of bins, >= 1.
    """
    surplus = np.bincount(_bins_of(confidence, bins), weights=right.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(surplus).sum() / len(confidence))


class Bin(NamedTuple):
    """The rows whose confidence lies in (low, high]."""

    low: float
    high: float
    rows: int
    confidence: float
    """Mean of these rows."""
    accuracy: float


def reliability(confidence: Floats, right: NDArray[np.bool_], *, bins: int) -> list[Bin]:
    """Confidence against accuracy, bin by bin: the terms of which `expected_calibration_error` is the weighted sum.

    Args:
        confidence: (N,) in [0, 1].
        right: (N,), True = the prediction is the label.
        bins: number of bins, >= 1.

    Returns:
        The bins that have rows, by rising confidence.
    """
    place = _bins_of(confidence, bins)
    rows = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=each, minlength=bins).astype(np.float64) for each in (confidence, right))
    sure, hits = (_ratio(each, rows) for each in sums)
    return [
        Bin(b / bins, (b + 1) / bins, int(rows[b]), float(sure[b]), float(hits[b])) for b in range(bins) if rows[b] > 0
    ]


def _bins_of(confidence: Floats, bins: int) -> Ints:
    place: Ints = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return place


def brier_score(probs: Floats, labels: Ints) -> float:
    """Mean squared distance between probabilities and the one-hot label, in 0..2 (Brier 1950, eq. 2)."""
    hit = probs[np.arange(len(labels)), labels]
    return float(((probs**2).sum(axis=1) - 2 * hit + 1).mean())


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """Temperature that minimises the negative log-likelihood (Guo et al. 2017, section 4.2).

    The loss is convex in 1/T, hence has one valley in log T; golden-section search needs no gradient and cannot
    leave TEMPERATURE_BOUNDS. It leaves every prediction as it is.

    Args:
        logits: (N, C) of held-out examples, N >= 1, finite.
        labels: (N,).

    Returns:
        T within TEMPERATURE_BOUNDS, to a relative error below 1e-6.
    """
    low, high = np.log(TEMPERATURE_BOUNDS[0]), np.log(TEMPERATURE_BOUNDS[1])

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits, labels, temperature=float(np.exp(log_temperature)))

    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > 1e-6:
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = loss(right)
    return float(np.exp((low + high) / 2))


def abstain_threshold(confidence: Floats, right: NDArray[np.bool_], *, target_accuracy: float) -> float:
    """Lowest threshold at which the answered examples (confidence >= threshold) reach the target accuracy.

    Args:
        confidence: (N,) of held-out examples.
        right: (N,), True = the prediction is the label.
        target_accuracy: in (0, 1].

    Returns:
        0.0 if answering everything is good enough, ABSTAIN_ALWAYS if no threshold is.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, hits = confidence[order], np.cumsum(right[order])
    answered = np.arange(1, len(ranked) + 1)
    # Equal confidences are answered together or not at all: only the last of a tie is a possible cut.
    is_cut = np.append(ranked[1:] != ranked[:-1], True)
    good = np.flatnonzero(is_cut & (hits >= target_accuracy * answered))
    if len(good) == 0:
        return ABSTAIN_ALWAYS
    return 0.0 if good[-1] == len(ranked) - 1 else float(ranked[good[-1]])


class Selective(NamedTuple):
    """What is left when the policy may abstain."""

    coverage: float
    """Share of examples answered."""
    accuracy: float
    """Accuracy among them; 0 when none is answered, so that a gate on it cannot pass on silence."""


def selective(confidence: Floats, right: NDArray[np.bool_], *, threshold: float) -> Selective:
    """Coverage and accuracy of the examples whose confidence is at least the threshold."""
    answered = confidence >= threshold
    if not answered.any():
        return Selective(coverage=0.0, accuracy=0.0)
    return Selective(coverage=float(answered.mean()), accuracy=float(right[answered].mean()))


class CurvePoint(NamedTuple):
    """One threshold and what it leaves."""

    threshold: float
    coverage: float
    accuracy: float


def abstain_curve(confidence: Floats, right: NDArray[np.bool_], *, points: int) -> list[CurvePoint]:
    """Coverage and accuracy at thresholds that leave about 1, 1 - 1/points, ... 1/points of the rows answered.

    Args:
        confidence: (N,), N >= 1.
        right: (N,), True = the prediction is the label.
        points: how many; rows of equal confidence are answered together, so fewer may come out.

    Returns:
        By falling coverage; the first point answers every row.
    """
    ranked = np.sort(confidence)[::-1]
    answered = np.ceil(len(ranked) * np.arange(points, 0, -1) / points).astype(np.int64)
    thresholds = list(dict.fromkeys(float(ranked[count - 1]) for count in answered))
    return [CurvePoint(each, *selective(confidence, right, threshold=each)) for each in thresholds]


def _ratio(numerator: NDArray[np.floating], denominator: Ints) -> Floats:
    result: Floats = np.divide(numerator, denominator, out=np.zeros(len(denominator)), where=denominator > 0)
    return result
