"""Requests and answers of the policy server.

Decides fields, bounds and names. What is asked of a text is the gateway's own rule for texts, since the gateway is
sent what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from ratchet_api.base import ApiModel, StatusModel
from ratchet_api.feedback import ShortText, Text
from ratchet_api.tasks import TaskName

MAX_TEXTS = 256
"""Texts of one request."""


class _Ask(ApiModel):
    task: Annotated[
        TaskName | None,
        Field(default=None, description="task: one of the policy's tasks. If omitted, all of them are answered."),
    ]
    probabilities: Annotated[
        bool, Field(default=False, description="probabilities: true shows the probability of every class, too.")
    ]
    subject: Annotated[
        ShortText | None,
        Field(
            default=None,
            description="subject: who asks, by any stable id; recorded as a keyed hash; or header x-ratchet-subject.",
        ),
    ]


class AskOne(_Ask):
    """One text."""

    text: Annotated[Text, Field(description="text: to be classified.")]


class AskMany(_Ask):
    """Several texts, answered in their order."""

    texts: Annotated[
        tuple[Text, ...],
        Field(strict=False, min_length=1, max_length=MAX_TEXTS, description=f"texts: 1 to {MAX_TEXTS} of them."),
    ]


class AskInstances(_Ask):
    """Several texts, as KServe's V1 protocol names them."""

    instances: Annotated[
        tuple[Text, ...],
        Field(strict=False, min_length=1, max_length=MAX_TEXTS, description=f"instances: 1 to {MAX_TEXTS} texts."),
    ]

    def as_many(self) -> AskMany:
        """The same as /v1/classify is asked it."""
        return AskMany(texts=self.instances, task=self.task, probabilities=self.probabilities, subject=self.subject)


def _shape(value: Any) -> str:
    if isinstance(value, Mapping):
        return "many" if "texts" in value else "one"
    return "many" if hasattr(value, "texts") else "one"


Ask = Annotated[Annotated[AskOne, Tag("one")] | Annotated[AskMany, Tag("many")], Discriminator(_shape)]
"""Body of POST /v1/classify: `{"text": …}` or `{"texts": […]}`."""


class TaskAnswer(StatusModel):
    """What the policy says about one text in one task."""

    label: Annotated[str, Field(max_length=256, description="label: the likeliest class.")]
    confidence: Annotated[float, Field(ge=0, le=1, description="confidence: its calibrated probability.")]
    abstain: Annotated[
        bool, Field(description="abstain: true where the policy is too unsure to answer; the label is then its guess.")
    ]
    probabilities: Annotated[
        dict[str, float] | None, Field(default=None, description="probabilities: by class, where they were asked for.")
    ]
    interaction_id: Annotated[
        str | None,
        Field(
            default=None,
            max_length=1024,
            description="interactionId: signed, where the server has keys; hand it to whoever may rate the answer.",
        ),
    ]


class TextAnswer(StatusModel):
    """What the policy says about one text: its fields themselves, or by task where there are several."""

    label: Annotated[str | None, Field(default=None, max_length=256, description="label: as in tasks.")]
    confidence: Annotated[float | None, Field(default=None, ge=0, le=1, description="confidence: as in tasks.")]
    abstain: Annotated[bool | None, Field(default=None, description="abstain: as in tasks.")]
    probabilities: Annotated[dict[str, float] | None, Field(default=None, description="probabilities: as in tasks.")]
    interaction_id: Annotated[str | None, Field(default=None, max_length=1024, description="interactionId: likewise.")]
    tasks: Annotated[
        dict[str, TaskAnswer] | None, Field(default=None, description="tasks: of a policy with several, by name.")
    ]


class OneAnswer(TextAnswer):
    """Answer to one text."""

    policy: Annotated[str, Field(max_length=253, description="policy: that answered.")]
    version: Annotated[int | None, Field(default=None, ge=1, le=2**31, description="version: of it, if published.")]


class ManyAnswers(StatusModel):
    """Answer to several texts."""

    policy: Annotated[str, Field(max_length=253, description="policy: that answered.")]
    version: Annotated[int | None, Field(default=None, ge=1, le=2**31, description="version: of it, if published.")]
    results: Annotated[tuple[TextAnswer, ...], Field(strict=False, description="results: in the order of texts.")]


class Predictions(StatusModel):
    """Answer to several texts, as KServe's V1 protocol names them."""

    predictions: Annotated[
        tuple[TextAnswer, ...], Field(strict=False, description="predictions: in the order of instances.")
    ]


class Problem(StatusModel):
    """Answer to a request that was refused."""

    detail: Annotated[str, Field(max_length=4096, description="detail: what was wrong and what to do.")]
