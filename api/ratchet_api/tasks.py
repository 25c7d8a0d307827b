"""Tasks of a classifier: what one text is asked, when it is asked more than one thing.

Decides how the classes of several tasks share one flat label map: a class is called `task/label`, the classes of a task
stand side by side, and a dataset without named tasks has one task without a name. So whatever needs class names alone
(label maps, gates, costs, mismatches) needs to know nothing of tasks. Pure; called by the API models and the stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

MAX_TASKS = 8
"""Each task has numbers of its own in the stage's termination message."""

TASK_PATTERN = r"^[A-Za-z][-A-Za-z0-9_]*$"
TaskName = Annotated[str, Field(min_length=1, max_length=32, pattern=TASK_PATTERN)]
"""Name of a task; it holds no slash, so that `task/label` can be taken apart again."""

TaskWeight = Annotated[float, Field(gt=0, le=1000)]
"""How much a task counts in the loss."""

UNSAID = -1
"""Class number of a row in a task of which it has no label."""


class Task(NamedTuple):
    """One task and its place in the flat label map."""

    name: str
    """Empty for the only task of a dataset that names none."""
    labels: tuple[str, ...]
    """Its classes as the flat label map calls them: `task/label`, or the bare label where the task has no name."""
    start: int
    """Place of its first class in the flat label map: a row of the head."""

    @property
    def stop(self) -> int:
        """Place after its last class."""
        return self.start + len(self.labels)

    @property
    def plain_labels(self) -> tuple[str, ...]:
        """Its classes as the data call them."""
        skipped = len(self.name) + 1 if self.name else 0
        return tuple(label[skipped:] for label in self.labels)


def class_name(task: str, label: str) -> str:
    """Return what the flat label map calls a class."""
    return f"{task}/{label}" if task else label


def tasks_of(labels: Sequence[str], names: Sequence[str] | None) -> tuple[Task, ...]:
    """Cut a flat label map into tasks.

    Args:
        labels: C class names; those of a named task stand side by side, in the order of `names`.
        names: of the tasks; None or empty = one task without a name.

    Raises:
        ValueError: the label map is not made of these tasks.
    """
    if not names:
        return (Task("", tuple(labels), 0),)
    found: list[Task] = []
    start = 0
    for name in names:
        stop = start
        while stop < len(labels) and labels[stop].startswith(f"{name}/"):
            stop += 1
        if stop == start:
            raise ValueError(
                f"task {name!r} has no class at place {start} of the label map; its classes stand together"
            )
        found.append(Task(name, tuple(labels[start:stop]), start))
        start = stop
    if start != len(labels):
        raise ValueError(f"class {labels[start]!r} is of none of the tasks {', '.join(map(repr, names))}")
    return tuple(found)
