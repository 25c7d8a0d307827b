"""A split of a snapshot as a recipe wants it: texts and class numbers.

Decides how class names become numbers (their place in the snapshot's label map, which holds the classes of all tasks).
Called by the recipes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratchet_api.feedback_dataset import SplitName
from ratchet_api.tasks import UNSAID, class_name
from ratchet_jobs.data.snapshots import Snapshot, label_columns
from ratchet_jobs.runtime.errors import BadLabelsError


class Examples(NamedTuple):
    """N texts with their classes in T tasks."""

    texts: list[str]
    labels: NDArray[np.int64]
    """(N, T) places in the label map; UNSAID where a row has no label of a task."""


def read_examples(snapshot: Snapshot, split: SplitName) -> Examples:
    """Read one split.

    Raises:
        BadLabelsError: a row's class is not in the label map.
    """
    table = snapshot.table(split)
    number_of: dict[str | None, int] = {label: number for number, label in enumerate(snapshot.labels)}
    number_of[None] = UNSAID
    columns = []
    for task, column in zip(snapshot.tasks, label_columns(snapshot.manifest.task_names), strict=True):
        said: list[str | None] = table.column(column).to_pylist()
        names = [None if label is None else class_name(task.name, label) for label in said]
        if unknown := sorted(name for name in set(names) - number_of.keys() if name is not None):
            raise BadLabelsError(
                f"{split} split: class {unknown[0]!r} is not in the label map of {len(snapshot.labels)} classes; "
                "refresh the dataset"
            )
        columns.append(np.fromiter((number_of[name] for name in names), dtype=np.int64, count=len(names)))
    return Examples(texts=table.column("text").to_pylist(), labels=np.stack(columns, axis=1))
