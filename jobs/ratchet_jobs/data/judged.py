"""What people thought of answers, as a reward model learns it: pairs of answers, or answers with a score.

Decides which snapshots can be learned from. Torch-free. `resolve` checks them, the reward-model stage reads them.
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


def check_judged(manifest: Manifest) -> None:
    """Refuse a snapshot that a reward model cannot learn from.

    Raises:
        BadDataError: it is of another type.
    """
    if manifest.type not in (PREFERENCES, RATINGS):
        raise BadDataError(
            f"spec.stages.rewardModel.datasetRef: its snapshot {manifest.digest[:12]}… is of type {manifest.type}; a "
            f"reward model learns from {PREFERENCES} or {RATINGS}: name such a dataset"
        )


def read_judged(snapshot: Snapshot) -> list[Pair | Scored]:
    """Read the train split, in the order of the snapshot.

    Raises:
        BadDataError: the snapshot is of another type.
    """
    check_judged(snapshot.manifest)
    table = snapshot.table("train")
    if snapshot.manifest.type == PREFERENCES:
        pairs = (table.column(name).to_pylist() for name in ("text", "chosen", "rejected"))
        return [Pair(*row) for row in zip(*pairs, strict=True)]
    scored = (table.column(name).to_pylist() for name in ("text", "label", "score"))
    return [Scored(*row) for row in zip(*scored, strict=True)]
