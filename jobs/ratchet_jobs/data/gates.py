"""A gate may name a class: is it one of the dataset's?

Torch-free. Called by `resolve`, before anything that costs a GPU starts, and by `evaluate`, which measures the class.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

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
    for place, gate in enumerate(gates):
        if gate.label is None or gate.label in labels:
            continue
        near = difflib.get_close_matches(gate.label, labels, n=1)
        others = sorted(set(labels) - set(near))
        shown = [repr(label) for label in (near + others)[:SHOWN_LABELS]]
        more = f" and {len(labels) - len(shown)} more" if len(labels) > len(shown) else ""
        raise BadLabelsError(
            f"spec.evaluation.gates[{place}].label {gate.label!r} is no class of the dataset, which has "
            f"{', '.join(shown)}{more}; correct the gate, or give the dataset rows of that class"
        )
