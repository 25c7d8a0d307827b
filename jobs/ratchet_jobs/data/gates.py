"""A gate or a slice may name a class: is it one of the dataset's?

Torch-free. Called by `resolve`, before anything that costs a GPU starts, and by `evaluate`, which measures the class.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from ratchet_api.comparison import Slice
from ratchet_api.training_run import Gate
from ratchet_jobs.runtime.errors import BadLabelsError

SHOWN_LABELS = 20


def check_gates(gates: Sequence[Gate], *, labels: Sequence[str]) -> None:
    """Refuse a gate on a class that does not exist.

    Args:
        gates: of the run.
        labels: classes of the snapshot.

    Raises:
        BadLabelsError: names the gate, its label, the classes that there are, and the nearest one first.
    """
    named = ((f"spec.evaluation.gates[{n}].label", gate.label) for n, gate in enumerate(gates))
    _check(((field, label) for field, label in named if label is not None), labels=labels, what="gate")


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
