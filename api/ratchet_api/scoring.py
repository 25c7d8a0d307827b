"""Scoring of a data set: a judge gives each response of it a number, and one for each named quality.

Decides the fields of `FeedbackDataset.spec.scoring` and the names of the columns that its numbers become. Knows nothing
of HTTP or files; the snapshot recipes ask the judge through `ratchet_jobs.judging.scoring`. Pure.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from ratchet_api.judge import Judge

SCORED_TYPES: Final = ("demonstrations", "ratings")
"""Types of data sets whose rows hold one response."""
SCORE: Final = "score"
"""What a judge's number for the whole response is called."""
MOST_QUALITIES: Final = 8

QualityName = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")]


class Scoring(Judge):
    """A judge that gives each response of a data set numbers."""

    qualities: Annotated[
        tuple[QualityName, ...],
        Field(
            default=(),
            strict=False,
            max_length=MOST_QUALITIES,
            json_schema_extra={"uniqueItems": True},
            description="qualities: further numbers that the judge gives a response, such as empathy or fluency, within the same range. With any the prompt must name score and each of them, since the judge then has to answer with a JSON object that has all of them.",
        ),
    ]
    max_failure_percent: Annotated[
        float,
        Field(
            default=5.0,
            ge=0,
            le=100,
            description="maxFailurePercent: of the responses, of which the first hundred count as a hundred; the snapshot fails once more of them stay without usable numbers. Below it such a response stays in the snapshot without numbers.",
        ),
    ]

    @property
    def names(self) -> tuple[str, ...]:
        """What the judge gives numbers for: the whole response first, then each quality."""
        return (SCORE, *self.qualities)

    @model_validator(mode="after")
    def _asks_for_each_quality(self) -> Self:
        for place, name in enumerate(self.qualities):
            if name == SCORE:
                raise ValueError(f"qualities must not hold {SCORE!r}, which is always asked for; remove it")
            if name in self.qualities[:place]:
                raise ValueError(f"qualities must not repeat a name: {name!r} stands there twice; remove one")
        for name in self.names if self.qualities else ():
            if name not in self.prompt:
                raise ValueError(
                    f"prompt must name {name!r}, or the judge cannot give it in its JSON object; add it to the prompt"
                )
        return self


def scored_column(name: str) -> str:
    """Return the column of a snapshot that holds the judge's numbers of this name, from 0 to 1."""
    return f"judged/{name}"
