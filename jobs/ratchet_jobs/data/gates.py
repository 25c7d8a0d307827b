"""A gate or a slice may name a class: is it one of the dataset's?

Torch-free. Called by `resolve`, before anything that costs a GPU starts, and by `evaluate`, which measures the class.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence

from ratchet_api.comparison import Slice
from ratchet_api.training_run import GATED_LABEL_BYTES, Gate
from ratchet_jobs.runtime.errors import BadConfigError, BadLabelsError

SHOWN_LABELS = 20


def check_gates(gates: Sequence[Gate], *, labels: Sequence[str]) -> None:
    """Refuse a gate on a class that does not exist, and names that are too long for the stage's last message.

    Args:
        gates: of the run.
        labels: classes of the snapshot.

    Raises:
        BadLabelsError: names the gate, its label, the classes that there are, and the nearest one first.
        BadConfigError: as JSON the classes' names are longer than the message holds, so gates would judge nothing.
    """
    named = ((f"spec.evaluation.gates[{n}].label", gate.label) for n, gate in enumerate(gates))
    _check(((field, label) for field, label in named if label is not None), labels=labels, what="gate")
    gated = {gate.label for gate in gates if gate.label is not None}
    used = sum(len(json.dumps(label, ensure_ascii=False).encode()) - 2 for label in gated)
    if used > GATED_LABEL_BYTES:
        raise BadConfigError(
            f"spec.evaluation.gates: the {len(gated)} classes named take {used} bytes in JSON, where quotes, "
            f"backslashes and control characters are long; at most {GATED_LABEL_BYTES} fit: gate fewer classes"
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
