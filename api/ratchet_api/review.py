"""What the review page asks the gateway for: answers that nobody judged yet, pairs to compare, and numbers to plot.

Those are of the feedback and of the data sets made of it. Decides fields and bounds of those answers. Votes themselves are ordinary feedback (`ratchet_api.feedback`). Never
decides what is asked first. Used by the gateway's review routes; the page reads the same names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ratchet_api.base import ObjectName, StatusModel, Timestamp
from ratchet_api.feedback import VersionNumber
from ratchet_api.snapshot_summary import SnapshotSummary

Count = Annotated[int, Field(ge=0, le=2**53)]
ReviewOrder = Literal["unsure", "disputed", "newest"]
"""What comes first in the queue."""


class ReviewAnswer(StatusModel):
    """One recorded answer of a policy."""

    interaction_id: Annotated[str, Field(max_length=1024, description="interactionId: signed; cite it with the vote.")]
    id: Annotated[str, Field(max_length=128, description="id: of the interaction.")]
    answer: Annotated[str, Field(max_length=32_768, description="answer: the text or the label that was answered.")]
    version: Annotated[VersionNumber | None, Field(default=None, description="version: that answered.")]
    confidence: Annotated[
        float | None,
        Field(default=None, ge=0, le=1, description="confidence: probability of the label, where it was recorded."),
    ]
    received: Annotated[str, Field(max_length=32, description="received: when it was recorded.")]


class ReviewItem(ReviewAnswer):
    """One answer that nobody judged yet."""

    input: Annotated[str, Field(max_length=32_768, description="input: what was asked.")]


class ReviewPair(StatusModel):
    """Two different answers to the same input."""

    id: Annotated[str, Field(max_length=64, description="id: of the pair; send it as the tag `pair`.")]
    input: Annotated[str, Field(max_length=32_768, description="input: what was asked.")]
    answers: Annotated[
        tuple[ReviewAnswer, ReviewAnswer],
        Field(strict=False, description="answers: in the order of their arrival; whoever shows them shuffles them."),
    ]


class ReviewQueue(StatusModel):
    """Answer to GET /v1/review/{policy}."""

    policy: ObjectName
    waiting: Annotated[Count, Field(description="waiting: kept answers that nobody judged.")]
    judged: Annotated[Count, Field(description="judged: kept answers that somebody judged.")]
    items: Annotated[tuple[ReviewItem, ...], Field(strict=False, description="items: in the order that was asked for.")]
    pairs: Annotated[
        tuple[ReviewPair, ...], Field(strict=False, description="pairs: not compared yet, the newest first.")
    ]
    labels: Annotated[
        tuple[str, ...], Field(strict=False, description="labels: that the policy has answered, as suggestions.")
    ]


class ReviewDay(StatusModel):
    """Feedback of one day."""

    day: Annotated[str, Field(max_length=10, description="day: UTC, as in 2026-11-21.")]
    good: Annotated[Count, Field(description="good: events that score the answer 0.6 or more.")]
    middling: Annotated[Count, Field(description="middling: events that score it from 0.4 to below 0.6.")]
    bad: Annotated[Count, Field(description="bad: events that score it below 0.4.")]
    unscored: Annotated[Count, Field(description="unscored: events that say nothing about the answer as a whole.")]


class ReviewLabel(StatusModel):
    """Answers of one label."""

    label: Annotated[str, Field(max_length=256, description="label: as it was answered.")]
    answers: Annotated[Count, Field(description="answers: recorded with it.")]
    rated: Annotated[Count, Field(description="rated: of these, events that score one.")]
    score_mean: Annotated[float | None, Field(default=None, ge=0, le=1, description="scoreMean: of those events.")]


class ReviewStats(StatusModel):
    """Answer to GET /v1/review/{policy}/stats."""

    policy: ObjectName
    days: Annotated[tuple[ReviewDay, ...], Field(strict=False, description="days: the last 30 that have feedback.")]
    bands: Annotated[
        tuple[int, int, int, int, int],
        Field(strict=False, description="bands: scored events from 0 to below 0.2, and so on, up to 0.8 to 1."),
    ]
    labels: Annotated[
        tuple[ReviewLabel, ...], Field(strict=False, description="labels: the 20 most frequent of the kept answers.")
    ]


class ReviewDataset(StatusModel):
    """What one data set made of a policy's feedback, as its status tells."""

    name: Annotated[ObjectName, Field(description="name: of the FeedbackDataset.")]
    type: Annotated[str, Field(max_length=32, description="type: what its rows are, as in spec.type.")]
    state: Annotated[str, Field(default="", max_length=32, description="state: one word, as in status.state.")]
    taken: Annotated[Timestamp | None, Field(default=None, description="taken: when the newest snapshot was recorded.")]
    snapshot: Annotated[
        SnapshotSummary | None,
        Field(default=None, description="snapshot: what the newest one holds. If omitted, none was taken yet."),
    ]


class ReviewDatasets(StatusModel):
    """Answer to GET /v1/review/{policy}/datasets."""

    policy: ObjectName
    datasets: Annotated[
        tuple[ReviewDataset, ...],
        Field(default=(), strict=False, description="datasets: the 20 with the newest snapshots, the newest first."),
    ]
    problem: Annotated[
        str, Field(default="", max_length=2048, description="problem: why they cannot be told, and what to do.")
    ]


class ReviewPolicies(StatusModel):
    """Answer to GET /v1/review."""

    policies: Annotated[
        dict[str, int], Field(description="policies: each with the number of its answers that nobody judged.")
    ]
