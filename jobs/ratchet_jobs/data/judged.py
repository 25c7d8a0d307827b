"""What people thought of answers, as a reward model or a policy learns it: pairs of answers, or answers with a score.

Decides which snapshots can be learned from. Torch-free. `resolve` checks them; the reward-model stage reads them, as
do rl and `evaluate` where the policy learns from them itself.
"""

from __future__ import annotations

from typing import NamedTuple

from ratchet_api.feedback_dataset import PREFERENCES, RATINGS
from ratchet_jobs.data.snapshots import Manifest, Snapshot
from ratchet_jobs.runtime.errors import BadDataError


class Pair(NamedTuple):
    """Two answers of which somebody preferred one."""

    prompt: str
    better: str
    worse: str


class Scored(NamedTuple):
    """An answer and what somebody gave it."""

    prompt: str
    answer: str
    score: float
    """0..1, higher is better."""


def check_judged(manifest: Manifest, *, field: str) -> None:
    """Refuse a snapshot that says of no answer what people thought.

    Args:
        manifest: of the snapshot.
        field: that names it, for messages.

    Raises:
        BadDataError: it is of another type.
    """
    if manifest.type not in (PREFERENCES, RATINGS):
        raise BadDataError(
            f"{field}: its snapshot {manifest.digest[:12]}… is of type {manifest.type}; judged answers are of type "
            f"{PREFERENCES} or {RATINGS}: name such a dataset"
        )


def read_judged(snapshot: Snapshot, *, field: str) -> list[Pair | Scored]:
    """Read the train split, in the order of the snapshot.

    Args:
        snapshot: of preferences or ratings.
        field: that names it, for messages.

    Raises:
        BadDataError: the snapshot is of another type.
    """
    check_judged(snapshot.manifest, field=field)
    table = snapshot.table("train")
    if snapshot.manifest.type == PREFERENCES:
        pairs = (table.column(name).to_pylist() for name in ("text", "chosen", "rejected"))
        return [Pair(*row) for row in zip(*pairs, strict=True)]
    scored = (table.column(name).to_pylist() for name in ("text", "label", "score"))
    return [Scored(*row) for row in zip(*scored, strict=True)]
