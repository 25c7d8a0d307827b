"""How a generator learns from rewards: the rl stage of language models.

Decides the fields, bounds and cross-field rules of `stages.rlhf`; those of the reward model are in `reward_model`. A
classifier's rl stage has settings of its own (`rl`), since hardly a field means the same for both. Pure; the formulas
are in `ratchet_jobs.rlhf`.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ratchet_api.answer_reward import MOST_JUDGES, REWARD_MODEL, REWARD_MODEL_ALONE, AnswerReward
from ratchet_api.base import ApiModel
from ratchet_api.placement import Resources
from ratchet_api.rl import PolicyArtifact

OnlineAlgorithm = Literal["ppo", "grpo", "rloo"]
GROUPED: tuple[OnlineAlgorithm, ...] = ("grpo", "rloo")
"""Algorithms that hold several answers to one prompt against one another and have no value model."""

ONLINE_FIELDS: dict[str, tuple[OnlineAlgorithm, ...]] = {
    "groupSize": GROUPED,
    "agents": ("ppo",),
    "valueLearningRate": ("ppo",),
    "clipRangeValue": ("ppo",),
    "vfCoef": ("ppo",),
    "gamma": ("ppo",),
    "lam": ("ppo",),
}
"""Field that not every algorithm has a use for, and the algorithms that have."""

ScoreWhitening = Literal["running", "batch", "none"]
"""By which moments scores are whitened before they teach."""

StopText = Annotated[str, Field(min_length=1, max_length=64, pattern=r"[^ ]")]
"""More than blanks, with which every word begins."""

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


Rewards = Annotated[tuple[AnswerReward, ...], Field(strict=False, min_length=1, max_length=16)]


class Agent(ApiModel):
    """One of several policies that a run trains on one trunk: an adapter with rewards of its own."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=32,
            pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            description="name: what the agent is called in artifacts, metrics and the report.",
        ),
    ]
    rewards: Annotated[
        Rewards,
        Field(
            default=REWARD_MODEL_ALONE,
            description="rewards: components of the agent's reward, summed by weight. If omitted, the reward model alone. All agents share one reward model.",
        ),
    ]
    frozen: Annotated[
        bool,
        Field(
            default=False,
            description="frozen: true = it draws no answers and stays the policy that the run starts from; the other agents are the same to the bit.",
        ),
    ]


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
            description="interactions: answers drawn and rewarded in all, rounded up to whole rollouts; with agents, by each.",
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
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(default="auto", description="dtype: of the frozen weights. auto is bfloat16 on a GPU, else float32."),
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
    stop: Annotated[
        tuple[StopText, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=8,
            description="stop: texts that end an answer once it says one of them, as the end of sequence does; rewards and evaluation see what is said before. A special token is named by its text. If omitted, the end of sequence alone ends an answer.",
        ),
    ]
    score_whitening: Annotated[
        ScoreWhitening,
        Field(
            default="running",
            description="scoreWhitening: scores less their mean, in units of their deviation: running = of all answers so far, batch = of those of the rollout (arXiv:1909.08593; arXiv:2403.17031), none = as they are.",
        ),
    ]
    score_clip: Annotated[
        float,
        Field(
            default=5.0,
            gt=0,
            le=1e6,
            description="scoreClip: largest size of a score after whitening; beyond it scores are cut.",
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
    warmup_ratio: Annotated[
        float,
        Field(
            default=0.0,
            ge=0,
            le=1,
            description="warmupRatio: share of the updates over which the learning rates rise to their full size. Give 0.1 or 0.2 with a high learningRate, whose first updates may else leave the policy that acted (maxUpdateKl).",
        ),
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
            description="vfCoef: for algorithm ppo; weight of the value loss in what the policy's adapter learns; at 0 the value head alone learns from it. If omitted, 0.1.",
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
        Rewards,
        Field(
            default=REWARD_MODEL_ALONE,
            description="rewards: components of the reward, summed by weight. If omitted, the reward model alone. With agents each has its own.",
        ),
    ]
    agents: Annotated[
        tuple[Agent, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=2,
            max_length=8,
            description="agents: for algorithm ppo; several policies on one trunk, each with an adapter, a value head, answers and rewards of its own. The first is the run's policy, which evaluate judges and publishTo publishes; all of them are artifacts. If omitted, the run trains one policy by rewards.",
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

    @field_validator("algorithm", mode="before")
    @classmethod
    def _draws_answers(cls, value: Any) -> Any:
        if value in ("dpo", "kto"):
            raise ValueError(
                f"{value} learns from answers that people judged and draws none; set stages.preference with "
                f"algorithm: {value} and datasetRef instead of stages.rlhf"
            )
        return value

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
        for field, rewards in self.rewards_by_field.items():
            if sum(reward.type == REWARD_MODEL for reward in rewards) > 1:
                raise ValueError(f"{field} must not have type rewardModel twice; remove one and add up the weights")
        judges = sum(reward.type == "judge" for rewards in self.rewards_by_field.values() for reward in rewards)
        if judges > MOST_JUDGES:
            raise ValueError(f"rewards must not have more than {MOST_JUDGES} judges, not {judges}; remove some")
        return self

    @model_validator(mode="after")
    def _weights_add_up(self) -> Self:
        for field, rewards in self.rewards_by_field.items():
            for one, other in combinations(rewards, 2):
                if one.cancels(other):
                    raise ValueError(
                        f"{field} must not have two of type {one.type} that are alike but for weights {one.weight:g} and "
                        f"{other.weight:g}, which cancel to zero; remove both or change a weight"
                    )
        return self

    @model_validator(mode="after")
    def _agents_fit(self) -> Self:
        if self.agents is None:
            return self
        names = [agent.name for agent in self.agents]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"agents must not have one name twice, as {twice[0]}; rename one")
        if self.rewards != REWARD_MODEL_ALONE:
            raise ValueError("rewards must be left out with agents, each of which has its own; move them there")
        if len({reward.model for reward in self.all_rewards if reward.type == REWARD_MODEL}) > 1:
            raise ValueError("agents must all ask one reward model, which they share; name the same model, or none")
        if all(agent.frozen for agent in self.agents):
            raise ValueError("agents must not all be frozen, or nothing is learned; set frozen: false for one")
        return self

    @property
    def rewards_by_field(self) -> dict[str, tuple[AnswerReward, ...]]:
        """All rewards of the stage by the field in which they stand."""
        if self.agents is None:
            return {"rewards": self.rewards}
        return {f"agents[{place}].rewards": agent.rewards for place, agent in enumerate(self.agents)}

    @property
    def all_rewards(self) -> tuple[AnswerReward, ...]:
        """Every component of a reward, those of all agents."""
        return tuple(reward for rewards in self.rewards_by_field.values() for reward in rewards)

    @property
    def learners(self) -> int:
        """How many policies the stage trains."""
        return 1 if self.agents is None else sum(not agent.frozen for agent in self.agents)

    def alone(self, agent: Agent) -> RlhfStage:
        """The settings of a stage that trains this one of its agents and no other."""
        return self.model_copy(update={"rewards": agent.rewards, "agents": None})

    @property
    def of_its_policy(self) -> RlhfStage:
        """The settings by which the run's own policy learns: of several agents the first."""
        return self if self.agents is None else self.alone(self.agents[0])

    @property
    def grouped(self) -> int | None:
        """Answers to each prompt of a rollout; None = the algorithm has no groups."""
        return (self.group_size or GROUP_SIZE) if self.algorithm in GROUPED else None

    @property
    def asks_reward_model(self) -> bool:
        """Whether a reward model's score is part of the reward, of a model that the run makes itself."""
        return any(reward.type == REWARD_MODEL and reward.model is None for reward in self.all_rewards)

    @property
    def shared_reward_model(self) -> PolicyArtifact | None:
        """The reward model of another run whose score is part of the reward; None = there is none."""
        return next((reward.model for reward in self.all_rewards if reward.model is not None), None)

    @property
    def rollouts(self) -> int:
        """Steps of the stage."""
        return math.ceil(self.interactions / self.rollout_size)
