"""A gate or a slice may name a class: is it one of the dataset's?

Torch-free. Called by `resolve`, before anything that costs a GPU starts, and by `evaluate`, which measures the class.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence

from ratchet_api.comparison import Slice
from ratchet_api.gates import metric_key
from ratchet_api.training_run import GATED_LABEL_BYTES, TOLD_OF_TASKS, Gate
from ratchet_jobs.data.tasks import check_tasks
from ratchet_jobs.runtime.errors import BadConfigError, BadLabelsError

SHOWN_LABELS = 20
NUMBER_BYTES = 24
"""Of a number in JSON with its quotes, colon and comma."""


def check_gates(gates: Sequence[Gate], *, labels: Sequence[str], tasks: Sequence[str] | None = None) -> None:
    """Refuse a gate on a class or task that does not exist, and names that are too long for the stage's last message.

    Args:
        gates: of the run.
        labels: classes of the snapshot.
        tasks: of the snapshot; None = it names none.

    Raises:
        BadLabelsError: names the gate, its label, the classes that there are, and the nearest one first.
        BadConfigError: a gate names no task of the dataset; or as JSON the names are longer than the message holds, so
            gates would judge nothing.
    """
    of_tasks = {f"spec.evaluation.gates[{n}].task": gate.task for n, gate in enumerate(gates) if gate.task is not None}
    check_tasks(of_tasks, tasks=tasks)
    named = ((f"spec.evaluation.gates[{n}].label", gate.label) for n, gate in enumerate(gates))
    _check(((field, label) for field, label in named if label is not None), labels=labels, what="gate")
    gated = {gate.label for gate in gates if gate.label is not None}
    used = sum(len(json.dumps(label, ensure_ascii=False).encode()) - 2 for label in gated)
    keys = {(gate.metric, gate.task) for gate in gates if gate.task is not None}
    keys |= {(metric, task) for task in tasks or () for metric in TOLD_OF_TASKS}
    room = GATED_LABEL_BYTES - sum(len(metric_key(metric, task=task)) + NUMBER_BYTES for metric, task in keys)
    if used > room:
        raise BadConfigError(
            f"spec.evaluation.gates: the {len(gated)} classes named take {used} bytes in JSON, where quotes, "
            f"backslashes and control characters are long; at most {room} fit: gate fewer classes"
        )


def check_slices(slices: Sequence[Slice], *, labels: Sequence[str]) -> None:
    """Refuse a slice of a class that does not exist; as `check_gates`."""
    named = ((f"spec.evaluation.comparison.slices[{n}].label", each.label) for n, each in enumerate(slices))
    _check(named, labels=labels, what="slice")


def _check(named: Iterable[tuple[str, str]], *, labels: Sequence[str], what: str) -> None:
    for field, label in named:
        if label in labels:
            continue
        near = difflib.get_close_matches(label, labels, n=1)
        others = sorted(set(labels) - set(near))
        shown = [repr(name) for name in (near + others)[:SHOWN_LABELS]]
        more = f" and {len(labels) - len(shown)} more" if len(labels) > len(shown) else ""
        raise BadLabelsError(
            f"{field} {label!r} is no class of the dataset, which has {', '.join(shown)}{more}; "
            f"correct the {what}, or give the dataset rows of that class"
        )
