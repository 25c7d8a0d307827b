"""How a policy that RL trained is held against the one it started from, and what came of it.

Decides the fields and bounds of `spec.evaluation.comparison` and of the choice in a stage's result. Pure; the numbers
are made by the evaluate stage, which also chooses; the operator acts on the choice.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, LabelName, StatusModel

CHOICE_LIMIT = 400
"""Characters of the reason for a choice: it travels in the termination message."""


class Slice(ApiModel):
    """Rows of one class, on which the RL policy must not be worse either."""

    label: Annotated[LabelName, Field(description="label: the class; its accuracy is that on the rows that are of it.")]
    margin: Annotated[
        float, Field(default=0.0, ge=0, le=1, description="margin: the largest loss of accuracy that is tolerated.")
    ]


class Comparison(ApiModel):
    """When the RL policy is kept: the interval of each difference must lie above the tolerated loss."""

    confidence: Annotated[
        float,
        Field(
            default=0.95,
            ge=0.5,
            le=0.999,
            description="confidence: of the two-sided interval of each difference, by paired bootstrap on the test split.",
        ),
    ]
    margin: Annotated[
        float,
        Field(
            default=0.0,
            ge=0,
            le=1,
            description="margin: the largest loss of accuracy and of macro_f1, or of a generator's mean reward, that is tolerated; the interval's lower end must not lie below minus this. With 0 only a policy that is better beyond chance, or answers alike, is kept.",
        ),
    ]
    resamples: Annotated[
        int,
        Field(default=2000, ge=100, le=100_000, description="resamples: of the bootstrap; more give steadier ends."),
    ]
    slices: Annotated[
        tuple[Slice, ...],
        Field(
            default=(),
            strict=False,
            max_length=32,
            description="slices: classes on whose rows the RL policy must not be worse either, each with its own margin.",
        ),
    ]

    @model_validator(mode="after")
    def _slices_once(self) -> Self:
        labels = [each.label for each in self.slices]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"slices must not name a class twice, and {label!r} is; remove one")
        return self


class Choice(StatusModel):
    """Which of the policies that were compared was committed, and why."""

    candidate: Annotated[str, Field(max_length=32, description="candidate: the policy that was judged, rl.")]
    baseline: Annotated[
        str, Field(max_length=32, description="baseline: what it was held against: supervised or start.")
    ]
    chosen: Annotated[str, Field(max_length=32, description="chosen: the one that was committed.")]
    why: Annotated[str, Field(default="", max_length=CHOICE_LIMIT, description="why: the numbers that decided.")]
