"""FeedbackDataset (`fbd`): where examples come from, what they are, how they are filtered and split.

Decides the fields, bounds and cross-field rules of the kind. The operator turns a spec into a `snapshot` Job;
the snapshot recipe reads the same models. Knows nothing of clusters or files.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from ratchet_api.attempts import StageAttempt
from ratchet_api.base import ApiModel, LabelName, Sha256, StatusModel, StoreUri, Timestamp
from ratchet_api.columns import LABEL_COLUMN, OF_DEMONSTRATIONS, OF_DIALOGUES, Columns, InlineRow
from ratchet_api.conditions import Condition
from ratchet_api.feedback_source import FeedbackSource
from ratchet_api.placement import Placement, Resources
from ratchet_api.refresh import Refresh, RefreshStatus
from ratchet_api.scoring import SCORED_TYPES, Scoring
from ratchet_api.snapshot_summary import SnapshotSummary

SplitName = Literal["train", "validation", "test"]
DatasetType = Literal["classification", "ratings", "preferences", "demonstrations"]
RATINGS: Final = "ratings"
PREFERENCES: Final = "preferences"
DEMONSTRATIONS: Final = "demonstrations"


class SourceObject(ApiModel):
    """One file in the store."""

    uri: Annotated[
        StoreUri, Field(description="uri: the file, as store://PATH below the namespace's prefix or s3://BUCKET/KEY.")
    ]
    format: Annotated[
        Literal["csv", "jsonl", "parquet"] | None,
        Field(default=None, description="format: csv, jsonl or parquet. If omitted, the name's suffix decides."),
    ]
    sha256: Annotated[
        Sha256 | None,
        Field(
            default=None,
            description="sha256: digest that the file must have. If omitted, the bytes found are taken and their digest is recorded.",
        ),
    ]
    split: Annotated[
        SplitName | None,
        Field(
            default=None,
            description="split: put every row of this file into one split. If omitted, rows are split by hash as spec.split says.",
        ),
    ]


_INLINE_BYTES = 128 * 1024  # the stage's input is an annotation of its pod, and all of those together have 256 KiB


class Source(ApiModel):
    """Where the rows come from: exactly one of `objects`, `inline` and `feedback`."""

    objects: Annotated[
        tuple[SourceObject, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=64,
            description="objects: files in the store, read in this order.",
        ),
    ]
    inline: Annotated[
        tuple[InlineRow, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=200,
            description="inline: a few rows written here, for trying things out.",
        ),
    ]
    feedback: Annotated[
        FeedbackSource | None,
        Field(default=None, description="feedback: events of a policy's feedback log."),
    ]

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(each is not None for each in (self.objects, self.inline, self.feedback)) != 1:
            raise ValueError(
                "exactly one of objects, inline and feedback must be set; remove one or add the missing one"
            )
        size = sum(row.size for row in self.inline or ())
        if size > _INLINE_BYTES:
            raise ValueError(
                f"inline: the texts and labels hold {size:,} bytes, at most {_INLINE_BYTES:,} travel with a pod; "
                "put the rows into a file and name it under objects"
            )
        return self


class Filters(ApiModel):
    """Which rows are kept. Each rule's count of removed rows is in status."""

    max_samples: Annotated[
        int | None,
        Field(
            default=None,
            ge=10,
            le=10_000_000,
            description="maxSamples: keep at most this many rows, chosen by hash so that a rebuild keeps the same ones. If omitted, all.",
        ),
    ]
    max_age_days: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=36_500,
            description="maxAgeDays: drop rows older than this, counted back from the newest row. Needs columns.timestamp, or source.feedback, where the arrival counts. If omitted, all ages.",
        ),
    ]
    min_text_chars: Annotated[
        int,
        Field(
            default=1,
            ge=1,
            le=100_000,
            description="minTextChars: drop rows whose text, outer blanks removed, is shorter.",
        ),
    ]
    max_text_chars: Annotated[
        int, Field(default=100_000, ge=1, le=1_000_000, description="maxTextChars: drop rows whose text is longer.")
    ]
    max_subject_share_percent: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=100,
            description="maxSubjectSharePercent: no subject gives more than this share of the kept rows. Needs columns.subject, or source.feedback. If omitted, no cap.",
        ),
    ]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_text_chars > self.max_text_chars:
            raise ValueError(
                f"minTextChars {self.min_text_chars} must not be above maxTextChars {self.max_text_chars}; "
                "lower it or raise maxTextChars"
            )
        return self


class Split(ApiModel):
    """Shares of the hash split by group; the three must add up to 100."""

    train_percent: Annotated[
        int, Field(default=80, ge=1, le=98, description="trainPercent: share of groups to train on.")
    ]
    validation_percent: Annotated[
        int,
        Field(default=10, ge=1, le=50, description="validationPercent: share of groups to calibrate and choose on."),
    ]
    test_percent: Annotated[
        int, Field(default=10, ge=1, le=50, description="testPercent: share of groups held out for evaluation.")
    ]
    salt: Annotated[
        str,
        Field(
            default="",
            max_length=64,
            description="salt: changes which group falls where; the same salt always splits alike.",
        ),
    ]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train_percent + self.validation_percent + self.test_percent
        if total != 100:
            raise ValueError(f"trainPercent, validationPercent and testPercent must add up to 100, not {total}")
        return self


class FeedbackDatasetSpec(ApiModel):
    """What the user asks for."""

    type: Annotated[
        DatasetType,
        Field(
            description="type: what an example is; classification = a text and its class, ratings = an answer, its propensity and what people said of it (a log for stages.rl.datasetRef), demonstrations = a prompt and an answer to follow; from feedback also preferences = a better and a worse answer."
        ),
    ]
    source: Annotated[Source, Field(description="source: where the rows come from; exactly one of its fields.")]
    columns: Annotated[Columns, Field(default=Columns(), description="columns: which column holds what.")]
    labels: Annotated[
        tuple[LabelName, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=2,
            max_length=1000,
            json_schema_extra={"uniqueItems": True},
            description="labels: the closed list of classes; a row with another label is rejected. Only without columns.labels. If omitted, the classes found in the train split.",
        ),
    ]
    filters: Annotated[Filters, Field(default=Filters(), description="filters: which rows are kept.")]
    split: Annotated[
        Split, Field(default=Split(), description="split: shares of the train, validation and test splits.")
    ]
    scoring: Annotated[
        Scoring | None,
        Field(
            default=None,
            description="scoring: only for types demonstrations and ratings; a language model that gives each response of the snapshot a number, and one for each named quality, kept as columns judged/NAME from 0 to 1. If omitted, none is asked.",
        ),
    ]
    refresh: Annotated[
        Refresh | None,
        Field(
            default=None,
            description="refresh: when a new snapshot is taken by itself, with source.feedback. If omitted, only for another spec or a new value of the annotation ratchet.dev/refresh.",
        ),
    ]
    resources: Annotated[Resources, Field(default=Resources(), description="resources: of the snapshot pod.")]
    placement: Annotated[
        Placement, Field(default=Placement(), description="placement: where the snapshot pod may run.")
    ]
    image: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=512,
            description="image: own stage image; must be on the operator's allow-list. If omitted, the operator's default.",
        ),
    ]
    suspend: Annotated[
        bool, Field(default=False, description="suspend: true stops a running snapshot and starts none.")
    ]
    active_deadline_seconds: Annotated[
        int,
        Field(
            default=3600,
            ge=10,
            le=604_800,
            description="activeDeadlineSeconds: time the snapshot may take, counted from admission.",
        ),
    ]
    backoff_limit: Annotated[
        int, Field(default=3, ge=0, le=20, description="backoffLimit: how many counted retries a snapshot gets.")
    ]

    @model_validator(mode="after")
    def _type_fits_source(self) -> Self:
        feedback = self.source.feedback
        if self.type == "preferences" and feedback is None:
            raise ValueError(f"type {self.type} needs source.feedback; name the policy, or set type: classification")
        if self.type in ("preferences", DEMONSTRATIONS) and self.labels is not None:
            raise ValueError(f"labels is only for types classification and ratings, not {self.type}; remove it")
        if feedback is None:
            return self
        if self.columns != Columns():
            raise ValueError("columns is not for source.feedback, whose fields are known; remove it")
        if feedback.min_rating is not None and self.type == "preferences":
            raise ValueError("source.feedback.minRating is not for type preferences; remove it or change type")
        return self

    @model_validator(mode="after")
    def _scores_responses(self) -> Self:
        if self.scoring is not None and self.type not in SCORED_TYPES:
            raise ValueError(
                f"scoring is only for types {' and '.join(SCORED_TYPES)}, whose rows hold one response, not "
                f"{self.type}; remove it or change type"
            )
        return self

    @model_validator(mode="after")
    def _sampling_leaves_something_out(self) -> Self:
        feedback = self.source.feedback
        if feedback is not None and feedback.sampling is not None and self.filters.max_samples is None:
            raise ValueError("source.feedback.sampling needs filters.maxSamples; set it, or remove sampling")
        return self

    @model_validator(mode="after")
    def _refresh_reads_a_log(self) -> Self:
        if self.refresh is None:
            return self
        if self.source.feedback is None:
            raise ValueError("refresh needs source.feedback, the only source that grows by itself; remove refresh")
        if self.source.feedback.as_of is not None:
            raise ValueError(
                "refresh is not for source.feedback.asOf, which reads the same events for ever; remove one"
            )
        return self

    @model_validator(mode="after")
    def _columns_for_filters(self) -> Self:
        if self.source.feedback is not None:
            return self
        if self.filters.max_age_days is not None and self.columns.timestamp is None:
            raise ValueError("filters.maxAgeDays needs columns.timestamp; name the column that holds each row's time")
        if self.filters.max_subject_share_percent is not None and self.columns.subject is None:
            raise ValueError(
                "filters.maxSubjectSharePercent needs columns.subject; name the column that holds the person"
            )
        if self.labels is not None and self.columns.labels is not None:
            raise ValueError("labels is only for a dataset without columns.labels; remove it")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            twice = next(label for place, label in enumerate(self.labels) if label in self.labels[:place])
            raise ValueError(f"labels must not repeat a class: {twice!r} stands there twice; remove one")
        return self

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        rated = self.type == RATINGS
        if self.columns.labels is not None and self.type != "classification":
            raise ValueError("columns.labels is only for type classification; remove it or change type")
        for name in ("score", "propensity", "policy", "task"):
            if getattr(self.columns, name) is not None and not rated:
                raise ValueError(f"columns.{name} is only for type ratings; remove it or set type: ratings")
        for number, row in enumerate(self.source.inline or (), 1):
            if (row.score is not None, row.propensity is not None) != (rated, rated):
                raise ValueError(
                    f"source.inline: row {number}: score and propensity are needed for type ratings and only there; "
                    "add them, remove them or change type"
                )
        return self

    @model_validator(mode="after")
    def _shows_answers(self) -> Self:
        shown = self.type == DEMONSTRATIONS
        for name in OF_DEMONSTRATIONS:
            if getattr(self.columns, name) is not None and not shown:
                raise ValueError(
                    f"columns.{name} is only for type demonstrations; remove it or set type: demonstrations"
                )
        if shown and self.columns.label != LABEL_COLUMN:
            raise ValueError("columns.label is not for type demonstrations; remove it or change type")
        for name in OF_DIALOGUES:
            if getattr(self.columns, name) is not None and self.source.inline is not None:
                raise ValueError(
                    f"columns.{name} is not for source.inline, whose rows have text and response; remove it"
                )
        for number, row in enumerate(self.source.inline or (), 1):
            if (row.response is not None) != shown:
                raise ValueError(
                    f"source.inline: row {number}: response is needed for type demonstrations and only there; add it, "
                    "remove it or change type"
                )
        return self

    @model_validator(mode="after")
    def _inline_rows_of_the_tasks(self) -> Self:
        tasks = self.columns.labels
        for number, row in enumerate(self.source.inline or ()):
            if row.response is None and (row.labels is None) != (tasks is None):
                raise ValueError(
                    f"source.inline[{number}] must have labels if columns.labels is set, and label if it is not; change it"
                )
            for name in row.labels or ():
                if name not in (tasks or {}):
                    raise ValueError(
                        f"source.inline[{number}].labels must name tasks of columns.labels, and {name!r} is none; correct it"
                    )
        return self


class FeedbackDatasetStatus(StatusModel):
    """What the operator found and did."""

    observed_generation: Annotated[
        int,
        Field(default=0, ge=0, le=2**53, description="observedGeneration: the spec generation this status speaks of."),
    ]
    state: Annotated[
        str, Field(default="", max_length=32, description="state: one word for people; conditions are the truth.")
    ]
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            default=(), strict=False, max_length=16, description="conditions: Reconciling, Stalled, Ready, Suspended."
        ),
    ]
    snapshot: Annotated[SnapshotSummary | None, Field(default=None, description="snapshot: the newest snapshot.")]
    snapshot_generation: Annotated[
        int, Field(default=0, ge=0, le=2**53, description="snapshotGeneration: spec generation of the newest snapshot.")
    ]
    snapshot_time: Annotated[
        Timestamp | None, Field(default=None, description="snapshotTime: when the newest snapshot was recorded.")
    ]
    refresh: Annotated[
        RefreshStatus | None, Field(default=None, description="refresh: what became of spec.refresh, once it was set.")
    ]
    observed_refresh: Annotated[
        str,
        Field(
            default="",
            max_length=256,
            description="observedRefresh: value of the ratchet.dev/refresh annotation that the newest snapshot answers.",
        ),
    ]
    target: Annotated[
        str,
        Field(
            default="",
            max_length=64,
            description="target: digest of the sources, rules and refresh value that the recorded attempt works for.",
        ),
    ]
    snapshot_target: Annotated[
        str,
        Field(default="", max_length=64, description="snapshotTarget: the target that the newest snapshot answers."),
    ]
    failed_target: Annotated[
        str,
        Field(
            default="",
            max_length=64,
            description="failedTarget: digest of the spec whose snapshot failed for good; a change of spec or a new refresh value tries again.",
        ),
    ]
    attempt: Annotated[StageAttempt | None, Field(default=None, description="attempt: the running or last attempt.")]
