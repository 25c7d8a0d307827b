"""Rows of a log: which class a policy answered, how likely it was to, and what people said of it.

Decides which rows can be learned from, how they stand in a snapshot, and what a run refuses to learn from. Torch-free.
`snapshot` puts rows in, the rl stage and `resolve` take them out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ratchet_api.columns import Columns
from ratchet_api.feedback_dataset import RATINGS, SplitName
from ratchet_jobs.data.reading import value_at
from ratchet_jobs.data.snapshots import Manifest, Snapshot
from ratchet_jobs.runtime.errors import BadDataError, BadLabelsError

RATINGS_SCHEMA = pa.schema(
    [
        pa.field("text", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("propensity", pa.float64(), nullable=False),
        pa.field("policy", pa.string()),
        pa.field("component", pa.uint64(), nullable=False),
        pa.field("subject", pa.string()),
        pa.field("time", pa.timestamp("s", tz="UTC")),
    ]
)
LEAST_PROPENSITY = 1e-9
"""A smaller probability is a mistake of whoever logged it: such an answer would never have been seen."""

_VERDICTS: Mapping[str, float] = {"true": 1.0, "false": 0.0}


class Rating(NamedTuple):
    """What a row says beyond its text and class."""

    score: float
    """0 = wrong, 1 = right."""
    propensity: float
    """Probability with which the class was chosen."""
    policy: str | None
    """Whose answer it was, as NAME or NAME@VERSION."""


class Log(NamedTuple):
    """N logged answers."""

    texts: list[str]
    actions: NDArray[np.int64]
    """(N,) the class answered, by the policy's label map."""
    scores: NDArray[np.float64]
    """(N,) 0..1."""
    propensities: NDArray[np.float64]
    """(N,) above 0, at most 1."""
    components: NDArray[np.uint64]
    """(N,) equal for rows that must not part."""


def with_names(columns: Columns) -> Columns:
    """Return the columns with the names that `score` and `propensity` have where they are omitted."""
    named = {"score": columns.score or "score", "propensity": columns.propensity or "propensity"}
    return columns.model_copy(update=named)


def to_rating(fields: Mapping[str, Any], columns: Columns) -> Rating | str:
    """Read a row's rating, or return the rule that refuses the row.

    Args:
        fields: of the row.
        columns: as `with_names` returns them.
    """
    score, propensity = (value_at(fields, path) if path else None for path in (columns.score, columns.propensity))
    policy = value_at(fields, columns.policy) if columns.policy else None
    return checked_rating(score, propensity, None if policy is None else str(policy))


def checked_rating(score: Any, propensity: Any, policy: str | None) -> Rating | str:
    """Make a rating of raw values, or return the rule that refuses them."""
    if score is None:
        return "MissingScore"
    if propensity is None:
        return "MissingPropensity"
    if isinstance(score, str):
        score = _VERDICTS.get(score.strip().lower(), score)
    verdict, chance = _number(score), None if isinstance(propensity, bool) else _number(propensity)
    if verdict is None:
        return "InvalidScore"
    if chance is None:
        return "InvalidPropensity"
    if not 0.0 <= verdict <= 1.0:
        return "ScoreOutOfRange"
    if not LEAST_PROPENSITY <= chance <= 1.0:
        return "PropensityOutOfRange"
    return Rating(verdict, chance, policy)


def check_log(manifest: Manifest, *, labels: Sequence[str], tasks: Sequence[str] | None) -> None:
    """Refuse a snapshot that is no log, or whose answers a policy of these classes cannot have given.

    Args:
        manifest: of the snapshot.
        labels: the policy's classes.
        tasks: its tasks, where it has several, whose names its classes then begin with.

    Raises:
        BadDataError: it holds no ratings.
        BadLabelsError: an answer is none of the classes.
    """
    if manifest.type != RATINGS:
        raise BadDataError(
            f"spec.stages.rl.datasetRef: the snapshot has type {manifest.type!r}, {RATINGS!r} is needed; name a "
            "dataset of logged answers"
        )
    if unknown := sorted(set(manifest.label_map) - set(labels)):
        named = ", ".join(map(repr, tasks or ()))
        of_tasks = (
            f" of the tasks {named}, called TASK/LABEL; say the task by spec.columns.task of the log," if tasks else ";"
        )
        raise BadLabelsError(
            f"spec.stages.rl.datasetRef: the log has answers {unknown[0]!r}, none of the policy's {len(labels)} "
            f"classes{of_tasks} name the log of a policy of the same classes, or leave such rows out by spec.labels of "
            "the log"
        )


def read_log(
    snapshot: Snapshot, split: SplitName, *, labels: Sequence[str], tasks: Sequence[str] | None, policy: str | None
) -> Log:
    """Read one split's answers.

    Args:
        snapshot: of type ratings.
        split: which.
        labels: the classes of the policy that learns; a class's place is its number.
        tasks: its tasks, where it has several.
        policy: the only policy whose answers may stand there; None = any.

    Raises:
        BadDataError: no log; or a row is another policy's answer, or its score or propensity is no such number.
        BadLabelsError: an answer is none of the classes.
    """
    check_log(snapshot.manifest, labels=labels, tasks=tasks)
    table = snapshot.table(split)
    place = {label: number for number, label in enumerate(labels)}
    names: list[str] = table.column("label").to_pylist()
    policies: list[str | None] = table.column("policy").to_pylist()
    scores, propensities = (table.column(name).to_numpy() for name in ("score", "propensity"))
    for number, (name, whose) in enumerate(zip(names, policies, strict=True), 1):
        if name not in place:
            raise BadLabelsError(
                f"log, {split} row {number}: the answer {name!r} is none of the policy's {len(labels)} classes; "
                "leave such rows out by spec.labels of the log"
            )
        if policy is not None and whose is not None and whose.partition("@")[0] != policy:
            raise BadDataError(
                f"log, {split} row {number}: the answer is that of policy {whose!r}, but the run learns for "
                f"{policy!r}; name that policy's log, or leave such rows out"
            )
    wrong = ~(np.isfinite(scores) & (scores >= 0) & (scores <= 1))
    wrong_chance = ~((propensities >= LEAST_PROPENSITY) & (propensities <= 1))
    for what, places, values in (("score", wrong, scores), ("propensity", wrong_chance, propensities)):
        if places.any():
            row = int(np.flatnonzero(places)[0])
            raise BadDataError(
                f"log, {split} row {row + 1}: {what} {values[row]:g} is not {'0' if what == 'score' else 'above 0'} to "
                "1; build the snapshot again, which leaves such rows out"
            )
    return Log(
        texts=table.column("text").to_pylist(),
        actions=np.fromiter((place[name] for name in names), dtype=np.int64, count=len(names)),
        scores=scores,
        propensities=propensities,
        components=table.column("component").to_numpy(),
    )


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
