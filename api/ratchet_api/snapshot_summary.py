"""What a snapshot holds, in numbers: the snapshot stage's result, and what a FeedbackDataset's status shows of it.

Pure data: the stage fills them, the operator copies them into status. Decides nothing.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ratchet_api.base import StatusModel, Timestamp
from ratchet_api.tasks import MAX_TASKS


class LabelCount(StatusModel):
    """Rows of one class per split."""

    label: Annotated[str, Field(max_length=128, description="label: the class.")]
    train: Annotated[int, Field(default=0, ge=0, le=2**53, description="train: rows in the train split.")]
    validation: Annotated[
        int, Field(default=0, ge=0, le=2**53, description="validation: rows in the validation split.")
    ]
    test: Annotated[int, Field(default=0, ge=0, le=2**53, description="test: rows in the test split.")]


class Removed(StatusModel):
    """Rows that one rule removed."""

    rule: Annotated[str, Field(max_length=64, description="rule: which check or filter removed them.")]
    count: Annotated[int, Field(ge=0, le=2**53, description="count: how many.")]
    example: Annotated[
        str,
        Field(
            default="",
            max_length=200,
            description="example: where the first one stands (file and row), never its text.",
        ),
    ]


class SnapshotCounts(StatusModel):
    """Rows in all and per split."""

    read: Annotated[int, Field(default=0, ge=0, le=2**53, description="read: rows read from the sources.")]
    kept: Annotated[int, Field(default=0, ge=0, le=2**53, description="kept: rows in the snapshot.")]
    train: Annotated[int, Field(default=0, ge=0, le=2**53, description="train: rows in the train split.")]
    validation: Annotated[
        int, Field(default=0, ge=0, le=2**53, description="validation: rows in the validation split.")
    ]
    test: Annotated[int, Field(default=0, ge=0, le=2**53, description="test: rows in the test split.")]


class TaskCount(StatusModel):
    """Labelled rows of one task per split."""

    task: Annotated[str, Field(max_length=32, description="task: its name.")]
    classes: Annotated[int, Field(default=0, ge=0, le=100_000, description="classes: number of its classes.")]
    train: Annotated[int, Field(default=0, ge=0, le=2**53, description="train: labelled rows in the train split.")]
    validation: Annotated[
        int, Field(default=0, ge=0, le=2**53, description="validation: labelled rows in the validation split.")
    ]
    test: Annotated[int, Field(default=0, ge=0, le=2**53, description="test: labelled rows in the test split.")]


class DisputedCount(StatusModel):
    """Rows about which people or versions disagree."""

    found: Annotated[int, Field(ge=0, le=2**53, description="found: rows that the other rules left.")]
    kept: Annotated[int, Field(ge=0, le=2**53, description="kept: rows of these in the snapshot.")]


class ScoredMean(StatusModel):
    """What a judge gave on average."""

    name: Annotated[str, Field(max_length=32, description="name: score, or a quality of spec.scoring.qualities.")]
    mean: Annotated[float, Field(ge=0, le=1, description="mean: of the scored responses, from 0 to 1.")]


class ScoredCount(StatusModel):
    """What a judge said of the snapshot's responses."""

    responses: Annotated[int, Field(ge=0, le=2**53, description="responses: rows that the judge was to score.")]
    scored: Annotated[int, Field(ge=0, le=2**53, description="scored: rows with all numbers; the others have none.")]
    cached: Annotated[
        int,
        Field(ge=0, le=2**53, description="cached: rows that the judge need not be asked about, since it had been."),
    ]
    means: Annotated[
        tuple[ScoredMean, ...],
        Field(strict=False, max_length=9, description="means: of the score and of each quality."),
    ]


class SnapshotSummary(StatusModel):
    """What a snapshot holds; also the snapshot stage's result in its termination message."""

    digest: Annotated[
        str,
        Field(
            min_length=64,
            max_length=64,
            description="digest: SHA-256 of the snapshot's content; its name in the store.",
        ),
    ]
    uri: Annotated[str, Field(max_length=2048, description="uri: where the snapshot's MANIFEST.json stands.")]
    counts: Annotated[SnapshotCounts, Field(description="counts: rows read, kept and per split.")]
    classes: Annotated[int, Field(default=0, ge=0, le=100_000, description="classes: number of classes.")]
    tasks: Annotated[
        tuple[TaskCount, ...] | None,
        Field(
            default=None,
            strict=False,
            max_length=MAX_TASKS,
            description="tasks: labelled rows per task, if columns.labels names tasks; classes are then called TASK/LABEL.",
        ),
    ]
    smallest_labels: Annotated[
        tuple[LabelCount, ...],
        Field(
            default=(),
            strict=False,
            max_length=10,
            description="smallestLabels: the ten classes with the fewest train rows; all are in the manifest.",
        ),
    ]
    removed: Annotated[
        tuple[Removed, ...],
        Field(default=(), strict=False, max_length=16, description="removed: rows removed, by rule."),
    ]
    score_mean: Annotated[
        float | None,
        Field(default=None, ge=0, le=1, description="scoreMean: of the rated rows."),
    ]
    score_std: Annotated[
        float | None,
        Field(default=None, ge=0, le=1, description="scoreStd: of the rated rows."),
    ]
    disputed: Annotated[
        DisputedCount | None,
        Field(
            default=None,
            description="disputed: rows about which people or versions disagree, with source.feedback.sampling.",
        ),
    ]
    scored: Annotated[
        ScoredCount | None,
        Field(default=None, description="scored: what the judge of spec.scoring said of the responses."),
    ]
    log_position: Annotated[
        str,
        Field(
            default="",
            max_length=64,
            description="logPosition: digest of the log's segments that were read, with source.feedback; the manifest lists them.",
        ),
    ]
    log_newest: Annotated[
        Timestamp | None,
        Field(
            default=None,
            description="logNewest: arrival of the newest event of feedback about the policy that was read, up to the next whole second, with source.feedback; later ones are new.",
        ),
    ]
    oldest: Annotated[
        Timestamp | None,
        Field(default=None, description="oldest: time of the oldest row, if columns.timestamp is set."),
    ]
    newest: Annotated[
        Timestamp | None,
        Field(default=None, description="newest: time of the newest row, if columns.timestamp is set."),
    ]
