"""Reinforcement learning of a classifier: the rl stage's settings, its rewards, and where rl_only starts from.

Decides the fields, bounds and cross-field rules; defaults are declared here and nowhere else. Terms are those of the
literature in camelCase (`clipRange`, `vfCoef`, `klCoef`). Pure; read by the rl recipe and by the operator. Imports
nothing of the run's own models, so that they can hold these.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel, LabelName, ObjectName, ObjectRef, Sha256, StoreUri
from ratchet_api.placement import Nodes, Resources
from ratchet_api.tasks import TaskName

AlgorithmName = Literal["ppo", "a2c", "reinforce", "dqn"]
RewardType = Literal[
    "accuracy",
    "f1",
    "calibration",
    "confidencePenalty",
    "expression",
    "costMatrix",
    "latency",
    "entryPoint",
    "feedback",
]
Estimator = Literal["doublyRobust", "ips", "direct"]

ENTRY_POINT_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"
"""MODULE:FUNCTION."""

REWARD_FIELDS: dict[str, str] = {
    "expression": "expression",
    "costs": "costMatrix",
    "targetMs": "latency",
    "entryPoint": "entryPoint",
}
"""Field that belongs to one type of reward, and that type: needed there, refused elsewhere."""

OPTIONAL_REWARD_FIELDS: dict[str, str] = {"estimator": "feedback", "maxWeight": "feedback"}
"""Field that one type of reward may have, and that type: refused elsewhere."""

LOG_REWARDS: tuple[RewardType, ...] = ("feedback", "expression", "latency")
"""Types of reward that need no label, so that a log can be learned from."""

ESTIMATOR: Estimator = "doublyRobust"
"""estimator where it is omitted."""

MAX_WEIGHT = 10.0
"""maxWeight where it is omitted."""

VERDICT_COEF = 3.0
"""verdictCoef where it is omitted and acts; measured in bench/classifier_rl."""

ALGORITHM_FIELDS: dict[str, str] = {
    "explorationEpsilon": "dqn",
    "targetUpdateInterval": "dqn",
    "clipRangeValue": "ppo",
    "targetKl": "ppo",
    "verdictCoef": "ppo",
}
"""Field that only one algorithm has a use for, and that algorithm."""

WEIGHT_LIMIT = 1000.0


class PolicyVersionRef(ApiModel):
    """A published version of an RLPolicy in the same namespace."""

    name: Annotated[ObjectName, Field(description="name: the RLPolicy's name; references never cross namespaces.")]
    version: Annotated[int, Field(ge=1, le=2**31 - 1, description="version: number of the published version.")]


class PolicyArtifact(ApiModel):
    """A committed policy folder, by digest."""

    uri: Annotated[
        StoreUri, Field(description="uri: the folder, as a run's status.artifact.uri or store://PATH shows it.")
    ]
    sha256: Annotated[
        Sha256, Field(description="sha256: digest of the folder, as a run's status.artifact.digest shows it.")
    ]


class StartFrom(ApiModel):
    """The policy that mode rl_only starts from: exactly one of `policy` and `artifact`."""

    policy: Annotated[
        PolicyVersionRef | None, Field(default=None, description="policy: a published version in this namespace.")
    ]
    artifact: Annotated[
        PolicyArtifact | None, Field(default=None, description="artifact: a committed policy folder, by digest.")
    ]

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.policy is None) == (self.artifact is None):
            raise ValueError("exactly one of policy and artifact must be set; remove one or add the missing one")
        return self


class CurriculumPoint(ApiModel):
    """The weight that a reward has from one interaction on."""

    at_interaction: Annotated[
        int, Field(ge=0, le=10_000_000, description="atInteraction: number of interactions done at this point.")
    ]
    weight: Annotated[
        float,
        Field(
            ge=-WEIGHT_LIMIT,
            le=WEIGHT_LIMIT,
            description="weight: at this point; between two points it moves in a straight line, outside it stays.",
        ),
    ]


class Clip(ApiModel):
    """Bounds that a reward is cut to, after scaling."""

    minimum: Annotated[float, Field(ge=-1e6, le=1e6, description="minimum: rewards below become this.")]
    maximum: Annotated[float, Field(ge=-1e6, le=1e6, description="maximum: rewards above become this.")]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum >= self.maximum:
            raise ValueError(f"minimum {self.minimum} must be below maximum {self.maximum}; no reward could vary")
        return self


class Cost(ApiModel):
    """The reward of answering one class where another is right."""

    label: Annotated[LabelName, Field(description="label: the right class.")]
    answer: Annotated[LabelName, Field(description="answer: the class that the policy chose.")]
    reward: Annotated[float, Field(ge=-1e6, le=1e6, description="reward: of this answer; a cost is negative.")]


class Reward(ApiModel):
    """One component of the reward; the reward of an answer is the weighted sum of all components."""

    type: Annotated[
        RewardType,
        Field(
            description="type: accuracy (1 if right), f1 (right x confidence), calibration (1 - |confidence - right|), confidencePenalty (confident mistakes cost more), expression, costMatrix, latency (measured milliseconds), entryPoint (own code in an own image), feedback (what people said of logged answers; with datasetRef)."
        ),
    ]
    task: Annotated[
        TaskName | None,
        Field(
            default=None,
            description="task: reward only the answers of this task, for a dataset with columns.labels. A task that no component rewards is not asked. If omitted, all tasks.",
        ),
    ]
    weight: Annotated[
        float | None,
        Field(
            default=None,
            ge=-WEIGHT_LIMIT,
            le=WEIGHT_LIMIT,
            description="weight: factor in the sum. If omitted, 1, unless curriculum is set.",
        ),
    ]
    curriculum: Annotated[
        tuple[CurriculumPoint, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=16,
            description="curriculum: the weight over the course of training, atInteraction ascending. If omitted, weight holds throughout.",
        ),
    ]
    scale: Annotated[
        float | None,
        Field(
            default=None,
            ge=-1e6,
            le=1e6,
            description="scale: factor applied before clip. If omitted, the component's own range.",
        ),
    ]
    clip: Annotated[
        Clip | None, Field(default=None, description="clip: bounds after scale. If omitted, nothing is cut.")
    ]
    expression: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=500,
            description="expression: for type expression; arithmetic over correct, confidence, label_prob, entropy, max_prob, latency_ms, classes and step.",
        ),
    ]
    costs: Annotated[
        tuple[Cost, ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=256,
            description="costs: for type costMatrix; pairs that differ from 1 for right and 0 for wrong.",
        ),
    ]
    penalty: Annotated[
        float,
        Field(
            default=0.5,
            ge=0,
            le=1000,
            description="penalty: for type confidencePenalty; what a mistake made with probability 1 costs.",
        ),
    ]
    target_ms: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1e6,
            description="targetMs: for type latency; measured milliseconds per query up to which nothing is lost; -1 at twice as many.",
        ),
    ]
    entry_point: Annotated[
        str | None,
        Field(
            default=None,
            min_length=3,
            max_length=256,
            pattern=ENTRY_POINT_PATTERN,
            description="entryPoint: for type entryPoint; MODULE:FUNCTION in the run's own image, called with (predictions, labels, confidences).",
        ),
    ]
    estimator: Annotated[
        Estimator | None,
        Field(
            default=None,
            description="estimator: for type feedback; how logged verdicts reward answers: doublyRobust (arXiv:1103.4601; a model of the verdicts, corrected by propensity), ips (propensity alone), direct (the logged answers themselves are learned from, each weighed by how likely the policy is to give it). If omitted, doublyRobust.",
        ),
    ]
    max_weight: Annotated[
        float | None,
        Field(
            default=None,
            ge=1,
            le=1e6,
            description="maxWeight: for type feedback; bound on what a rare answer counts for, against variance. If omitted, 10.",
        ),
    ]

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        given = {
            "expression": self.expression,
            "costs": self.costs,
            "targetMs": self.target_ms,
            "entryPoint": self.entry_point,
        }
        for field, kind in REWARD_FIELDS.items():
            if self.type == kind and given[field] is None:
                raise ValueError(f"type {kind} needs {field}; add it")
            if self.type != kind and given[field] is not None:
                raise ValueError(f"{field} is only for type {kind}; remove it or set type: {kind}")
        optional = {"estimator": self.estimator, "maxWeight": self.max_weight}
        for field, kind in OPTIONAL_REWARD_FIELDS.items():
            if self.type != kind and optional[field] is not None:
                raise ValueError(f"{field} is only for type {kind}; remove it or set type: {kind}")
        if self.scale == 0:
            raise ValueError("scale must not be 0, or the reward says nothing; remove the component instead")
        return self

    @model_validator(mode="after")
    def _one_weight(self) -> Self:
        if self.curriculum is None:
            return self
        if self.weight is not None:
            raise ValueError("weight and curriculum exclude each other; remove one")
        places = [point.at_interaction for point in self.curriculum]
        if places != sorted(set(places)):
            raise ValueError(f"curriculum must ascend in atInteraction, not {places}; put its points in order")
        return self


class Epsilon(ApiModel):
    """Share of random answers, falling in a straight line over the stage."""

    start: Annotated[float, Field(default=0.1, ge=0, le=1, description="start: at the first interaction.")]
    end: Annotated[float, Field(default=0.01, ge=0, le=1, description="end: at the last interaction.")]

    @model_validator(mode="after")
    def _falling(self) -> Self:
        if self.end > self.start:
            raise ValueError(f"end {self.end} must not be above start {self.start}; exploration falls")
        return self


class RlSettings(ApiModel):
    """What decides how a classifier learns from rewards, in a stage or in a notebook."""

    algorithm: Annotated[
        AlgorithmName,
        Field(
            default="ppo",
            description="algorithm: ppo (arXiv:1707.06347), a2c (arXiv:1602.01783), reinforce (with the value head as baseline) or dqn (one-step: the reward of each class is regressed).",
        ),
    ]
    interactions: Annotated[
        int,
        Field(
            default=10_240,
            ge=1,
            le=10_000_000,
            description="interactions: queries answered and rewarded in all; the last rollout may be smaller.",
        ),
    ]
    rollout_size: Annotated[
        int, Field(default=256, ge=2, le=65_536, description="rolloutSize: queries answered between two updates.")
    ]
    minibatch_size: Annotated[
        int, Field(default=16, ge=1, le=65_536, description="minibatchSize: answers per optimizer step.")
    ]
    update_epochs: Annotated[
        int, Field(default=4, ge=1, le=100, description="updateEpochs: passes over the buffer per update.")
    ]
    learning_rate: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1,
            description="learningRate: of the adapters, at the start; 1e-5 to 1e-4 are usual. If omitted, the adapters keep what they know and the heads alone learn: then each query passes the encoder once, however often it is learned from.",
        ),
    ]
    head_learning_rate: Annotated[
        float, Field(default=1e-3, gt=0, le=1, description="headLearningRate: of the class head, at the start.")
    ]
    value_learning_rate: Annotated[
        float, Field(default=1e-3, gt=0, le=1, description="valueLearningRate: of the value head, at the start.")
    ]
    lr_schedule: Annotated[
        Literal["linear", "constant"],
        Field(default="linear", description="lrSchedule: linear falls to 0 over the stage; constant stays."),
    ]
    clip_range: Annotated[
        float, Field(default=0.2, gt=0, le=10, description="clipRange: PPO's bound on the probability ratio.")
    ]
    clip_range_value: Annotated[
        float | None,
        Field(
            default=None, gt=0, le=1e6, description="clipRangeValue: PPO's bound on a value's change. If omitted, none."
        ),
    ]
    vf_coef: Annotated[float, Field(default=0.5, ge=0, le=100, description="vfCoef: weight of the value loss.")]
    entropy_coef: Annotated[
        float, Field(default=0.01, ge=0, le=100, description="entropyCoef: weight of the entropy bonus.")
    ]
    verdict_coef: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            le=1000,
            description="verdictCoef: for ppo; weight of the cross-entropy between an answer's probability and its reward, which then lies in 0..1. If omitted, 3 where accuracy, or feedback with estimator direct, is the only reward and each query an episode, else 0.",
        ),
    ]
    verdict_noise: Annotated[
        float,
        Field(
            default=0.05,
            ge=0,
            lt=0.5,
            description="verdictNoise: share of wrong verdicts to reckon with in verdictCoef's cross-entropy.",
        ),
    ]
    kl_coef: Annotated[
        float,
        Field(default=0.0, ge=0, le=1000, description="klCoef: weight of the divergence from the start policy."),
    ]
    max_grad_norm: Annotated[
        float, Field(default=0.5, gt=0, le=1000, description="maxGradNorm: gradients are clipped to this norm.")
    ]
    target_kl: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1000,
            description="targetKl: an update stops early once its mean divergence exceeds this. If omitted, never.",
        ),
    ]
    normalize_advantages: Annotated[
        bool,
        Field(default=True, description="normalizeAdvantages: center and scale the advantages of each minibatch."),
    ]
    buffer_capacity: Annotated[
        int | None,
        Field(
            default=None,
            ge=2,
            le=10_000_000,
            description="bufferCapacity: answers kept, oldest out first; above rolloutSize older rollouts are learned from again. If omitted, rolloutSize, for dqn interactions.",
        ),
    ]
    exploration_epsilon: Annotated[
        Epsilon | None,
        Field(
            default=None, description="explorationEpsilon: for dqn; share of random answers. If omitted, 0.1 to 0.01."
        ),
    ]
    target_update_interval: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=1_000_000,
            description="targetUpdateInterval: for dqn; optimizer steps between copies into the target network. If omitted, 500.",
        ),
    ]
    max_kl: Annotated[
        float,
        Field(
            default=2.0,
            gt=0,
            le=1000,
            description="maxKl: the stage fails once an update's approximate divergence from the policies that acted exceeds this.",
        ),
    ]
    min_entropy_ratio: Annotated[
        float,
        Field(
            default=0.001,
            ge=0,
            lt=1,
            description="minEntropyRatio: the stage fails once three updates in a row have an entropy below this share of the first one's.",
        ),
    ]
    rewards: Annotated[
        tuple[Reward, ...],
        Field(
            default=(Reward(type="accuracy"),),
            strict=False,
            min_length=1,
            max_length=16,
            description="rewards: components of the reward, summed by weight. If omitted, accuracy alone.",
        ),
    ]

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.minibatch_size > self.rollout_size:
            raise ValueError(
                f"minibatchSize {self.minibatch_size} must not be above rolloutSize {self.rollout_size}; lower it"
            )
        if self.buffer_capacity is not None and self.buffer_capacity < self.rollout_size:
            raise ValueError(
                f"bufferCapacity {self.buffer_capacity} must not be below rolloutSize {self.rollout_size}; raise it"
            )
        return self

    @model_validator(mode="after")
    def _fields_act(self) -> Self:
        given = {field.alias: getattr(self, name) for name, field in RlSettings.model_fields.items()}
        for name, algorithm in ALGORITHM_FIELDS.items():
            if given[name] is not None and self.algorithm != algorithm:
                raise ValueError(f"{name} is only for algorithm {algorithm}; remove it or set algorithm: {algorithm}")
        return self

    @property
    def is_right_or_wrong(self) -> bool:
        """True = the reward is the accuracy or a logged verdict as it is, so it says whether an answer was right."""
        verdict = self.rewards[0].model_copy(update={"max_weight": None})
        plain = verdict in (Reward(type="accuracy"), Reward(type="feedback", estimator="direct"))
        return len(self.rewards) == 1 and plain and self.kl_coef == 0


class RlStage(RlSettings):
    """Settings of the rl stage. A step is one rollout and the update on it."""

    dataset_ref: Annotated[
        ObjectRef | None,
        Field(
            default=None,
            description="datasetRef: a FeedbackDataset of type ratings: a log of answers with propensities to learn from, instead of simulated traffic; a rollout is then rolloutSize of its rows. If omitted, the run's own dataset is the traffic.",
        ),
    ]
    min_effective_samples: Annotated[
        int,
        Field(
            default=50,
            ge=2,
            le=10_000_000,
            description="minEffectiveSamples: with datasetRef; the stage fails with NoSupport if the log is worth fewer answers than this to the policy it starts from, or to the one it learned.",
        ),
    ]

    episodes: Annotated[
        Literal["query", "group"],
        Field(
            default="query",
            description="episodes: query = each answer is an episode of its own; group = the rows of one group (spec.columns.group of the dataset) are the turns of one.",
        ),
    ]
    gamma: Annotated[
        float,
        Field(default=0.99, ge=0, le=1, description="gamma: discount per turn; acts with episodes: group."),
    ]
    lam: Annotated[
        float,
        Field(default=0.95, ge=0, le=1, description="lam: lambda of GAE (arXiv:1506.02438); acts as gamma does."),
    ]
    traffic: Annotated[
        Literal["reshuffled", "fresh"],
        Field(
            default="reshuffled",
            description="traffic: reshuffled starts over in a new order when every row was asked; fresh asks each row once and refuses more interactions than rows.",
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
    nodes: Nodes
    resources: Annotated[
        Resources, Field(default=Resources(cpu=2, memory_gi=6), description="resources: of the stage's pod.")
    ]

    @model_validator(mode="after")
    def _shared_evenly(self) -> Self:
        if self.minibatch_size % self.nodes:
            raise ValueError(
                f"minibatchSize {self.minibatch_size} must be a multiple of nodes {self.nodes}, which share it evenly; "
                "change one of them"
            )
        return self

    @model_validator(mode="after")
    def _fits_a_log(self) -> Self:
        logged = [reward for reward in self.rewards if reward.type == "feedback"]
        if (self.dataset_ref is not None) != (len(logged) == 1) or (self.dataset_ref is None and logged):
            raise ValueError(
                f"datasetRef and one reward of type feedback go together, rewards has {len(logged)}; add the missing "
                "one or remove the other"
            )
        if self.dataset_ref is None:
            return self
        for reward in self.rewards:
            if reward.type not in LOG_REWARDS:
                raise ValueError(
                    f"with datasetRef rewards may be {', '.join(LOG_REWARDS)}, not {reward.type}: a log does not say "
                    "which class is right"
                )
        if self.episodes != "query":
            raise ValueError("episodes must be query with datasetRef; each answer of a log stands for itself")
        if self.algorithm == "dqn" and logged[0].estimator != "direct":
            raise ValueError(
                "algorithm dqn learns from a log with estimator direct alone; set it, or take another algorithm"
            )
        return self

    @property
    def estimator(self) -> Estimator:
        """How logged verdicts become rewards."""
        logged = next((reward for reward in self.rewards if reward.type == "feedback"), None)
        return (logged.estimator if logged is not None else None) or ESTIMATOR

    @property
    def max_weight(self) -> float:
        """Bound on the weight of a logged answer."""
        logged = next((reward for reward in self.rewards if reward.type == "feedback"), None)
        return (logged.max_weight if logged is not None else None) or MAX_WEIGHT
