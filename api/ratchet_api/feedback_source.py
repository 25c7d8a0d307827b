"""`source.feedback` of a FeedbackDataset: which events of a policy's feedback log become rows, and which do not.

Decides fields and bounds. The snapshot stage reads the log by them; knows nothing of how the log is stored.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ratchet_api.base import ApiModel, ObjectName, Sha256

EventType = Literal["thumbs_up", "thumbs_down", "rating", "score", "correction", "preference", "comment", "metric"]
Pseudonym = Annotated[str, Field(min_length=34, max_length=65, pattern=r"^[A-Za-z0-9_-]{1,32}:[0-9a-f]{32}$")]
"""What the log has instead of a person: the id of the key, and a keyed hash."""


class FeedbackPolicyRef(ApiModel):
    """The policy whose log is read."""

    name: Annotated[ObjectName, Field(description="name: the RLPolicy's name; references never cross namespaces.")]


class TagFilter(ApiModel):
    """One tag that an event must carry."""

    name: Annotated[
        str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._/-]+$", description="name: of the tag.")
    ]
    value: Annotated[str, Field(min_length=1, max_length=256, description="value: that the tag must have.")]


class Quarantine(ApiModel):
    """People whose verdicts disagree with everybody else's are set aside until a human releases them."""

    min_agreement: Annotated[
        float,
        Field(
            default=0.5,
            ge=0,
            le=1,
            description="minAgreement: 1 minus the mean distance between a person's scores and the mean score of the others on the same answer; all rows of a person below it are set aside. Guessing gives about 0.5.",
        ),
    ]
    min_comparisons: Annotated[
        int,
        Field(
            default=5,
            ge=1,
            le=10_000,
            description="minComparisons: answers rated both by the person and by others, below which nobody is judged.",
        ),
    ]
    release: Annotated[
        tuple[Pseudonym, ...],
        Field(
            default=(),
            strict=False,
            max_length=256,
            json_schema_extra={"uniqueItems": True},
            description="release: people, as the snapshot's manifest lists them, whose rows are taken all the same.",
        ),
    ]


class Disagreement(ApiModel):
    """Rows about which people or versions disagree teach more than one more row about which everybody agrees."""

    share_percent: Annotated[
        float,
        Field(
            gt=0,
            le=100,
            description="sharePercent: of spec.filters.maxSamples; up to this share is taken from prompts with disagreement, the most disputed first, the rest by hash from all that is left.",
        ),
    ]


class Sampling(ApiModel):
    """Which rows are kept where filters.maxSamples does not let all be kept."""

    disagreement: Annotated[
        Disagreement,
        Field(
            description="disagreement: prefer prompts whose same answer was scored differently by different people, that people corrected differently, or that versions answered differently (vote entropy)."
        ),
    ]


class FeedbackSource(ApiModel):
    """The feedback log of one policy. What was taken back or erased is never read."""

    policy_ref: Annotated[FeedbackPolicyRef, Field(description="policyRef: the policy that was rated.")]
    types: Annotated[
        tuple[EventType, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=8,
            json_schema_extra={"uniqueItems": True},
            description="types: which types of events are read. If omitted, all that make a row of spec.type.",
        ),
    ]
    versions: Annotated[
        tuple[Annotated[int, Field(ge=1, le=2**31)], ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=64,
            json_schema_extra={"uniqueItems": True},
            description="versions: only feedback on answers of these versions of the policy. If omitted, of all, also where none is known.",
        ),
    ]
    tags: Annotated[
        tuple[TagFilter, ...],
        Field(
            default=(),
            strict=False,
            max_length=16,
            description="tags: only events that carry all of these. Default none.",
        ),
    ]
    min_rating: Annotated[
        float | None,
        Field(
            default=None,
            ge=1,
            le=5,
            description="minRating: in stars; a score s counts as 1 + 4 s, thumbs as 1 and 5. For ratings, rows below are dropped. For classification and demonstrations, an answer rated at least this becomes a row, besides the corrections. Not for preferences.",
        ),
    ]
    group_by: Annotated[
        Literal["prompt", "subject"],
        Field(
            default="prompt",
            description="groupBy: what never parts across splits: prompt = equal prompts; subject = equal prompts and all rows of a person.",
        ),
    ]
    quarantine: Annotated[
        Quarantine | None,
        Field(
            default=None, description="quarantine: set people aside who disagree with everybody. If omitted, nobody."
        ),
    ]
    sampling: Annotated[
        Sampling | None,
        Field(
            default=None,
            description="sampling: which rows filters.maxSamples keeps, which it needs. If omitted, by hash alone.",
        ),
    ]
    as_of: Annotated[
        Sha256 | None,
        Field(
            default=None,
            description="asOf: digest of a snapshot; the log is read up to where that one read it, so the same rules give the same snapshot. If omitted, everything that is stored when the stage starts.",
        ),
    ]
