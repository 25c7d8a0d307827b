"""How a generator learns from rewards: the reward-model stage and the rl stage of language models.

Decides the fields, bounds and cross-field rules of `stages.rewardModel` and `stages.rlhf`. A classifier's rl stage has
settings of its own (`rl`), since hardly a field means the same for both. Pure; the formulas are in `ratchet_jobs.rlhf`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, ObjectRef
from ratchet_api.placement import Resources

AnswerRewardType = Literal["rewardModel", "expression", "words"]
REWARD_MODEL: AnswerRewardType = "rewardModel"

OnlineAlgorithm = Literal["ppo", "grpo", "rloo"]
GROUPED: tuple[OnlineAlgorithm, ...] = ("grpo", "rloo")
"""Algorithms that hold several answers to one prompt against one another and have no value model."""

ONLINE_FIELDS: dict[str, tuple[OnlineAlgorithm, ...]] = {
    "groupSize": GROUPED,
    "valueLearningRate": ("ppo",),
    "clipRangeValue": ("ppo",),
    "vfCoef": ("ppo",),
    "gamma": ("ppo",),
    "lam": ("ppo",),
}
"""Field that not every algorithm has a use for, and the algorithms that have."""

GROUP_SIZE = 4
"""groupSize where it is omitted and acts."""

VALUE_LEARNING_RATE = 1e-3
"""valueLearningRate where it is omitted and acts."""

CLIP_RANGE_VALUE = 0.2
"""clipRangeValue where it is omitted and acts."""

VF_COEF = 0.1
"""vfCoef where it is omitted and acts."""

GAMMA = 1.0
"""gamma where it is omitted and acts."""

LAM = 0.95
"""lam where it is omitted and acts."""


class RewardModelStage(ApiModel):
    """Settings of the reward-model stage: a model of what people think of an answer, from 0 to 1."""

    dataset_ref: Annotated[
        ObjectRef,
        Field(
            description="datasetRef: a FeedbackDataset of type preferences (a better and a worse answer) or ratings (an answer and its score) that says what people thought of answers."
        ),
    ]
    epochs: Annotated[int, Field(default=3, ge=1, le=1000, description="epochs: passes over the rows to learn from.")]
    batch_size: Annotated[
        int, Field(default=8, ge=1, le=4096, description="batchSize: rows per optimizer step; a pair is one row.")
    ]
    learning_rate: Annotated[
        float, Field(default=2e-4, gt=0, le=1, description="learningRate: of the adapter, at its peak.")
    ]
    head_learning_rate: Annotated[
        float, Field(default=2e-3, gt=0, le=1, description="headLearningRate: of the head, at its peak.")
    ]
    warmup_ratio: Annotated[
        float,
        Field(
            default=0.1, ge=0, le=1, description="warmupRatio: share of the steps over which the learning rates rise."
        ),
    ]
    max_grad_norm: Annotated[
        float, Field(default=1.0, gt=0, le=1000, description="maxGradNorm: gradients are clipped to this norm.")
    ]
    held_out_percent: Annotated[
        float,
        Field(
            default=20.0,
            ge=1,
            le=90,
            description="heldOutPercent: of the prompts of the train split; they calibrate the model and measure it.",
        ),
    ]
    lora_rank: Annotated[int, Field(default=16, ge=1, le=256, description="loraRank: of the reward model's adapter.")]
    lora_dropout: Annotated[
        float, Field(default=0.05, ge=0, le=0.9, description="loraDropout: on the adapter's input.")
    ]
    checkpoint_every_steps: Annotated[
        int,
        Field(
            default=100,
            ge=1,
            le=1_000_000,
            description="checkpointEverySteps: optimizer steps between checkpoints; a preemption loses at most this many.",
        ),
    ]
    resources: Annotated[
        Resources, Field(default=Resources(cpu=2, memory_gi=6), description="resources: of the stage's pod.")
    ]


RewardWord = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s!-/:-@\[-^`{-~]+$")]
"""Without blanks and punctuation, which no word that is looked for has."""


class AnswerReward(ApiModel):
    """One component of an answer's reward; the reward is the weighted sum of all components."""

    type: Annotated[
        AnswerRewardType,
        Field(
            description="type: rewardModel (what the reward-model stage's model says, 0 to 1), expression (arithmetic over the answer) or words (which share of the listed words it says)."
        ),
    ]
    weight: Annotated[float, Field(default=1.0, ge=-1000, le=1000, description="weight: factor in the sum; not 0.")]
    expression: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=500,
            description="expression: for type expression; arithmetic over tokens, max_tokens, ended (1 = the answer was not cut), characters, words, distinct and distinct2 (share of different words and pairs of words), repetition (share of three-word runs that it has said already), bleu1 and bleu2 (likeness to the row's own answer).",
        ),
    ]
    words: Annotated[
        tuple[RewardWord, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=200,
            description="words: for type words; what an answer should say, or with a negative weight should not. Case and punctuation do not matter.",
        ),
    ]

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if (self.type == "expression") != (self.expression is not None):
            raise ValueError(
                f"expression is needed for type expression and only there, type is {self.type}; add it, remove it or "
                "change type"
            )
        if (self.type == "words") != (self.words is not None):
            raise ValueError(
                f"words is needed for type words and only there, type is {self.type}; add it, remove it or change type"
            )
        if self.weight == 0:
            raise ValueError("weight must not be 0, or the component says nothing; remove the component instead")
        return self


class RlhfStage(ApiModel):
    """Settings of a generator's rl stage on answers that it draws. A step is one rollout and the update on it."""

    algorithm: Annotated[
        OnlineAlgorithm,
        Field(
            default="ppo",
            description="algorithm: ppo = a value model judges every token; grpo and rloo = groupSize answers to one prompt are held against one another, by their deviation (arXiv:2402.03300) or by the mean of the others (arXiv:2402.14740).",
        ),
    ]
    group_size: Annotated[
        int | None,
        Field(
            default=None,
            ge=2,
            le=1024,
            description="groupSize: for algorithms grpo and rloo; answers drawn to each prompt of a rollout. If omitted, 4.",
        ),
    ]
    interactions: Annotated[
        int,
        Field(
            default=2048,
            ge=1,
            le=10_000_000,
            description="interactions: answers drawn and rewarded in all, rounded up to whole rollouts.",
        ),
    ]
    rollout_size: Annotated[
        int, Field(default=32, ge=2, le=65_536, description="rolloutSize: answers drawn between two updates.")
    ]
    minibatch_size: Annotated[
        int, Field(default=8, ge=1, le=65_536, description="minibatchSize: answers per optimizer step.")
    ]
    accumulation: Annotated[
        int,
        Field(
            default=1,
            ge=1,
            le=65_536,
            description="accumulation: passes into which each optimizer step is parted; more need less memory and change the result by rounding alone.",
        ),
    ]
    gradient_checkpointing: Annotated[
        bool,
        Field(default=False, description="gradientCheckpointing: true needs less memory and a third more time."),
    ]
    update_epochs: Annotated[
        int, Field(default=2, ge=1, le=100, description="updateEpochs: passes over the rollout per update.")
    ]
    max_new_tokens: Annotated[
        int, Field(default=64, ge=1, le=8192, description="maxNewTokens: an answer that has not ended by then is cut.")
    ]
    temperature: Annotated[float, Field(default=1.0, gt=0, le=100, description="temperature: of the draws.")]
    top_p: Annotated[
        float,
        Field(default=1.0, gt=0, le=1, description="topP: mass of the likeliest tokens that draws are limited to."),
    ]
    missing_end_penalty: Annotated[
        float,
        Field(
            default=0.0, ge=0, le=1000, description="missingEndPenalty: taken off the reward of an answer that was cut."
        ),
    ]
    lora_rank: Annotated[
        int,
        Field(
            default=16,
            ge=1,
            le=256,
            description="loraRank: of the adapter that learns from rewards; it is added to the rank of the adapters that the policy has.",
        ),
    ]
    learning_rate: Annotated[
        float, Field(default=1e-4, gt=0, le=1, description="learningRate: of the policy, at the start.")
    ]
    value_learning_rate: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1,
            description="valueLearningRate: for algorithm ppo; of the value head, at the start. If omitted, 0.001.",
        ),
    ]
    clip_range: Annotated[
        float,
        Field(
            default=0.2,
            gt=0,
            le=10,
            description="clipRange: bound on the probability ratio of a token; with algorithm rloo, of a whole answer.",
        ),
    ]
    clip_range_value: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1e6,
            description="clipRangeValue: for algorithm ppo; bound on a value's change. If omitted, 0.2.",
        ),
    ]
    vf_coef: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            le=100,
            description="vfCoef: for algorithm ppo; weight of the value loss. If omitted, 0.1.",
        ),
    ]
    gamma: Annotated[
        float | None,
        Field(default=None, ge=0, le=1, description="gamma: for algorithm ppo; discount per token. If omitted, 1."),
    ]
    lam: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            le=1,
            description="lam: for algorithm ppo; lambda of GAE (arXiv:1506.02438). If omitted, 0.95.",
        ),
    ]
    max_grad_norm: Annotated[
        float, Field(default=1.0, gt=0, le=1000, description="maxGradNorm: gradients are clipped to this norm.")
    ]
    init_kl: Annotated[
        float,
        Field(
            default=0.05, gt=0, le=100, description="initKl: first weight of the penalty on leaving the start policy."
        ),
    ]
    target_kl: Annotated[
        float,
        Field(
            default=6.0,
            gt=0,
            le=1000,
            description="targetKl: mean divergence of an answer, in nats, to which the penalty's weight steers.",
        ),
    ]
    max_kl: Annotated[
        float,
        Field(
            default=50.0,
            gt=0,
            le=1e6,
            description="maxKl: the stage fails once answers diverge by more than this, in nats, for three rollouts.",
        ),
    ]
    max_update_kl: Annotated[
        float,
        Field(
            default=0.5,
            gt=0,
            le=1000,
            description="maxUpdateKl: the stage fails once an update's approximate divergence from the policy that acted exceeds this, in nats per token.",
        ),
    ]
    min_entropy_ratio: Annotated[
        float,
        Field(
            default=0.01,
            ge=0,
            lt=1,
            description="minEntropyRatio: the stage fails once three updates in a row have an entropy below this share of the first one's.",
        ),
    ]
    rewards: Annotated[
        tuple[AnswerReward, ...],
        Field(
            default=(AnswerReward(type=REWARD_MODEL),),
            strict=False,
            min_length=1,
            max_length=16,
            description="rewards: components of the reward, summed by weight. If omitted, the reward model alone.",
        ),
    ]
    checkpoint_every_steps: Annotated[
        int,
        Field(
            default=4,
            ge=1,
            le=1_000_000,
            description="checkpointEverySteps: rollouts between checkpoints; a preemption loses at most this many.",
        ),
    ]
    resources: Annotated[
        Resources, Field(default=Resources(cpu=2, memory_gi=8), description="resources: of the stage's pod.")
    ]

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.rollout_size % self.minibatch_size:
            raise ValueError(
                f"rolloutSize {self.rollout_size} must be a multiple of minibatchSize {self.minibatch_size}; change one "
                "of them"
            )
        if self.minibatch_size % self.accumulation:
            raise ValueError(
                f"minibatchSize {self.minibatch_size} must be a multiple of accumulation {self.accumulation}; change one "
                "of them"
            )
        if self.grouped and self.rollout_size % self.grouped:
            raise ValueError(
                f"rolloutSize {self.rollout_size} must be a multiple of groupSize {self.grouped}; change one of them"
            )
        return self

    @model_validator(mode="after")
    def _fields_act(self) -> Self:
        given = {field.alias: getattr(self, name) for name, field in type(self).model_fields.items()}
        for name, algorithms in ONLINE_FIELDS.items():
            if given[name] is not None and self.algorithm not in algorithms:
                raise ValueError(
                    f"{name} is only for algorithm {' or '.join(algorithms)}; remove it or change algorithm"
                )
        return self

    @model_validator(mode="after")
    def _one_reward_model(self) -> Self:
        if sum(reward.type == REWARD_MODEL for reward in self.rewards) > 1:
            raise ValueError("rewards must not have type rewardModel twice; remove one and add up the weights")
        return self

    @property
    def grouped(self) -> int | None:
        """Answers to each prompt of a rollout; None = the algorithm has no groups."""
        return (self.group_size or GROUP_SIZE) if self.algorithm in GROUPED else None

    @property
    def asks_reward_model(self) -> bool:
        """Whether a reward model's score is part of the reward."""
        return any(reward.type == REWARD_MODEL for reward in self.rewards)

    @property
    def rollouts(self) -> int:
        """Steps of the stage."""
        return math.ceil(self.interactions / self.rollout_size)
