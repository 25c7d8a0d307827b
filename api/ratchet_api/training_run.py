"""RLTrainingRun (`rltr`): one run to completion, from a dataset and a base model to a committed artifact.

Decides the fields, bounds and cross-field rules of the kind. Defaults are declared here and nowhere else; the
CRD schema repeats them. The operator plans from these models and the stages receive their parts.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ratchet_api.attempts import Artifact, StageAttempt
from ratchet_api.base import (
    METRICS_LIMIT,
    ApiModel,
    LabelName,
    MetricKey,
    MetricValue,
    NullsAreAbsent,
    ObjectRef,
    Sha256,
    StatusModel,
    StoreUri,
    Timestamp,
)
from ratchet_api.comparison import Choice, Comparison
from ratchet_api.conditions import Condition
from ratchet_api.judge import PairJudge
from ratchet_api.label_sets import LabelSet
from ratchet_api.placement import Nodes, Placement, Resources
from ratchet_api.policy_types import ABOVE_ONE, ClassifierMetric, GeneratorMetric, PolicyType, check_mode, check_type
from ratchet_api.preference import PreferenceStage
from ratchet_api.resolved import Estimate, GateResult, ResolvedRun, RunProgress
from ratchet_api.reward_model import RewardModelStage
from ratchet_api.rl import RlStage, StartFrom
from ratchet_api.rlhf import RlhfStage
from ratchet_api.tasks import MAX_TASKS, TaskName, TaskWeight
from ratchet_api.tracking import Tracking

MetricName = Literal[ClassifierMetric, GeneratorMetric]
Mode = Literal["supervised", "supervised_then_rl", "rl_only"]

MAX_BOUND = 1e6
"""Of a gate; no perplexity that somebody waits for is as large."""

GATED_LABEL_BYTES = 1600
"""Each gated class has its F1 in the stage's termination message, which the kubelet cuts at 4 KiB; so has each task."""

TOLD_OF_TASKS: tuple[MetricName, ...] = ("accuracy", "macro_f1")
"""Numbers of each of several tasks that stand in status beside their means; evaluation.json has all of them."""


class BaseModelRef(ApiModel):
    """The pretrained model that training starts from."""

    uri: Annotated[
        StoreUri,
        Field(
            description="uri: folder with config.json, tokenizer.json and *.safetensors; store://PATH or s3://BUCKET/PREFIX."
        ),
    ]
    sha256: Annotated[Sha256, Field(description="sha256: digest of the folder, as `ratchet digest FOLDER` prints it.")]


class Lora(ApiModel):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Annotated[int, Field(default=16, ge=1, le=256, description="rank: r, the adapters' inner dimension.")]
    alpha: Annotated[
        float,
        Field(default=32, gt=0, le=1024, description="alpha: scaling numerator; updates are scaled by alpha / rank."),
    ]
    dropout: Annotated[float, Field(default=0.0, ge=0, le=0.9, description="dropout: on the adapters' input.")]
    target_modules: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] | None,
        Field(
            default=None,
            strict=False,
            min_length=1,
            max_length=32,
            description="targetModules: names of the linear layers to adapt. If omitted, every linear layer of the encoder's blocks.",
        ),
    ]
    last_blocks: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=1000,
            description="lastBlocks: adapt only this many of the encoder's blocks, those nearest the output. The blocks below them need no backward pass, which saves its time. If omitted, all blocks.",
        ),
    ]


class SupervisedStage(ApiModel):
    """Hyper-parameters of the supervised stage."""

    epochs: Annotated[
        float,
        Field(default=2.0, gt=0, le=1000, description="epochs: passes over the train split; a fraction is allowed."),
    ]
    batch_size: Annotated[int, Field(default=16, ge=1, le=4096, description="batchSize: examples per optimizer step.")]
    learning_rate: Annotated[
        float,
        Field(default=5e-4, gt=0, le=1, description="learningRate: peak, reached after warmup, then linear to 0."),
    ]
    head_learning_rate: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1,
            description="headLearningRate: of the classification head. If omitted, learningRate.",
        ),
    ]
    warmup_ratio: Annotated[
        float,
        Field(
            default=0.06, ge=0, le=1, description="warmupRatio: share of the steps over which the learning rate rises."
        ),
    ]
    weight_decay: Annotated[float, Field(default=0.01, ge=0, le=1, description="weightDecay: AdamW's decoupled decay.")]
    max_grad_norm: Annotated[
        float, Field(default=1.0, gt=0, le=1000, description="maxGradNorm: gradients are clipped to this norm.")
    ]
    max_tokens: Annotated[
        int,
        Field(
            default=128,
            ge=4,
            le=8192,
            description="maxTokens: texts are cut to this many tokens. Of a generator prompt and response together: the response is cut, a row whose prompt leaves no room is left out and counted.",
        ),
    ]
    label_smoothing: Annotated[
        float, Field(default=0.0, ge=0, lt=1, description="labelSmoothing: mass spread over the other classes.")
    ]
    class_weights: Annotated[
        Literal["none", "balanced"],
        Field(default="none", description="classWeights: balanced weighs each class by the inverse of its frequency."),
    ]
    task_weights: Annotated[
        Annotated[dict[TaskName, TaskWeight], Field(max_length=MAX_TASKS), NullsAreAbsent] | None,
        Field(
            default=None,
            description="taskWeights: factor of each task's loss, for a dataset with columns.labels; a task that is left out has 1. If omitted, all tasks weigh alike.",
        ),
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
    nodes: Nodes
    resources: Annotated[
        Resources, Field(default=Resources(cpu=2, memory_gi=6), description="resources: of the stage's pod.")
    ]

    @model_validator(mode="after")
    def _shared_evenly(self) -> Self:
        if self.batch_size % self.nodes:
            raise ValueError(
                f"batchSize {self.batch_size} must be a multiple of nodes {self.nodes}, which share it evenly; "
                "change one of them"
            )
        return self


class Answers(ApiModel):
    """What a generator is asked when it is measured; it answers with its likeliest tokens."""

    prompts: Annotated[
        int,
        Field(
            default=200,
            ge=1,
            le=100_000,
            description="prompts: how many prompts of the test split are answered; perplexity and kl are measured on all rows.",
        ),
    ]
    max_new_tokens: Annotated[
        int,
        Field(default=64, ge=1, le=8192, description="maxNewTokens: an answer that has not ended by then is cut."),
    ]


class EvaluateStage(ApiModel):
    """Settings of the evaluate stage and its pod."""

    batch_size: Annotated[int, Field(default=64, ge=1, le=4096, description="batchSize: examples per forward pass.")]
    answers: Annotated[
        Answers | None,
        Field(
            default=None,
            description="answers: only for a generator; how many prompts it answers and how long. If omitted, the defaults.",
        ),
    ]
    judge: Annotated[
        PairJudge | None,
        Field(
            default=None,
            description="judge: only for a generator, with a mode that has RL; a language model that says which answer is better, that of RL's policy or that of the one it started from. Measured as judge_win_rate.",
        ),
    ]
    resources: Annotated[
        Resources, Field(default=Resources(cpu=2, memory_gi=4), description="resources: of the stage's pod.")
    ]


class Stages(ApiModel):
    """Settings per stage; a stage that is left out runs with its defaults."""

    supervised: Annotated[
        SupervisedStage,
        Field(
            default=SupervisedStage(),
            description="supervised: LoRA training on the labels, or of a generator on the answers to follow.",
        ),
    ]
    rl: Annotated[
        RlStage | None,
        Field(
            default=None,
            description="rl: a classifier's learning from rewards; only with a mode that has it. If omitted, such a mode runs it with its defaults.",
        ),
    ]
    reward_model: Annotated[
        RewardModelStage | None,
        Field(
            default=None,
            description="rewardModel: for a generator, with a mode that has RL: what people thought of answers becomes a reward. Needed where stages.rlhf.rewards has type rewardModel, and only there.",
        ),
    ]
    rlhf: Annotated[
        RlhfStage | None,
        Field(
            default=None,
            description="rlhf: a generator's learning from rewards, in stage rl; only with a mode that has it. If omitted, such a mode runs it with its defaults, unless preference is set.",
        ),
    ]
    preference: Annotated[
        PreferenceStage | None,
        Field(
            default=None,
            description="preference: a generator's learning from judged answers themselves (DPO, KTO), in stage rl, instead of rlhf; only with a mode that has it.",
        ),
    ]
    evaluate: Annotated[
        EvaluateStage, Field(default=EvaluateStage(), description="evaluate: measuring on the held-out split.")
    ]


class Gate(ApiModel):
    """A bound that a metric must keep, or the version is not published."""

    metric: Annotated[MetricName, Field(description="metric: which number, measured on the test split.")]
    minimum: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            le=MAX_BOUND,
            description="minimum: the metric must be at least this; above 1 only for perplexity, kl and mean_tokens.",
        ),
    ]
    maximum: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            le=MAX_BOUND,
            description="maximum: the metric must be at most this; above 1 only for perplexity, kl and mean_tokens.",
        ),
    ]
    label: Annotated[
        LabelName | None,
        Field(
            default=None,
            description="label: judge this class's F1 instead of the whole; only with metric macro_f1. With tasks, TASK/LABEL.",
        ),
    ]
    task: Annotated[
        TaskName | None,
        Field(default=None, description="task: judge the metric of this task. If omitted, its mean over all tasks."),
    ]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.minimum is None and self.maximum is None:
            raise ValueError("a gate needs minimum or maximum; set at least one of them")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} must not be above maximum {self.maximum}; no value could pass")
        if self.metric not in ABOVE_ONE and max(self.minimum or 0.0, self.maximum or 0.0) > 1:
            raise ValueError(f"minimum and maximum of {self.metric} must not be above 1, which it never is; lower them")
        if self.label is not None and self.metric != "macro_f1":
            raise ValueError("label is only for metric macro_f1; remove it or change metric")
        if self.label is not None and self.task is not None:
            raise ValueError("label and task exclude each other, since a class is called TASK/LABEL; remove task")
        return self


class Evaluation(ApiModel):
    """How the trained policy is measured and judged."""

    calibrate: Annotated[
        bool,
        Field(
            default=True,
            description="calibrate: fit one temperature on the validation split and ship it with the artifact.",
        ),
    ]
    ece_bins: Annotated[
        int,
        Field(
            default=15,
            ge=2,
            le=100,
            description="eceBins: equal-width confidence bins of the expected calibration error.",
        ),
    ]
    abstain_target_accuracy: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1,
            description="abstainTargetAccuracy: choose the lowest confidence threshold at which answered validation examples reach this accuracy. If omitted, the policy never abstains.",
        ),
    ]
    gates: Annotated[
        tuple[Gate, ...],
        Field(
            default=(),
            strict=False,
            max_length=32,
            description="gates: bounds on the test split; all must hold for publishing.",
        ),
    ]
    comparison: Annotated[
        Comparison | None,
        Field(
            default=None,
            description="comparison: when the RL policy is kept instead of the one it started from; only with a mode that has RL. If omitted, such a mode compares by the defaults.",
        ),
    ]

    @model_validator(mode="after")
    def _class_names_fit(self) -> Self:
        used = sum(len(gate.label.encode()) for gate in self.gates if gate.label is not None)
        if used > GATED_LABEL_BYTES:
            raise ValueError(
                f"the labels of all gates together must have at most {GATED_LABEL_BYTES} bytes, not {used}; "
                "gate fewer classes"
            )
        return self


class RunTemplate(ApiModel):
    """The part of a run's spec that a policy can stamp again and again."""

    mode: Annotated[
        Mode,
        Field(
            default="supervised",
            description="mode: which stages run: supervised = supervised, evaluate; supervised_then_rl = supervised, rl, evaluate; rl_only = rl, evaluate, from the policy that startFrom names. A generator with stages.rewardModel has stage reward-model before rl.",
        ),
    ]
    start_from: Annotated[
        StartFrom | None,
        Field(
            default=None,
            description="startFrom: with mode rl_only, and only there: the policy whose adapters and head go on learning (lora and stages.supervised then have no say). Its base must be baseModel.",
        ),
    ]
    base_model: Annotated[
        BaseModelRef, Field(description="baseModel: the pretrained encoder, or language model of a generator.")
    ]
    dataset_ref: Annotated[ObjectRef, Field(description="datasetRef: the FeedbackDataset to train on.")]
    seed: Annotated[int, Field(default=0, ge=0, le=2**31 - 1, description="seed: of every random choice.")]
    lora: Annotated[Lora, Field(default=Lora(), description="lora: the adapters.")]
    stages: Annotated[Stages, Field(default=Stages(), description="stages: hyper-parameters and resources per stage.")]
    evaluation: Annotated[
        Evaluation, Field(default=Evaluation(), description="evaluation: measuring, calibration and gates.")
    ]
    placement: Annotated[
        Placement, Field(default=Placement(), description="placement: where the pods may run and in which queue.")
    ]
    tracking: Annotated[
        Tracking | None,
        Field(
            default=None,
            description="tracking: experiment trackers that get every metric. If omitted, none; one that is down or not installed never fails a stage.",
        ),
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
    active_deadline_seconds: Annotated[
        int,
        Field(
            default=86_400,
            ge=10,
            le=2_592_000,
            description="activeDeadlineSeconds: time that all stages together may be active, counted from admission; waiting in a queue and suspension do not count.",
        ),
    ]
    backoff_limit: Annotated[
        int, Field(default=3, ge=0, le=20, description="backoffLimit: how many counted retries each stage gets.")
    ]
    ttl_seconds_after_finished: Annotated[
        int | None,
        Field(
            default=None,
            ge=0,
            le=31_536_000,
            description="ttlSecondsAfterFinished: the run object is deleted this long after it finished; artifacts stay. If omitted, never. May be changed at any time.",
        ),
    ]

    @model_validator(mode="after")
    def _fits_its_mode(self) -> Self:
        check_mode(self)
        return self

    @property
    def with_rl(self) -> bool:
        """Whether the rl stage runs."""
        return self.mode != "supervised"

    @property
    def rl(self) -> RlStage:
        """Settings of the rl stage."""
        return self.stages.rl or RlStage()

    @property
    def rlhf(self) -> RlhfStage:
        """Settings of a generator's rl stage."""
        return self.stages.rlhf or RlhfStage()

    @property
    def log_ref(self) -> ObjectRef | None:
        """The dataset beside the run's own: logged answers for the rl stage, or judged ones for a generator."""
        if (judged := self.stages.reward_model or self.stages.preference) is not None:
            return judged.dataset_ref
        return self.rl.dataset_ref if self.with_rl else None

    @property
    def log_field(self) -> str:
        """Where that dataset is named."""
        given = {"rewardModel": self.stages.reward_model, "preference": self.stages.preference}
        stage = next((name for name, settings in given.items() if settings is not None), "rl")
        return f"stages.{stage}.datasetRef"


class RLTrainingRunSpec(RunTemplate):
    """What the user asks for. Immutable once started, `suspend` and `ttlSecondsAfterFinished` aside."""

    policy_type: Annotated[
        PolicyType,
        Field(
            description="policyType: classifier = encoder with LoRA, mean pooling and a linear head; generator = causal language model with LoRA that follows demonstrations."
        ),
    ]
    publish_to: Annotated[
        ObjectRef | None,
        Field(
            default=None,
            description="publishTo: the RLPolicy that gets the artifact as its next version. If omitted, nothing is published.",
        ),
    ]
    suspend: Annotated[
        bool,
        Field(
            default=False,
            description="suspend: true checkpoints and stops the pods; false goes on. May be changed at any time.",
        ),
    ]
    dry_run: Annotated[
        bool,
        Field(default=False, description="dryRun: true starts nothing; status shows what would run and an estimate."),
    ]

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        check_type(self, self.policy_type)
        return self


class StageStatus(StatusModel):
    """Where one stage stands."""

    name: Annotated[str, Field(max_length=32, description="name: the stage.")]
    state: Annotated[
        Literal["Pending", "Running", "Succeeded", "Cached", "Failed"],
        Field(default="Pending", description="state: Cached = the same inputs were committed before."),
    ]
    input_digest: Annotated[
        str | None,
        Field(
            default=None,
            min_length=64,
            max_length=64,
            description="inputDigest: SHA-256 of everything that decides the stage's result.",
        ),
    ]
    attempt: Annotated[StageAttempt | None, Field(default=None, description="attempt: the running or last attempt.")]
    artifact: Annotated[Artifact | None, Field(default=None, description="artifact: what the stage committed.")]
    metrics: Annotated[
        dict[MetricKey, MetricValue],
        Field(default_factory=dict, max_length=METRICS_LIMIT, description="metrics: the stage's numbers."),
    ]
    choice: Annotated[
        Choice | None,
        Field(default=None, description="choice: of evaluate in a run with RL: which policy it committed, and why."),
    ]
    labels: Annotated[
        LabelSet | None, Field(default=None, description="labels: of evaluate: the classes of what it committed.")
    ]
    finished: Annotated[Timestamp | None, Field(default=None, description="finished: when the result was recorded.")]


class RLTrainingRunStatus(StatusModel):
    """What the operator found and did; at most 32 KiB."""

    observed_generation: Annotated[
        int,
        Field(default=0, ge=0, le=2**53, description="observedGeneration: the spec generation this status speaks of."),
    ]
    state: Annotated[
        str, Field(default="", max_length=32, description="state: one word for people; conditions are the truth.")
    ]
    stage: Annotated[
        str,
        Field(default="", max_length=32, description="stage: the current stage, for people; no code branches on it."),
    ]
    progress_percent: Annotated[
        str, Field(default="", max_length=8, description="progressPercent: of the current stage, for people.")
    ]
    eta: Annotated[
        str, Field(default="", max_length=16, description="eta: time left in the current stage, for people.")
    ]
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            default=(),
            strict=False,
            max_length=16,
            description="conditions: Reconciling, Stalled, DataReady, Admitted, Running, GatePassed, Published, Suspended, Complete, Failed.",
        ),
    ]
    start_time: Annotated[
        Timestamp | None, Field(default=None, description="startTime: when the run was accepted and its inputs fixed.")
    ]
    completion_time: Annotated[
        Timestamp | None, Field(default=None, description="completionTime: when it became Complete or Failed.")
    ]
    resolved: Annotated[ResolvedRun | None, Field(default=None, description="resolved: what was fixed at the start.")]
    stages: Annotated[
        tuple[StageStatus, ...],
        Field(default=(), strict=False, max_length=8, description="stages: where each stage stands, in order."),
    ]
    progress: Annotated[RunProgress | None, Field(default=None, description="progress: of the running stage.")]
    metrics: Annotated[
        dict[MetricKey, MetricValue],
        Field(default_factory=dict, max_length=METRICS_LIMIT, description="metrics: measured on the test split."),
    ]
    gates: Annotated[
        tuple[GateResult, ...],
        Field(default=(), strict=False, max_length=32, description="gates: each gate with the number it judged."),
    ]
    artifact: Annotated[Artifact | None, Field(default=None, description="artifact: the trained policy.")]
    version: Annotated[
        int | None,
        Field(default=None, ge=1, le=2**31, description="version: number that the policy gave it, once published."),
    ]
    gpu_hours: Annotated[
        float, Field(default=0.0, ge=0, le=1e9, description="gpuHours: GPUs times active hours of all attempts.")
    ]
    estimate: Annotated[Estimate | None, Field(default=None, description="estimate: with spec.dryRun, what would run.")]
