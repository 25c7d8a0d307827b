"""What people and applications say about answers: the events of the feedback API, and the answers of the API itself.

Decides fields, bounds and which texts are refused, and how a rating, a thumb and a score become one number. Never
decides who may send an event or where it is kept. Used by the gateway (requests, OpenAPI), the client and the CLI;
whoever reads the log finds the same field names there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from ratchet_api.base import ApiModel, LabelName, MetricValue, ObjectName, StatusModel, Timestamp
from ratchet_api.generation import KeptGeneration

MAX_BATCH = 1000
"""Events of one request."""
MAX_TEXT = 32_768
"""Characters of a prompt, a response or a correction."""
MIN_TRAIN_SAMPLES = 10
"""Events that rate or correct an answer of a policy, below which training is refused."""
GOOD_SCORE = 0.75
"""From which an answer counts as right: that of four stars."""
SAMPLE_TAG = "sample"
"""Tag of answers that were copied from an evaluation to be compared; an erasure looks into them for quotations."""

# Tab, line feed and carriage return are text; the other controls (C0, DEL, C1) have no business in it.
_PRINTABLE = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"
_VISIBLE = r"^[!-~]+$"
PATTERNS: Mapping[str, str] = {
    _PRINTABLE: "has control characters; take them out (tabs and line breaks may stay)",
    _VISIBLE: "has blanks or other than ASCII characters; take them out",
}
"""What a text that does not match one of the patterns is told."""


def _integral(value: Any) -> Any:
    """JSON knows one kind of number: 4.0 is the integer 4."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("is blank; write text, or leave the event out")
    return value


Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=_PRINTABLE)]
Words = Annotated[Text, AfterValidator(_not_blank)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=_PRINTABLE)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_PRINTABLE)]
Token = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_VISIBLE)]
TagName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._/-]+$")]
Stars = Annotated[int, Field(ge=1, le=5), BeforeValidator(_integral)]
Propensity = Annotated[float, Field(gt=0, le=1)]
VersionNumber = Annotated[int, Field(ge=1, le=2**31), BeforeValidator(_integral)]
ExperimentId = Annotated[str, StringConstraints(min_length=16, max_length=16, pattern=r"^[0-9a-f]{16}$")]
EventId = Annotated[str, StringConstraints(min_length=32, max_length=32, pattern=r"^[0-9a-f]{32}$")]
Steps = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_integral)]
Losses = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_integral)]

SCORE_BANDS = "0.8-1.0 excellent, 0.6-0.8 good, 0.4-0.6 fair, 0.2-0.4 poor, 0.0-0.2 unusable"


class _Event(ApiModel):
    """What every event may carry."""

    policy: Annotated[
        ObjectName | None,
        Field(default=None, description="policy: the RLPolicy that answered. If omitted, the interaction id names it."),
    ]
    interaction_id: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=1024,
            pattern=_VISIBLE,
            description="interactionId: the signed id that came with the answer (header x-ratchet-interaction, or the answer of POST /v1/interactions). One event of each type counts per interaction.",
        ),
    ]
    subject: Annotated[
        ShortText | None,
        Field(default=None, description="subject: who says it, by any stable id. Stored only as a keyed hash."),
    ]
    version: Annotated[
        VersionNumber | None,
        Field(default=None, description="version: that answered. A signed interaction id overrides it."),
    ]
    tags: Annotated[
        dict[TagName, ShortText],
        Field(
            default_factory=dict,
            max_length=16,
            json_schema_extra={"additionalProperties": False},  # names of another pattern are refused, not ignored
            description="tags: at most 16 names and values, kept as they are.",
        ),
    ]
    idempotency_key: Annotated[
        Token | None,
        Field(
            default=None,
            description="idempotencyKey: sending the same event with the same key again stores it once; another body with the same key is refused with 409.",
        ),
    ]
    timestamp: Annotated[
        Timestamp | None,
        Field(default=None, description="timestamp: when it happened, by the sender's clock; decides nothing."),
    ]


class _Feedback(_Event):
    prompt: Annotated[Text | None, Field(default=None, description="prompt: what was asked.")]
    response: Annotated[Text | None, Field(default=None, description="response: what was answered.")]
    run_id: Annotated[ShortText | None, Field(default=None, description="runId: the caller's own id of the exchange.")]
    notes: Annotated[Note | None, Field(default=None, description="notes: for people; never trained on.")]
    supersedes: Annotated[
        EventId | None,
        Field(
            default=None,
            description="supersedes: id of an earlier event, as its answer gave it, that counts no longer; only whoever sent it can take it back.",
        ),
    ]


class _Rateable(_Feedback):
    rating: Annotated[Stars | None, Field(default=None, description="rating: 1 to 5 stars, where they were given too.")]


class Thumb(_Rateable):
    """A thumb, up or down."""

    type: Annotated[Literal["thumbs_up", "thumbs_down"], Field(description="type: which way.")]


class Rating(_Feedback):
    """One to five stars."""

    type: Annotated[Literal["rating"], Field(description="type: rating.")]
    rating: Annotated[Stars, Field(description="rating: 1 (worst) to 5 (best).")]


class Score(_Feedback):
    """A number between 0 and 1."""

    type: Annotated[Literal["score"], Field(description="type: score.")]
    score: Annotated[float, Field(ge=0, le=1, description=f"score: {SCORE_BANDS}.")]


class Correction(_Rateable):
    """What the answer should have been: better than the response, and an example to follow."""

    type: Annotated[Literal["correction"], Field(description="type: correction.")]
    correction: Annotated[Words, Field(description="correction: the better answer, or the right label.")]


class Preference(_Feedback):
    """Which of two answers is better."""

    type: Annotated[Literal["preference"], Field(description="type: preference.")]
    chosen: Annotated[Words, Field(description="chosen: the better answer.")]
    rejected: Annotated[Words, Field(description="rejected: the other one.")]

    @model_validator(mode="after")
    def _two_answers(self) -> Self:
        if self.chosen == self.rejected:
            raise ValueError("preference: chosen and rejected are the same text; send two different answers")
        return self


class Comment(_Rateable):
    """Words without a verdict."""

    type: Annotated[Literal["comment"], Field(description="type: comment.")]
    comment: Annotated[Words, Field(description="comment: what was said.")]


class MetricEvent(_Feedback):
    """A number that the application measured: seconds to resolution, a sale, a click."""

    type: Annotated[Literal["metric"], Field(description="type: metric.")]
    name: Annotated[TagName, Field(description="name: of the metric.")]
    value: Annotated[float, Field(ge=-1e12, le=1e12, description="value: finite.")]


class Undo(_Event):
    """An earlier event is taken back, and nothing is said instead."""

    type: Annotated[Literal["undo"], Field(description="type: undo.")]
    supersedes: Annotated[
        EventId,
        Field(description="supersedes: id of the event, as its answer gave it; only whoever sent it can take it back."),
    ]


Feedback = Annotated[
    Thumb | Rating | Score | Correction | Preference | Comment | MetricEvent | Undo, Field(discriminator="type")
]
FEEDBACK_TYPES = (
    "thumbs_up",
    "thumbs_down",
    "rating",
    "score",
    "correction",
    "preference",
    "comment",
    "metric",
    "undo",
)


class FeedbackBatch(ApiModel):
    """Several events; all of them are stored or none."""

    events: Annotated[
        tuple[Feedback, ...],
        Field(strict=False, min_length=1, max_length=MAX_BATCH, description="events: 1 to 1000 of them."),
    ]


def _shape(value: Any) -> str:
    if isinstance(value, Mapping):
        return "batch" if "events" in value else "single"
    return "batch" if hasattr(value, "events") else "single"


FeedbackBody = Annotated[
    Annotated[Feedback, Tag("single")] | Annotated[FeedbackBatch, Tag("batch")],
    Discriminator(_shape),
]
"""Body of POST /v1/feedback: one event, or `{"events": [...]}`."""


class PolicyFeedback(ApiModel):
    """Body of POST /api/policies/feedback/{policy}: a prompt, a response and a score."""

    prompt: Annotated[Text, Field(description="prompt: what was asked.")]
    response: Annotated[Text, Field(description="response: what was answered.")]
    score: Annotated[float, Field(ge=0, le=1, description=f"score: {SCORE_BANDS}.")]
    run_id: Annotated[ShortText | None, Field(default=None, description="runId: the caller's own id of the exchange.")]
    notes: Annotated[Note | None, Field(default=None, description="notes: for people; never trained on.")]
    subject: Annotated[
        ShortText | None, Field(default=None, description="subject: who says it; stored only as a keyed hash.")
    ]
    idempotency_key: Annotated[
        Token | None, Field(default=None, description="idempotencyKey: as in POST /v1/feedback.")
    ]

    def as_event(self, policy: str) -> Score:
        """Return the same thing as a typed event."""
        return Score(type="score", policy=policy, **self.model_dump(exclude_none=True))


class Pair(ApiModel):
    """Names a text that two versions were asked, so that what they answered can be compared."""

    experiment: Annotated[ExperimentId, Field(description="experiment: id of the trial, as the router says.")]
    request: Annotated[
        EventId, Field(description="request: 32 hex digits that name the text; the same for both versions.")
    ]
    shadow: Annotated[bool, Field(description="shadow: true for the version whose answer nobody got.")]
    milliseconds: Annotated[float, Field(ge=0, le=1e9, description="milliseconds: that the server took to answer.")]


class Interaction(_Event):
    """One answer that a policy gave, so that feedback can be joined to it."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name]} for name in ("response", "label", "failed")]}
    )

    input: Annotated[Text, Field(description="input: what was asked. Kept at the gateway's collectionRate.")]
    response: Annotated[Text | None, Field(default=None, description="response: the text that was answered.")]
    label: Annotated[LabelName | None, Field(default=None, description="label: the class that was answered.")]
    probabilities: Annotated[
        dict[LabelName, Annotated[float, Field(ge=0, le=1)]],
        Field(default_factory=dict, max_length=512, description="probabilities: of the classes, by name."),
    ]
    arm: Annotated[
        Literal["champion", "canary", "control"] | None,
        Field(default=None, description="arm: of the experiment, where there is one."),
    ]
    assignment_propensity: Annotated[
        Propensity | None, Field(default=None, description="assignmentPropensity: probability of this arm.")
    ]
    action_propensity: Annotated[
        Propensity | None, Field(default=None, description="actionPropensity: probability of this answer in its arm.")
    ]
    experiment: Annotated[
        ExperimentId | None,
        Field(
            default=None,
            description="experiment: id of the trial, as the router says. A signed interaction id overrides it.",
        ),
    ]
    abstained: Annotated[
        bool | None,
        Field(default=None, description="abstained: whether the policy left the decision to somebody else."),
    ]
    failed: Annotated[
        Literal[True] | None,
        Field(
            default=None,
            description="failed: true when the policy gave no answer, such as a status of 500. No texts are kept of it.",
        ),
    ]
    milliseconds: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            le=1e9,
            description="milliseconds: that the answer took in its server; of a text that is generated, its first token.",
        ),
    ]
    pair: Annotated[
        Pair | None,
        Field(
            default=None,
            description="pair: what was answered beside another version. Kept without texts and subject; it is nobody's interaction, and no feedback may cite it.",
        ),
    ]
    recorder: Annotated[
        ExperimentId | None,
        Field(default=None, description="recorder: 16 hex digits that name the process which answered."),
    ]
    dropped: Annotated[
        Losses | None,
        Field(
            default=None,
            description="dropped: how many interactions of this experiment that process had lost by then. A loss makes the verdict on a rollout hold.",
        ),
    ]

    @model_validator(mode="after")
    def _answered(self) -> Self:
        if self.response is None and self.label is None and self.failed is None:
            raise ValueError("interaction: has neither response nor label nor failed; send what the policy answered")
        if (self.dropped is None) != (self.recorder is None):
            raise ValueError("interaction: has one of dropped and recorder; send both, or none")
        if self.pair is not None and (self.policy is None or self.interaction_id is not None):
            raise ValueError("interaction: has a pair; name the policy that answered, and no interactionId")
        if self.pair is not None and self.label is None and self.failed is None:
            raise ValueError("interaction: has a pair and neither label nor failed; only classes are compared")
        if self.policy is None and self.interaction_id is None:
            raise ValueError("interaction: has neither policy nor interactionId; name the policy that answered")
        return self


class InteractionBatch(ApiModel):
    """Several interactions; all of them are stored or none."""

    events: Annotated[
        tuple[Interaction, ...],
        Field(strict=False, min_length=1, max_length=MAX_BATCH, description="events: 1 to 1000 of them."),
    ]


InteractionBody = Annotated[
    Annotated[Interaction, Tag("single")] | Annotated[InteractionBatch, Tag("batch")],
    Discriminator(_shape),
]
"""Body of POST /v1/interactions: one interaction, or `{"events": [...]}`."""


class Stored(StatusModel):
    """One event is in the log, on durable storage."""

    id: Annotated[str, Field(max_length=64, description="id: of the event; the same for every retry.")]
    duplicate: Annotated[
        bool, Field(default=False, description="duplicate: true when this very event had been stored before.")
    ]


class FeedbackAnswer(StatusModel):
    """Answer to one event, or to a dry run of it."""

    status: Annotated[Literal["stored", "dry_run"], Field(description="status: a dry run stores nothing.")]
    events: Annotated[tuple[Stored, ...], Field(strict=False, description="events: in the order they were sent.")]


class InteractionStored(Stored):
    """One interaction is in the log."""

    interaction_id: Annotated[
        str,
        Field(
            max_length=1024,
            description="interactionId: signed; hand it to whoever may rate the answer. Empty for a pair.",
        ),
    ]
    collected: Annotated[
        bool, Field(description="collected: whether texts were kept too, or the exposure alone (collectionRate).")
    ]


class InteractionAnswer(StatusModel):
    """Answer to POST /v1/interactions."""

    events: Annotated[
        tuple[InteractionStored, ...], Field(strict=False, description="events: in the order they were sent.")
    ]


class TrainRequest(ApiModel):
    """Body of POST /api/policies/train_policy/{policy}."""

    dry_run: Annotated[
        bool,
        Field(default=False, description="dryRun: true answers what a run would be and starts nothing."),
    ]
    max_steps: Annotated[
        Steps | None,
        Field(default=None, description="maxSteps: no more optimizer steps of the supervised stage than this."),
    ]
    learning_rate: Annotated[
        float | None,
        Field(
            default=None, gt=0, le=1, description="learningRate: of the supervised stage, instead of the template's."
        ),
    ]

    max_subject_share_percent: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=100,
            description="maxSubjectSharePercent: nobody gives more than this share of the rows that are trained on. If omitted, twice an equal part, 10 at least.",
        ),
    ]
    labels: Annotated[
        tuple[LabelName, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=2,
            max_length=1000,
            json_schema_extra={"uniqueItems": True},
            description="labels: of a classifier, the closed list of classes; a correction that names another is left out. If omitted, every class that somebody named.",
        ),
    ]

    @model_validator(mode="after")
    def _each_class_once(self) -> Self:
        found = set(self.labels or ())
        if len(found) < len(self.labels or ()):
            twice = next(label for label in found if (self.labels or ()).count(label) > 1)
            raise ValueError(f"labels must not repeat a class: {twice!r} stands there twice; remove one")
        return self


class TrainModel(StatusModel):
    """What would be trained."""

    model_config = ConfigDict(alias_generator=None)

    base_model: Annotated[str, Field(max_length=1024, description="base_model: URI of the pretrained model.")]
    use_lora: Annotated[bool, Field(description="use_lora: whether adapters are trained.")]
    learning_rate: Annotated[float, Field(gt=0, le=1, description="learning_rate: at its peak.")]


class TrainEstimate(StatusModel):
    """Answer to a dry run of training."""

    status: Annotated[Literal["dry_run"], Field(description="status: nothing was started.")]
    feedback_count: Annotated[
        int, Field(ge=0, le=2**53, description="feedbackCount: events that rate or correct an answer of the policy.")
    ]
    estimated_steps: Annotated[int, Field(ge=0, le=2**53, description="estimatedSteps: optimizer steps of all stages.")]
    estimated_time_minutes: Annotated[
        float, Field(ge=0, le=1e9, description="estimatedTimeMinutes: on two CPU cores; rough.")
    ]
    score_mean: Annotated[float, Field(ge=0, le=1, description="scoreMean: of the rated events.")]
    score_std: Annotated[float, Field(ge=0, le=1, description="scoreStd: of the rated events.")]
    model: Annotated[TrainModel, Field(alias="modelConfig", description="modelConfig: what would be trained.")]


class VersionView(StatusModel):
    """One version in the answer of GET /api/policies/{policy}."""

    version: VersionNumber
    metrics: Annotated[
        dict[Annotated[str, Field(max_length=64)], MetricValue],
        Field(description="metrics: measured on held-out data, such as rewardMean or macroF1."),
    ]
    run: Annotated[str, Field(max_length=253, description="run: the RLTrainingRun that made it.")]
    published: Annotated[Timestamp, Field(description="published: when.")]
    generation: Annotated[
        KeptGeneration | None,
        Field(
            default=None,
            description="generation: how it answers where a request says nothing; missing = as it was trained.",
        ),
    ]
    variant_of: Annotated[
        VersionNumber | None,
        Field(
            default=None, description="variantOf: version with whose files it answers otherwise; missing = a run's own."
        ),
    ]


class FeedbackStats(StatusModel):
    """Answer to GET /api/policies/{policy}/feedback: what is in the log about a policy, each event once."""

    policy: ObjectName
    events: Annotated[int, Field(ge=0, le=2**53, description="events: of feedback.")]
    by_type: Annotated[dict[str, int], Field(description="byType: events by type.")]
    rated: Annotated[int, Field(ge=0, le=2**53, description="rated: events that score the answer.")]
    score_mean: Annotated[float | None, Field(default=None, ge=0, le=1, description="scoreMean: of the rated ones.")]
    score_std: Annotated[float | None, Field(default=None, ge=0, le=1, description="scoreStd: of the rated ones.")]
    subjects: Annotated[int, Field(ge=0, le=2**53, description="subjects: different ones that gave feedback.")]
    largest_share: Annotated[
        float | None,
        Field(
            default=None, ge=0, le=1, description="largestShare: of the busiest subject in the events that name one."
        ),
    ]
    interactions: Annotated[int, Field(ge=0, le=2**53, description="interactions: recorded answers.")]
    newest: Annotated[str | None, Field(default=None, max_length=32, description="newest: last event's arrival.")]


class FeedbackCount(StatusModel):
    """Answer to GET /api/policies/{policy}/feedback/count: how much is new."""

    policy: ObjectName
    since: Annotated[Timestamp, Field(description="since: as asked.")]
    events: Annotated[
        int, Field(ge=0, le=2**53, description="events: of feedback that arrived later, stored retries included.")
    ]


class Problem(StatusModel):
    """Answer to a request that was refused."""

    detail: Annotated[str, Field(max_length=4096, description="detail: what was wrong and what to do.")]


def score_of(event: Mapping[str, Any]) -> float | None:
    """Return what a stored event says about the answer, 0 (bad) to 1 (good), or None when it says nothing.

    Stars given with a thumb, a correction or a comment count before the thumb. A correction, a comment, a preference
    and a metric alone say nothing about the answer as a whole.
    """
    if (score := event.get("score")) is not None:
        return float(score)
    if (rating := event.get("rating")) is not None:
        return (float(rating) - 1.0) / 4.0
    return {"thumbs_up": 1.0, "thumbs_down": 0.0}.get(str(event.get("type")))
