"""A split of a snapshot as a recipe wants it: texts and class numbers.

Decides how class names become numbers (their place in the snapshot's label map). Called by the recipes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratchet_api.feedback_dataset import SplitName
from ratchet_jobs.data.snapshots import Snapshot
from ratchet_jobs.runtime.errors import BadLabelsError


class Examples(NamedTuple):
    """N texts with their classes."""

    texts: list[str]
    labels: NDArray[np.int64]
    """(N,) places in the label map."""


def read_examples(snapshot: Snapshot, split: SplitName) -> Examples:
    """Read one split.

    Raises:
        BadLabelsError: a row's class is not in the label map.
    """
    table = snapshot.table(split)
    number_of = {label: number for number, label in enumerate(snapshot.labels)}
    names: list[str] = table.column("label").to_pylist()
    if unknown := sorted(set(names) - number_of.keys()):
        raise BadLabelsError(
            f"{split} split: class {unknown[0]!r} is not in the label map of {len(number_of)} classes; "
            "refresh the dataset"
        )
    labels = np.fromiter((number_of[name] for name in names), dtype=np.int64, count=len(names))
    return Examples(texts=table.column("text").to_pylist(), labels=labels)
