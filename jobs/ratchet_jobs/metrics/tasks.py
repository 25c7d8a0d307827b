"""What is measured of a policy with several tasks: each task by itself, and the means over tasks as the headline.

Decides which rows count in which task (those that have its label) and how tasks become one number: their unweighted
mean, so that a task with few classes or few rows counts as much as any. One task without a name is measured as
`measuring` does it, to the last digit. Pure numpy; called by the evaluate recipe and the verbs of the command line.

Notation: N examples, T tasks, C classes of all tasks together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ratchet_api.tasks import UNSAID, Task
from ratchet_api.training_run import Evaluation
from ratchet_jobs.metrics.classification import Floats, Ints
from ratchet_jobs.metrics.measuring import Answers, Measured, measure, measure_fitted

MEANS = ("accuracy", "macro_f1", "ece", "brier", "loss", "coverage", "selective_accuracy")
"""Numbers of the whole that are means over tasks. Temperatures and thresholds have no mean that means anything."""

Fits = Mapping[str, tuple[float, float | None]]
"""Temperature and threshold by task."""


def measure_tasks(validation: Answers, test: Answers, wanted: Evaluation, *, tasks: Sequence[Task]) -> Measured:
    """Fit each task on its validation rows, measure it on its test rows.

    Args:
        validation: logits (N, C) and labels (N, T), places in the flat label map or UNSAID.
        test: likewise; each task has a row.
        wanted: whether to calibrate, when to abstain, how many bins.
        tasks: T tasks.
    """
    measured = {
        task.name: measure(
            _of_task(validation, task, place),
            _of_task(test, task, place),
            wanted,
            labels=task.plain_labels,
        )
        for place, task in enumerate(tasks)
    }
    return _joined(measured, test.labels, tasks)


def measure_fitted_tasks(test: Answers, *, fits: Fits, bins: int, tasks: Sequence[Task]) -> Measured:
    """Measure tasks whose temperatures and thresholds are set already; as `measure_tasks`."""
    measured = {
        task.name: measure_fitted(
            _of_task(test, task, place),
            temperature=fits[task.name][0],
            threshold=fits[task.name][1],
            bins=bins,
            labels=task.plain_labels,
        )
        for place, task in enumerate(tasks)
    }
    return _joined(measured, test.labels, tasks)


def labelled_rows(labels: Ints) -> list[int]:
    """Count the rows with a label of each task, of labels (N, T)."""
    return [int((column != UNSAID).sum()) for column in labels.T]


def _of_task(answers: Answers, task: Task, place: int) -> Answers:
    """The rows that have a label of the task, its columns of the logits, and its own class numbers."""
    said = answers.labels[:, place]
    if not task.name and len(answers.labels):  # the only task: every row counts
        return Answers(answers.logits, said)
    rows = said != UNSAID
    return Answers(answers.logits[rows, task.start : task.stop], said[rows] - task.start)


def _joined(measured: Mapping[str, Measured], labels: Ints, tasks: Sequence[Task]) -> Measured:
    if not tasks[0].name:
        return measured[""]
    parts = [measured[task.name] for task in tasks]
    classes: Ints = np.full(labels.shape, UNSAID, dtype=np.int64)
    for place, (task, part) in enumerate(zip(tasks, parts, strict=True)):
        classes[labels[:, place] != UNSAID, place] = part.classes + task.start
    metrics = {name: float(np.mean([part.metrics[name] for part in parts])) for name in MEANS}
    metrics["n_test"] = float(len(labels))
    f1: Floats = np.concatenate([part.f1 for part in parts])
    per_class = [
        row | {"label": label}
        for task, part in zip(tasks, parts, strict=True)
        for row, label in zip(part.report["per_class"], task.labels, strict=True)
    ]
    report: dict[str, Any] = {
        "metrics": metrics,
        "labels": [label for task in tasks for label in task.labels],
        "per_class": per_class,
        "tasks": {task.name: part.report for task, part in zip(tasks, parts, strict=True)},
    }
    return Measured(1.0, None, metrics, f1, classes, report, tasks=dict(measured))
