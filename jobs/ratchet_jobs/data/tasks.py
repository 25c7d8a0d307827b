"""Settings and policies name tasks: are they the dataset's?

Torch-free. Called by `resolve`, before anything that costs a GPU starts, and by the stages that meet the names again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ratchet_jobs.runtime.errors import BadConfigError


def check_tasks(named: Mapping[str, str], *, tasks: Sequence[str] | None) -> None:
    """Refuse a task that the dataset does not have.

    Args:
        named: field -> the task that it names.
        tasks: of the dataset; None = it names none.

    Raises:
        BadConfigError: names the field, the task, and the tasks that there are.
    """
    for field, name in named.items():
        if name in (tasks or ()):
            continue
        there = f"it has {', '.join(map(repr, tasks))}" if tasks else "it names none in spec.columns.labels"
        raise BadConfigError(f"{field}: {name!r} is no task of the dataset: {there}; correct it or take it off")


def task_difference(tasks: Sequence[str] | None, others: Sequence[str] | None) -> str:
    """Word how two sets of tasks differ; nothing if they are the same."""
    mine, theirs = set(tasks or ()), set(others or ())
    if mine == theirs:
        return ""
    return ", ".join(map(repr, sorted(mine ^ theirs)))
