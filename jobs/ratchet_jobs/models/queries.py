"""What a policy is asked during RL: one task about one text, and the class that would be right.

Decides how labelled rows become queries (a row with labels of three tasks is three of them) and refuses rows that the
policy could only answer wrongly. Pure. Called by the rl recipes.

Notation: N texts, T tasks of the dataset, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ratchet_api.tasks import UNSAID, Task
from ratchet_jobs.models.card import Head
from ratchet_jobs.runtime.errors import BadLabelsError


class Queries(NamedTuple):
    """Q queries: each asks one task about one text."""

    texts: NDArray[np.int64]
    """(Q,) rows of the texts."""
    tasks: NDArray[np.int64]
    """(Q,) numbers of the policy's tasks."""


def in_the_policys_order(labels: NDArray[np.int64], tasks: Sequence[Task], heads: Sequence[Head]) -> NDArray[np.int64]:
    """Class numbers by the policy's label map, (N, T).

    Args:
        labels: (N, T) places in the dataset's label map, or UNSAID.
        tasks: of the dataset.
        heads: of the policy, which may have more tasks.

    Raises:
        BadLabelsError: a task or a row's class is none of the policy's: whatever it answered would be wrong.
    """
    known = [task.name for task, _ in heads]
    for task in tasks:
        if task.name not in known:
            what = f"task {task.name!r}" if task.name else "its one task without a name"
            there = ", ".join(map(repr, known)) if known[0] else "one task without a name"
            raise BadLabelsError(
                f"train split: {what} is none of the start policy's, which has {there}; start from a policy that was "
                "trained on this dataset's tasks, or change spec.columns of the dataset"
            )
    names = [label for task in tasks for label in task.labels]
    policy = [label for task, _ in heads for label in task.labels]
    place = {label: number for number, label in enumerate(policy)}
    unknown = sorted({names[i] for i in np.unique(labels[labels != UNSAID])} - place.keys())
    if unknown:
        raise BadLabelsError(
            f"train split: class {unknown[0]!r} is none of the start policy's {len(policy)} classes; start from a "
            "policy that was trained on this dataset's classes, or leave such rows out"
        )
    # UNSAID = -1 is the last place
    return np.array([*(place.get(name, UNSAID) for name in names), UNSAID], dtype=np.int64)[labels]


def task_of_class(heads: Sequence[Head]) -> NDArray[np.int64]:
    """(C,) number of the task that each class of the policy is of."""
    return np.concatenate([np.full(len(task.labels), n) for n, (task, _) in enumerate(heads)]).astype(np.int64)


def ask(said: NDArray[np.int64], heads: Sequence[Head], asked: Sequence[str]) -> tuple[Queries, NDArray[np.int64]]:
    """Make one query per text and task that is rewarded and of which the text has a label.

    Args:
        said: (N, T) places in the policy's label map, or UNSAID.
        heads: of the policy.
        asked: names of the tasks that are rewarded.

    Returns:
        The queries, text after text, and their right answers (Q,).
    """
    task_of = task_of_class(heads)
    wanted = np.isin(task_of[said], [n for n, (task, _) in enumerate(heads) if task.name in asked])
    texts, columns = np.nonzero((said != UNSAID) & wanted)
    answers = said[texts, columns]
    return Queries(texts, task_of[answers]), answers


def reward_by_task(rewards: Tensor, tasks: Tensor, names: Sequence[str] | None) -> dict[str, float]:
    """Mean reward of the answers in each of several tasks, as `task/NAME`; a task that was not asked is left out.

    Args:
        rewards: (B,).
        tasks: (B,) number of the task that each answers.
        names: of the policy's tasks; None = one task without a name.
    """
    parts = {name: rewards[tasks == place] for place, name in enumerate(names or ())}
    return {f"task/{name}": float(part.mean()) for name, part in parts.items() if len(part)}
