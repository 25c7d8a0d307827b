"""Everything that is measured of one policy: fitted on validation, judged on test.

Decides which number is fitted on which rows: temperature and threshold on validation alone, so that test rows decide
nothing but the measured numbers. Pure numpy; the formulas are in `classification`; called by the evaluate recipe for
each policy that it measures, and by `ratchet evaluate` and `ratchet compare` for policies that were fitted before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ratchet_api.gates import metric_key
from ratchet_api.training_run import TOLD_OF_TASKS, Evaluation
from ratchet_jobs.metrics import classification as formulas
from ratchet_jobs.metrics.classification import Floats, Ints

CURVE_POINTS = 20
"""Points of the abstain curve: the share of rows that is answered falls from 1 to 1/20."""


class Answers(NamedTuple):
    """What a policy says about one split, and the truth."""

    logits: Floats
    """(N, C), columns in the order of the class names."""
    labels: Ints
    """(N,)."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One policy's numbers.

    Attributes:
        temperature: fitted on validation, or 1.
        threshold: chosen on validation; None = the policy never abstains.
        metrics: measured on test, under the names that gates and status have.
        f1: (C,) F1 of each class on test.
        classes: (N,) the policy's answers on test; with several tasks (N, T) places in the flat label map, UNSAID where
            the truth is not known.
        report: what evaluation.json says beyond the metrics.
        tasks: of several tasks, the numbers of each by its name; metrics then holds their means.
    """

    temperature: float
    threshold: float | None
    metrics: dict[str, float]
    f1: Floats
    classes: Ints
    report: dict[str, Any]
    tasks: Mapping[str, Measured] = field(default_factory=dict)

    def judged(self, wanted: Evaluation, labels: Sequence[str]) -> dict[str, float]:
        """Return the metrics with the F1 of each class and the numbers of each task that a gate names.

        Beyond what gates judge, each of several tasks tells the numbers in TOLD_OF_TASKS.
        """
        named = sorted({gate.label for gate in wanted.gates if gate.label is not None})
        numbers = self.metrics | {f"f1/{name}": float(self.f1[labels.index(name)]) for name in named}
        keys = [(gate.metric, gate.task) for gate in wanted.gates if gate.task is not None]
        keys += [(metric, task) for task in self.tasks for metric in TOLD_OF_TASKS]
        return numbers | {metric_key(each, task=task): self.tasks[task].metrics[each] for each, task in keys}

    @property
    def fits(self) -> dict[str, tuple[float, float | None]]:
        """Temperature and threshold per task; a task without a name is called by the empty string."""
        parts = self.tasks or {"": self}
        return {name: (part.temperature, part.threshold) for name, part in parts.items()}


def measure(validation: Answers, test: Answers, wanted: Evaluation, *, labels: Sequence[str]) -> Measured:
    """Fit on validation, measure on test.

    Args:
        validation: may be empty if nothing is to be fitted.
        test: at least one row.
        wanted: whether to calibrate, when to abstain, how many bins.
        labels: C class names.
    """
    temperature = formulas.fit_temperature(*validation) if wanted.calibrate else 1.0
    threshold = None
    if wanted.abstain_target_accuracy is not None:
        seen = formulas.predict(validation.logits, temperature=temperature)
        threshold = formulas.abstain_threshold(
            seen.confidence, seen.classes == validation.labels, target_accuracy=wanted.abstain_target_accuracy
        )
    return measure_fitted(
        test,
        temperature=temperature,
        threshold=threshold,
        bins=wanted.ece_bins,
        labels=labels,
        n_validation=len(validation.labels),
    )


def measure_fitted(
    test: Answers,
    *,
    temperature: float,
    threshold: float | None,
    bins: int,
    labels: Sequence[str],
    n_validation: int | None = None,
) -> Measured:
    """Measure a policy whose temperature and threshold are set already.

    Args:
        test: at least one row.
        temperature: > 0.
        threshold: the policy abstains below it; None = never.
        bins: of the expected calibration error.
        labels: C class names.
        n_validation: rows on which temperature and threshold were fitted; None = not known here.
    """
    answer = formulas.predict(test.logits, temperature=temperature)
    right = answer.classes == test.labels
    confusion = formulas.confusion_matrix(test.labels, answer.classes, classes=len(labels))
    table = formulas.per_class(confusion)
    kept = formulas.selective(answer.confidence, right, threshold=threshold or 0.0)
    plain = formulas.predict(test.logits, temperature=1.0)
    metrics = {
        "accuracy": formulas.accuracy(confusion),
        "macro_f1": formulas.macro_f1(table),
        "ece": formulas.expected_calibration_error(answer.confidence, right, bins=bins),
        "brier": formulas.brier_score(answer.probs, test.labels),
        "loss": formulas.negative_log_likelihood(*test, temperature=temperature),
        "coverage": kept.coverage,
        "selective_accuracy": kept.accuracy,
        "temperature": temperature,
        "threshold": threshold or 0.0,
        "n_test": float(len(test.labels)),
    }
    report = {
        "metrics": metrics,
        "ece_uncalibrated": formulas.expected_calibration_error(plain.confidence, right, bins=bins),
        "n_validation": n_validation,
        "labels": list(labels),
        "per_class": _class_rows(labels, table),
        "confusion": confusion.tolist(),
        "reliability": {
            "calibrated": [each._asdict() for each in formulas.reliability(answer.confidence, right, bins=bins)],
            "uncalibrated": [each._asdict() for each in formulas.reliability(plain.confidence, right, bins=bins)],
        },
        "abstain_curve": [
            {"threshold": each.threshold, "coverage": each.coverage, "accuracy": each.accuracy}
            for each in formulas.abstain_curve(answer.confidence, right, points=CURVE_POINTS)
        ],
    }
    return Measured(temperature, threshold, metrics, table.f1, answer.classes, report)


def in_order_of(logits: Floats, *, given: Sequence[str], wanted: Sequence[str]) -> Floats:
    """Return logits (N, C) with their columns in another order of the same class names."""
    result: Floats = logits[:, np.array([list(given).index(name) for name in wanted])]
    return result


def _class_rows(labels: Sequence[str], table: formulas.PerClass) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "precision": float(table.precision[i]),
            "recall": float(table.recall[i]),
            "f1": float(table.f1[i]),
            "support": int(table.support[i]),
        }
        for i, label in enumerate(labels)
    ]
