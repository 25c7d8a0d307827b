"""What people or a judge thought of answers, as a reward model or a policy learns it: pairs, or answers with scores.

Decides which snapshots can be learned from. Torch-free. `resolve` checks them; the reward-model stage reads them, as
do rl and `evaluate` where the policy learns from them itself.
"""

from __future__ import annotations

from typing import NamedTuple

from ratchet_api.feedback_dataset import DEMONSTRATIONS, PREFERENCES, RATINGS
from ratchet_api.scoring import SCORE, scored_column
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


class Criticised(NamedTuple):
    """An answer and what a judge gave it, as a whole and in each quality."""

    prompt: str
    answer: str
    score: float
    """0..1, higher is better."""
    qualities: tuple[float, ...]
    """0..1, in the order in which the dataset names them."""


class Scores(NamedTuple):
    """What a judge said of a snapshot's responses."""

    qualities: tuple[str, ...]
    rows: list[Criticised]
    left_out: int
    """Rows without numbers, and dialogues of several turns, which a scorer of one prompt does not read as rl does."""


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


def scored_names(manifest: Manifest, *, field: str) -> tuple[str, ...]:
    """Return the qualities that a judge gave a snapshot's responses numbers for, besides the score.

    Args:
        manifest: of the snapshot.
        field: that names it, for messages.

    Raises:
        BadDataError: no judge scored it.
    """
    scoring = manifest.settings.get("scoring")
    if scoring is None or manifest.type not in (DEMONSTRATIONS, RATINGS):
        raise BadDataError(
            f"{field}: no judge scored its snapshot {manifest.digest[:12]}… of type {manifest.type}, which "
            "scores: judge learns from; set spec.scoring of the dataset, or remove scores"
        )
    return tuple(scoring.get("qualities", ()))


def read_scores(snapshot: Snapshot, *, field: str) -> Scores:
    """Read what a judge said of the train split, in the order of the snapshot.

    Args:
        snapshot: that a judge scored.
        field: that names it, for messages.

    Raises:
        BadDataError: no judge scored it, or none of its rows can be used.
    """
    qualities = scored_names(snapshot.manifest, field=field)
    table = snapshot.table("train")
    answers = "response" if snapshot.manifest.type == DEMONSTRATIONS else "label"
    columns = [table.column(scored_column(name)).to_pylist() for name in (SCORE, *qualities)]
    dialogues = table.column("messages").to_pylist() if "messages" in table.column_names else [None] * len(table)
    said = zip(table.column("text").to_pylist(), table.column(answers).to_pylist(), dialogues, *columns, strict=True)
    rows = [
        Criticised(text, answer, score, tuple(numbers))
        for text, answer, turns, score, *numbers in said
        if turns is None and score is not None
    ]
    if not rows:
        raise BadDataError(
            f"{field}: none of the {len(table)} train rows is a single prompt whose answer the judge gave numbers; see "
            "status.snapshot.scored of the dataset"
        )
    return Scores(qualities, rows, len(table) - len(rows))
