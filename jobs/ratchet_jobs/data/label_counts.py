"""Classes of a snapshot and their rows per split; refuses what cannot be trained on, task by task.

Decides the label map: the classes of spec.labels, or those of the train split by name (of a log of answers those of
every split), one task after the other.
Torch-free and pure. Called by the snapshot recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ratchet_api.feedback_dataset import RATINGS, SplitName
from ratchet_api.snapshot_summary import LabelCount, TaskCount
from ratchet_api.stage import SnapshotConfig
from ratchet_api.tasks import Task, class_name
from ratchet_jobs.data.snapshots import SPLITS
from ratchet_jobs.runtime.errors import BadDataError, BadLabelsError

MAX_CLASSES = 2000
"""The table of confusions that evaluate writes grows with its square; far more are a column of ids, not of classes."""

Said = Sequence[tuple[str | None, ...]]
"""Labels of rows, one per task; None = not said."""
Counts = Mapping[SplitName, Counter[str]]


def count_labels(config: SnapshotConfig, parts: Mapping[SplitName, Said]) -> tuple[LabelCount, ...]:
    """Count the classes of every task in every split.

    Args:
        config: columns and the closed list of labels, if there is one.
        parts: labels of the rows of each split.

    Raises:
        BadLabelsError: a task has fewer than two classes or far too many, or a class has no train row.
        BadDataError: a split has no row, or none with a label of some task.
    """
    entries: list[LabelCount] = []
    for place, task in enumerate(config.columns.label_paths):
        count: Counts = {
            name: Counter(said[place] for said in parts[name] if said[place] is not None)  # type: ignore[misc]  # not None
            for name in SPLITS
        }
        found = count["train"] if config.type != RATINGS else sum(count.values(), start=Counter[str]())
        names = config.labels if config.labels is not None else tuple(sorted(found))
        _check(config, task, names, count, total=sum(len(rows) for rows in parts.values()))
        entries += (
            LabelCount(label=class_name(task, label), **{name: count[name][label] for name in SPLITS})
            for label in names
        )
    return tuple(entries)


def count_tasks(tasks: Sequence[Task], labels: Sequence[LabelCount]) -> tuple[TaskCount, ...]:
    """Add the classes' rows up, task by task."""
    return tuple(
        TaskCount(
            task=task.name,
            classes=len(task.labels),
            **{name: sum(getattr(entry, name) for entry in labels[task.start : task.stop]) for name in SPLITS},
        )
        for task in tasks
    )


def _check(config: SnapshotConfig, task: str, names: Sequence[str], count: Counts, *, total: int) -> None:
    """Refuse a task that cannot be trained or measured."""
    of_task = f"task {task!r}: " if task else ""
    field = f"spec.columns.labels.{task}" if task else "spec.columns.label"
    column = config.columns.label_paths[task]
    rows = sum(count["train"].values())
    if len(names) > MAX_CLASSES:
        shown = ", ".join(map(repr, names[:3]))
        raise BadLabelsError(
            f"{of_task}{len(names)} classes in {rows} train rows ({shown}, …), at most {MAX_CLASSES} are "
            f"possible; is {field} {column!r} a column of ids? name the column of the class, "
            "or merge rare ones"
        )
    rated = config.type == RATINGS  # a log of answers: the policy's label map is what counts
    if not rated and not rows:  # of a task with a name only: a row has at least one label
        raise BadLabelsError(
            f"{of_task}no train row has a label of it; is {field} {column!r} the right column? correct it, or take the "
            "task off spec.columns.labels"
        )
    if not rated and len(count["train"]) < 2:
        only = next(iter(count["train"]))
        raise BadLabelsError(
            f"{of_task}every train row has the label {only!r}; a classifier needs at least two classes in train"
        )
    for name in ("validation", "test"):
        if not count[name]:
            without = f"the {name} split has no label of it" if task else f"the {name} split is empty"
            raise BadDataError(
                f"{of_task}{without} ({total} rows in all); add rows, raise spec.split.{name}Percent, "
                "or mark a source file with its split"
            )
    if not rated:
        _check_places(of_task, names, count)


def _check_places(of_task: str, names: Sequence[str], count: Counts) -> None:
    """Refuse classes that some split has and train has not."""
    for name in SPLITS:
        for label in sorted(count[name]):
            if label not in names:
                last = "leave those rows out" if of_task else "list spec.labels without it"
                raise BadLabelsError(
                    f"{of_task}label {label!r} has {count[name][label]} rows in {name} but none in train; add train "
                    f"rows of it, change spec.split.salt, or {last}"
                )
    for label in names:
        if count["train"][label] == 0:
            raise BadLabelsError(f"label {label!r} of spec.labels has no train row; add rows of it or take it off")
