"""The supervised loss of one encoder with a head per task: each task's cross-entropy over the rows that have its label.

Decides how tasks are weighed against each other: by a factor each, over the mean of a batch's labelled rows, so that a
task with few labels counts as much as one with many. Pure torch. Called by the supervised recipe.

Notation: B examples, T tasks, C classes of all tasks together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ratchet_api.tasks import UNSAID, Task
from ratchet_jobs.models.schedule import balanced_class_weights

_IGNORED = -100
"""Class number of a row that `cross_entropy` leaves out of its mean."""


class TaskLoss:
    """Weighted sum over tasks of the mean cross-entropy of the rows labelled in that task."""

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        weights: Mapping[str, float],
        class_weights: Sequence[Tensor | None],
        label_smoothing: float,
    ) -> None:
        """Keep the settings.

        Args:
            tasks: T tasks, whose classes together are the C rows of the head.
            weights: factor by task; 1 where none is given.
            class_weights: of the classes of each task, or None.
            label_smoothing: mass spread over the other classes of the same task.
        """
        self._tasks = tuple(tasks)
        self._weights = [weights.get(task.name, 1.0) for task in tasks]
        self._class_weights = class_weights
        self._label_smoothing = label_smoothing

    def share(self, logits: Tensor, wanted: NDArray[np.int64], *, batch: NDArray[np.int64]) -> Tensor:
        """Return what some rows add to the loss of the batch that they are part of, a scalar.

        The sum over parts that make up the batch is the batch's loss, up to the order of additions.

        Args:
            logits: (M, C) float32, M >= 1.
            wanted: (M, T) of these rows, as for the whole loss.
            batch: (B, T) of all rows.
        """
        total = logits.sum() * 0.0
        for place, task in enumerate(self._tasks):
            if (batch[:, place] == UNSAID).all() or (wanted[:, place] == UNSAID).all():
                continue
            weight = self._class_weights[place]
            classes = torch.from_numpy(_classes(wanted[:, place], task)).to(logits.device)
            term = nn.functional.cross_entropy(
                logits[:, task.start : task.stop],
                classes,
                weight=weight,
                label_smoothing=self._label_smoothing,
                ignore_index=_IGNORED,
                reduction="sum",
            )
            labelled = batch[batch[:, place] != UNSAID, place] - task.start
            whole = len(labelled) if weight is None else float(weight.cpu()[torch.from_numpy(labelled)].sum())
            total = total + self._weights[place] * term / whole
        return total

    def __call__(self, logits: Tensor, wanted: NDArray[np.int64]) -> Tensor:
        """Return the loss, a scalar.

        Args:
            logits: (B, C) float32.
            wanted: (B, T) places in the label map, or UNSAID; every row has one of some task.
        """
        terms = []
        for place, task in enumerate(self._tasks):
            said = wanted[:, place]
            if (said == UNSAID).all():  # no row of this batch has a label of it
                continue
            term = nn.functional.cross_entropy(
                logits[:, task.start : task.stop],
                torch.from_numpy(_classes(said, task)).to(logits.device),
                weight=self._class_weights[place],
                label_smoothing=self._label_smoothing,
                ignore_index=_IGNORED,
            )
            terms.append(self._weights[place] * term)
        return torch.stack(terms).sum()


def _classes(said: NDArray[np.int64], task: Task) -> NDArray[np.int64]:
    """Places within the task, _IGNORED where nothing was said of it."""
    return np.where(said == UNSAID, _IGNORED, said - task.start)


def class_weights_of(tasks: Sequence[Task], labels: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Weights inverse to the frequency of the classes of each task.

    Args:
        tasks: T tasks.
        labels: (N, T) places in the label map, or UNSAID.
    """
    said = (labels[labels[:, place] != UNSAID, place] - task.start for place, task in enumerate(tasks))
    return [balanced_class_weights(each, classes=len(task.labels)) for each, task in zip(said, tasks, strict=True)]
