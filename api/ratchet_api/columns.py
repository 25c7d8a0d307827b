"""How rows of a dataset look: which column of a file holds what, and rows that stand in the manifest itself.

Decides the fields and bounds of both. Which of them fit which type of dataset is said by `feedback_dataset`, which
calls this.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, ColumnPath, LabelName, NullsAreAbsent
from ratchet_api.tasks import MAX_TASKS, TaskName

TEXT_COLUMN = "text"
LABEL_COLUMN = "label"
OF_DIALOGUES = ("messages", "turns", "items", "emotion")
"""Columns that a file of dialogues may have, and no inline row."""
OF_DEMONSTRATIONS = ("response", *OF_DIALOGUES)
"""Columns of type demonstrations alone."""


class InlineRow(ApiModel):
    """One example written in the manifest itself."""

    text: Annotated[str, Field(min_length=1, max_length=8192, description="text: the example's text.")]
    label: Annotated[
        LabelName | None,
        Field(default=None, description="label: the example's class; in type ratings the class answered."),
    ]
    response: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=8192,
            description="response: for type demonstrations, in place of label: the answer to the text.",
        ),
    ]
    labels: Annotated[
        Annotated[dict[TaskName, LabelName], Field(max_length=MAX_TASKS), NullsAreAbsent] | None,
        Field(
            default=None,
            description="labels: the example's class per task, in place of label, if spec.columns.labels names tasks. A task that is left out is not trained or measured on this example.",
        ),
    ]
    group: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=256,
            description="group: rows of one group never part across splits. If omitted, the text is its own group.",
        ),
    ]
    score: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            le=1,
            description="score: for type ratings; how good people found the answer, from 0 = wrong to 1 = right.",
        ),
    ]
    propensity: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1,
            description="propensity: for type ratings; the probability with which the answer was chosen.",
        ),
    ]

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> Self:
        if sum((self.label is not None, bool(self.labels), self.response is not None)) != 1:
            raise ValueError("exactly one of label, labels and response must be set; remove one or add the missing one")
        return self

    @property
    def size(self) -> int:
        """Bytes of its text, of its response and of its labels by task."""
        said = self.labels or {}
        return (
            len(self.text.encode())
            + len((self.response or "").encode())
            + sum(len(f"{task}{label}".encode()) for task, label in said.items())
        )


class Columns(ApiModel):
    """Which column holds what; dotted paths reach into nested objects."""

    text: Annotated[
        ColumnPath,
        Field(default=TEXT_COLUMN, description="text: column of the text; in type demonstrations of the prompt."),
    ]
    label: Annotated[
        ColumnPath,
        Field(default=LABEL_COLUMN, description="label: column of the class; only without labels."),
    ]
    labels: Annotated[
        Annotated[dict[TaskName, ColumnPath], Field(max_length=MAX_TASKS), NullsAreAbsent] | None,
        Field(
            default=None,
            description="labels: column of the class per task, in place of label: one encoder then learns a head for each. A row may lack the labels of some tasks, and a file their columns. Elsewhere a class is called TASK/LABEL.",
        ),
    ]
    response: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="response: for type demonstrations; column of the answer to follow. If omitted, response.",
        ),
    ]
    messages: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="messages: for type demonstrations, in place of text and response; column of a dialogue as a list of objects with role (system, user or assistant) and content. The last turn is the assistant's and the answer to follow.",
        ),
    ]
    turns: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="turns: for type demonstrations, in place of text; column of what was said before the response: a list of texts, by two people in turn, of whom the second is the assistant and answers next, or of objects as in messages. Needs group, which names the dialogue.",
        ),
    ]
    items: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="items: for type demonstrations; column of the items that the response mentions: a name or a list of names. Rewards of type recommendation and itemRatio hold answers against them. If omitted, no row says.",
        ),
    ]
    emotion: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="emotion: for type demonstrations; column of what the one who is answered feels: a class of the classifier that a reward of type empathy asks. If omitted, the classifier is asked about the last turn.",
        ),
    ]
    group: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="group: column whose equal values never part across splits. If omitted, equal texts form a group.",
        ),
    ]
    subject: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="subject: column of the person the row comes from, for filters.maxSubjectSharePercent. Only a hash is kept.",
        ),
    ]
    timestamp: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="timestamp: column of the row's time (RFC 3339, or seconds since 1970), for filters.maxAgeDays and freshness.",
        ),
    ]
    score: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="score: for type ratings; column of what people said of the answer, a number from 0 = wrong to 1 = right, or true and false. If omitted, score.",
        ),
    ]
    propensity: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="propensity: for type ratings; column of the probability with which the answer was chosen, above 0 and at most 1. If omitted, propensity.",
        ),
    ]
    policy: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="policy: for type ratings; column of the policy that answered, as NAME or NAME@VERSION; a run refuses the log of another policy than its own. If omitted, nobody checks.",
        ),
    ]
    task: Annotated[
        ColumnPath | None,
        Field(
            default=None,
            description="task: for type ratings; column of the task that the answer was to, where the policy has several: the class is then TASK/LABEL. If omitted, label holds the whole name.",
        ),
    ]

    @model_validator(mode="after")
    def _messages_or_text(self) -> Self:
        if self.messages is not None and (self.text != TEXT_COLUMN or self.response is not None):
            raise ValueError("messages stands in place of text and response; remove them or messages")
        return self

    @model_validator(mode="after")
    def _turns_of_a_dialogue(self) -> Self:
        if self.turns is None:
            return self
        if self.messages is not None or self.text != TEXT_COLUMN:
            raise ValueError("turns stands in place of text and messages; remove them or turns")
        if self.group is None:
            raise ValueError("turns needs group; name the column of the dialogue, whose rows never part across splits")
        return self

    @model_validator(mode="after")
    def _label_or_labels(self) -> Self:
        if self.labels is None:
            return self
        if self.label != LABEL_COLUMN:
            raise ValueError("label and labels exclude each other; remove label")
        if len(self.labels) < 2:
            raise ValueError("labels must name at least two tasks; for one, set label")
        return self

    @property
    def task_names(self) -> tuple[str, ...] | None:
        """Names of the tasks in the order of the label map; None = one task without a name."""
        return None if self.labels is None else tuple(sorted(self.labels))

    @property
    def label_paths(self) -> dict[str, str]:
        """Column of the class per task; a task without a name is called by the empty string."""
        return {"": self.label} if self.labels is None else {name: self.labels[name] for name in sorted(self.labels)}
