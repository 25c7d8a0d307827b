"""The components of an answer's reward, as `stages.rlhf.rewards` names them.

Decides their types, which field belongs to which, and how one is weighed. What each says is decided in
`ratchet_jobs.rlhf.components`. Pure.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from ratchet_api.base import ApiModel, ColumnPath, Sha256, StoreUri
from ratchet_api.judge import Judge
from ratchet_api.reward_hints import meant_by
from ratchet_api.rl import ENTRY_POINT_PATTERN, CurriculumPoint, PolicyArtifact

AnswerRewardType = Literal[
    "rewardModel",
    "expression",
    "words",
    "safety",
    "length",
    "format",
    "recommendation",
    "itemRatio",
    "empathy",
    "judge",
    "entryPoint",
]
REWARD_MODEL: AnswerRewardType = "rewardModel"

MOST_JUDGES = 4
"""Their prompts travel with the pod, in an annotation."""

ANSWER_REWARD_FIELDS: dict[str, tuple[AnswerRewardType, ...]] = {
    "expression": ("expression",),
    "words": ("words", "safety"),
    "classifier": ("empathy",),
    "judge": ("judge",),
    "entryPoint": ("entryPoint",),
}
"""Field that a reward of these types needs, and no other has a use for."""

OPTIONAL_ANSWER_REWARD_FIELDS: dict[str, tuple[AnswerRewardType, ...]] = {
    "model": ("rewardModel",),
    "minWords": ("length",),
    "maxWords": ("length",),
    "pattern": ("format",),
    "jsonSchema": ("format",),
    "catalogue": ("recommendation", "itemRatio"),
}
"""Field that only rewards of these types have a use for."""


RewardWord = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s!-/:-@\[-^`{-~]+$")]
"""Without blanks and punctuation, which no word that is looked for has."""


class Catalogue(ApiModel):
    """A file of items by name."""

    uri: Annotated[
        StoreUri,
        Field(
            description="uri: the file, as store://PATH or s3://BUCKET/KEY: .txt with a name on each line, or .csv, .jsonl or .parquet with a column."
        ),
    ]
    sha256: Annotated[Sha256, Field(description="sha256: digest that the file must have.")]
    column: Annotated[
        ColumnPath | None,
        Field(default=None, description="column: that holds the name; not for .txt. If omitted, name."),
    ]

    @model_validator(mode="after")
    def _column_of_a_table(self) -> Self:
        if self.column is not None and self.uri.endswith(".txt"):
            raise ValueError("column is not for a .txt file, which has a name on each line; remove it")
        return self


class AnswerReward(ApiModel):
    """One component of an answer's reward; the reward is the weighted sum of all components."""

    type: Annotated[
        AnswerRewardType,
        Field(
            description="type: rewardModel (what the reward-model stage's model says, or the one that model names, 0 to 1), expression (arithmetic over the answer), words (which share of the listed words it says), safety (1 = it says none of the listed words), length (1 = as many words as wanted, less the further off), format (1 = it is what pattern or jsonSchema wants), recommendation (1 / place of the first right item among those it names; of a row that names none, 1 / how many different ones it names), itemRatio (1 = it names an item), empathy (how likely it feels as the one who is answered, as a classifier says) judge (what a language model says, 0 to 1) or entryPoint (what own code in an own image says, 0 to 1)."
        ),
    ]
    name: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=32,
            pattern=r"^[A-Za-z][A-Za-z0-9_]*$",
            description="name: what the component is called in metrics, curves and samples. If omitted, its type.",
        ),
    ]
    weight: Annotated[float, Field(default=1.0, ge=-1000, le=1000, description="weight: factor in the sum; not 0.")]
    curriculum: Annotated[
        tuple[CurriculumPoint, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=16,
            description="curriculum: the weight over the course of training, atInteraction ascending; answers are compared by the weights of its end. If omitted, weight holds throughout.",
        ),
    ]
    model: Annotated[
        PolicyArtifact | None,
        Field(
            default=None,
            description="model: for type rewardModel; a committed reward model, by digest, as status.stages of the run that made it shows it, so that several runs share one. It must stand on the very policy that rl starts from, or on an encoder of its own. If omitted, what the run's own reward-model stage makes.",
        ),
    ]
    expression: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=500,
            description="expression: for type expression; arithmetic over tokens, max_tokens, ended (1 = the answer was not cut), characters, words, distinct and distinct2 (share of different words and pairs of words), distinct_together (likewise, but a word that answers to other prompts of the same rollout say too counts only in part), overlap (share of its different words of four letters and more that the last turn before it says), repetition (share of three-word runs that it has said already), bleu1 and bleu2 (likeness to the row's own answer).",
        ),
    ]
    words: Annotated[
        tuple[RewardWord, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=200,
            description="words: for type words, what an answer should say, or with a negative weight should not; for type safety, what it must not say. Case and punctuation do not matter.",
        ),
    ]
    min_words: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=8192,
            description="minWords: for type length; an answer of fewer words is worth its words / minWords.",
        ),
    ]
    max_words: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=8192,
            description="maxWords: for type length; an answer of more words is worth maxWords / its words.",
        ),
    ]
    pattern: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=1000,
            description="pattern: for type format; regular expression that the whole answer must match.",
        ),
    ]
    json_schema: Annotated[
        str | None,
        Field(
            default=None,
            min_length=2,
            max_length=4000,
            description="jsonSchema: for type format; JSON Schema (draft 2020-12), as JSON, of the JSON that the whole answer must be.",
        ),
    ]
    catalogue: Annotated[
        Catalogue | None,
        Field(
            default=None,
            description="catalogue: for types recommendation and itemRatio; file of the items there are. If omitted, the items that rows of the train split mention (columns.items).",
        ),
    ]
    classifier: Annotated[
        PolicyArtifact | None,
        Field(
            default=None,
            description="classifier: for type empathy; a committed classifier of emotions with one task, by digest.",
        ),
    ]
    judge: Annotated[
        Judge | None,
        Field(default=None, description="judge: for type judge; which language model is asked what about an answer."),
    ]

    entry_point: Annotated[
        str | None,
        Field(
            default=None,
            min_length=3,
            max_length=256,
            pattern=ENTRY_POINT_PATTERN,
            description="entryPoint: for type entryPoint; MODULE:FUNCTION in the run's own image, called with (prompts, answers, rows), which answers with a number from 0 to 1 for each answer.",
        ),
    ]

    @field_validator("type", mode="before")
    @classmethod
    def _type_by_its_name(cls, value: Any) -> Any:
        types = get_args(AnswerRewardType)
        if isinstance(value, str) and value not in types and (meant := meant_by(value, types)) is not None:
            raise ValueError(f"{value!r} is no type of reward; write {meant}")
        return value

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        given = {field.alias: getattr(self, name) for name, field in type(self).model_fields.items()}
        for name, types in ANSWER_REWARD_FIELDS.items():
            if (self.type in types) != (given[name] is not None):
                raise ValueError(
                    f"{name} is needed for type {' and '.join(types)} and only there, type is {self.type}; add it, "
                    "remove it or change type"
                )
        for name, types in OPTIONAL_ANSWER_REWARD_FIELDS.items():
            if self.type not in types and given[name] is not None:
                raise ValueError(
                    f"{name} is only for type {' and '.join(types)}, type is {self.type}; remove it or change type"
                )
        if self.weight == 0:
            raise ValueError("weight must not be 0, or the component says nothing; remove the component instead")
        return self

    @model_validator(mode="after")
    def _one_weight(self) -> Self:
        if self.curriculum is None:
            return self
        if self.weight != 1:
            raise ValueError("weight and curriculum exclude each other; remove one")
        places = [point.at_interaction for point in self.curriculum]
        if places != sorted(set(places)):
            raise ValueError(f"curriculum must ascend in atInteraction, not {places}; put its points in order")
        if not any(point.weight for point in self.curriculum):
            raise ValueError(
                "curriculum weighs 0 throughout, so the component says nothing; remove the component instead"
            )
        return self

    @model_validator(mode="after")
    def _says_what_it_wants(self) -> Self:
        if self.type == "length" and self.min_words is None and self.max_words is None:
            raise ValueError("type length needs minWords or maxWords; add one")
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError(f"minWords {self.min_words} must not be above maxWords {self.max_words}; lower it")
        if self.type == "format" and (self.pattern is None) == (self.json_schema is None):
            raise ValueError("type format needs exactly one of pattern and jsonSchema; add one or remove the other")
        return self

    def cancels(self, other: AnswerReward) -> bool:
        """Whether the two say the same and their weights add up to 0, so that together they say nothing."""
        if self.curriculum is not None or other.curriculum is not None or self.weight + other.weight != 0:
            return False
        alike = {"name": None, "weight": 1.0}
        return self.model_copy(update=alike) == other.model_copy(update=alike)

    @property
    def called(self) -> str:
        """What it is called in metrics."""
        return self.name or self.type


REWARD_MODEL_ALONE = (AnswerReward(type=REWARD_MODEL),)
"""The rewards where none are named."""
