"""The stage contract: what a stage is given, what it leaves behind, how it ends.

The operator writes `StageInput` into an annotation of the pod that its Job makes; the stage reads it from /etc/ratchet/stage.json,
works, commits a directory of the store with one conditional PUT of COMMIT.json, and ends with an exit code and a
termination message. Both sides import this module, so they cannot drift. Pure; no IO.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from ratchet_api.answer_reward import AnswerReward
from ratchet_api.attempts import Artifact
from ratchet_api.base import StatusModel, digest_of
from ratchet_api.columns import Columns
from ratchet_api.comparison import Choice, Slice
from ratchet_api.conditions import Reason
from ratchet_api.feedback_dataset import DatasetType, Filters, Source, Split
from ratchet_api.judge import JudgeEndpoint, SecretRef
from ratchet_api.label_sets import LabelSet
from ratchet_api.policy_types import GENERATOR, PolicyType
from ratchet_api.preference import PreferenceStage
from ratchet_api.reward_model import OwnBase, RewardModelStage
from ratchet_api.rl import RlStage
from ratchet_api.rlhf import RlhfStage
from ratchet_api.scoring import Scoring
from ratchet_api.snapshot_summary import SnapshotSummary
from ratchet_api.tracking import Tracking
from ratchet_api.training_run import BaseModelRef, EvaluateStage, Evaluation, Gate, Lora, SupervisedStage

CONTRACT_VERSION: Final = "ratchet.dev/stage-v1"
TERMINATION_LIMIT = 4096
TERMINATION_PATH = "/dev/termination-log"
GRACE_SECONDS = 120
"""terminationGracePeriodSeconds of stage pods: time to finish a step and write a checkpoint."""


class Stage(StrEnum):
    """The stages that run in Jobs."""

    SNAPSHOT = "snapshot"
    RESOLVE = "resolve"
    SUPERVISED = "supervised"
    REWARD_MODEL = "reward-model"
    RL = "rl"
    EVALUATE = "evaluate"


STAGE_REVISION: Mapping[Stage, int] = {
    Stage.SNAPSHOT: 1,
    Stage.RESOLVE: 1,
    Stage.SUPERVISED: 3,
    Stage.REWARD_MODEL: 2,
    Stage.RL: 2,
    Stage.EVALUATE: 2,
}
"""Raised when a recipe's result changes for equal inputs; part of every input digest, so old commits stop matching."""


class ExitCode(IntEnum):
    """How a stage ends. The tens say who can mend it: 1x user, 2x store, 3x numbers, 4x hardware, 5x a judge over HTTP."""

    OK = 0
    CRASHED = 1
    USAGE = 2
    BAD_DATA = 10
    BAD_CONFIG = 11
    BAD_LABELS = 12
    BAD_MODEL = 13
    STORE_UNAVAILABLE = 20
    STORE_ACCESS_DENIED = 21
    STORE_NOT_FOUND = 22
    STORE_CORRUPT = 23
    NOT_A_NUMBER = 30
    DIVERGED = 31
    NO_SUPPORT = 32
    ACCELERATOR_FAULT = 40
    JUDGE_UNAVAILABLE = 50
    PREEMPTED = 75
    KILLED = 137
    TERMINATED = 143


class Retry(StrEnum):
    """What the operator does after an exit."""

    NEVER = "never"
    COUNTED = "counted"
    OTHER_NODE = "other-node"
    UNCOUNTED = "uncounted"
    ONCE = "once"
    LIMITED = "limited"


class ExitRule(NamedTuple):
    """One row of the exit table."""

    reason: Reason
    retry: Retry


UNKNOWN_EXIT_LIMIT = 2
"""How many exits outside the contract are retried."""

_EXIT_RULES: Mapping[int, ExitRule] = {
    ExitCode.CRASHED: ExitRule(Reason.STAGE_CRASHED, Retry.NEVER),
    ExitCode.USAGE: ExitRule(Reason.USAGE_ERROR, Retry.NEVER),
    ExitCode.BAD_DATA: ExitRule(Reason.BAD_DATA, Retry.NEVER),
    ExitCode.BAD_CONFIG: ExitRule(Reason.BAD_CONFIG, Retry.NEVER),
    ExitCode.BAD_LABELS: ExitRule(Reason.BAD_LABELS, Retry.NEVER),
    ExitCode.BAD_MODEL: ExitRule(Reason.BAD_MODEL, Retry.NEVER),
    ExitCode.STORE_UNAVAILABLE: ExitRule(Reason.STORE_UNAVAILABLE, Retry.COUNTED),
    ExitCode.STORE_ACCESS_DENIED: ExitRule(Reason.STORE_ACCESS_DENIED, Retry.COUNTED),
    ExitCode.STORE_NOT_FOUND: ExitRule(Reason.STORE_NOT_FOUND, Retry.COUNTED),
    ExitCode.STORE_CORRUPT: ExitRule(Reason.STORE_CORRUPT, Retry.COUNTED),
    ExitCode.NOT_A_NUMBER: ExitRule(Reason.NOT_A_NUMBER, Retry.NEVER),
    ExitCode.DIVERGED: ExitRule(Reason.DIVERGED, Retry.NEVER),
    ExitCode.NO_SUPPORT: ExitRule(Reason.NO_SUPPORT, Retry.NEVER),
    ExitCode.ACCELERATOR_FAULT: ExitRule(Reason.ACCELERATOR_FAULT, Retry.OTHER_NODE),
    ExitCode.JUDGE_UNAVAILABLE: ExitRule(Reason.JUDGE_UNAVAILABLE, Retry.COUNTED),
    ExitCode.PREEMPTED: ExitRule(Reason.PREEMPTED, Retry.UNCOUNTED),
    ExitCode.KILLED: ExitRule(Reason.KILLED, Retry.ONCE),
    ExitCode.TERMINATED: ExitRule(Reason.PREEMPTED, Retry.UNCOUNTED),
}

_RANGES: tuple[tuple[range, ExitRule], ...] = (
    (range(10, 20), ExitRule(Reason.BAD_CONFIG, Retry.NEVER)),
    (range(20, 30), ExitRule(Reason.STORE_UNAVAILABLE, Retry.COUNTED)),
    (range(30, 40), ExitRule(Reason.DIVERGED, Retry.NEVER)),
    (range(40, 50), ExitRule(Reason.ACCELERATOR_FAULT, Retry.OTHER_NODE)),
    (range(50, 60), ExitRule(Reason.JUDGE_UNAVAILABLE, Retry.COUNTED)),
)


def exit_rule(code: int) -> ExitRule:
    """Return what a non-zero exit code means and whether a new attempt may heal it (total over all codes)."""
    if code in _EXIT_RULES:
        return _EXIT_RULES[code]
    for codes, rule in _RANGES:
        if code in codes:
            return rule
    return ExitRule(Reason.UNKNOWN_EXIT, Retry.LIMITED)


NUMERIC_REASONS = frozenset({Reason.NOT_A_NUMBER, Reason.DIVERGED, Reason.NO_SUPPORT})
"""What exit codes 30 to 39 mean: the numbers went wrong, and equal inputs would let them go wrong again."""

UNCOUNTED_EXITS = (int(ExitCode.PREEMPTED), int(ExitCode.TERMINATED))
"""The only codes after which the Job itself replaces the pod."""


class StoreConfig(StatusModel):
    """Where a stage finds its store; credentials come from the environment, never from here."""

    uri: Annotated[str, Field(max_length=1024, description="s3://BUCKET[/PREFIX] or file:///DIR.")]
    endpoint: Annotated[str | None, Field(default=None, max_length=512, description="S3 endpoint URL; None = AWS.")]
    region: Annotated[str, Field(default="us-east-1", max_length=64, description="S3 region.")]


class Owner(StatusModel):
    """The object a stage works for."""

    kind: str
    namespace: str
    name: str
    uid: str


class StageRef(StatusModel):
    """Another stage whose COMMIT this one reads or looks up."""

    stage: Stage
    prefix: str
    """Store prefix (without the store's own URI) below which COMMIT.json stands."""
    input_digest: str


class DatasetRef(StatusModel):
    """A pinned snapshot."""

    digest: str
    prefix: str
    """Store prefix of the snapshot; MANIFEST.json stands directly below."""


class SnapshotConfig(StatusModel):
    """What the snapshot stage does."""

    stage: Literal["snapshot"] = "snapshot"
    type: DatasetType
    source: Source
    columns: Columns
    labels: tuple[str, ...] | None = Field(default=None, strict=False)
    filters: Filters
    split: Split
    scoring: Scoring | None = None


class ResolveConfig(StatusModel):
    """What the resolve stage does: check that inputs exist and tell which later stages are committed already."""

    stage: Literal["resolve"] = "resolve"
    policy_type: PolicyType = "classifier"
    dataset: DatasetRef
    log: DatasetRef | None = None
    """The logged answers that the rl stage will learn from."""
    log_scored: bool = False
    """Whether what a judge said of them is learned, in place of what people did."""
    base_model: BaseModelRef
    lookups: tuple[StageRef, ...] = Field(strict=False)
    gates: tuple[Gate, ...] = Field(default=(), strict=False)
    """Of the run; their classes must be classes of the dataset."""
    slices: tuple[Slice, ...] = Field(default=(), strict=False)
    """Of the run's comparison; likewise."""
    named_tasks: dict[str, str] = Field(default_factory=dict)
    """Field of the run's spec -> the task that it names, which must be a task of the dataset."""
    start: Artifact | None = None
    """The policy that mode rl_only starts from; it must be there, on this base, for the dataset's classes."""
    reward_base: OwnBase | None = None
    """The encoder that the run's reward model will stand on; it must be there."""
    rewards: dict[str, tuple[AnswerReward, ...]] = Field(default_factory=dict)
    """Components of a generator's rewards by the field in which they stand; what they name must be there."""


class SupervisedConfig(StatusModel):
    """What the supervised stage does."""

    stage: Literal["supervised"] = "supervised"
    policy_type: PolicyType = "classifier"
    dataset: DatasetRef
    base_model: BaseModelRef
    lora: Lora
    hyper: SupervisedStage
    seed: int


class RewardModelConfig(StatusModel):
    """What the reward-model stage does: learn what people think of answers, on the trunk of exactly one policy."""

    stage: Literal["reward-model"] = "reward-model"
    dataset: DatasetRef
    """Preferences or ratings; its train split."""
    start: StageRef | None = None
    start_artifact: Artifact | None = None
    base_model: BaseModelRef
    hyper: RewardModelStage
    seed: int

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.start is None) == (self.start_artifact is None):
            raise ValueError("exactly one of start and startArtifact must be set")
        return self


class RlConfig(StatusModel):
    """What the rl stage does: learn from rewards, starting from exactly one of a stage's commit and an artifact."""

    stage: Literal["rl"] = "rl"
    policy_type: PolicyType = "classifier"
    dataset: DatasetRef
    """Its train split is the traffic, unless `traffic` names another; labels serve the simulated feedback only."""
    traffic: DatasetRef | None = None
    log: DatasetRef | None = None
    """Logged answers to learn from, instead of any traffic; of a generator with `preference`, judged ones."""
    log_policy: str | None = None
    """The only policy whose answers may stand in the log; None = rows may say what they like."""
    start: StageRef | None = None
    start_artifact: Artifact | None = None
    base_model: BaseModelRef | None = None
    """Where the run finds its base; the start policy may name a place where the same bytes once were."""
    hyper: RlStage = RlStage()
    """Of a classifier."""
    rlhf: RlhfStage | None = None
    """Of a generator that learns from rewards."""
    preference: PreferenceStage | None = None
    """Of a generator that learns from judged answers."""
    reward_model: StageRef | None = None
    """Of a generator that a reward model rewards."""
    seed: int

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.start is None) == (self.start_artifact is None):
            raise ValueError("exactly one of start and startArtifact must be set")
        if [self.rlhf is not None, self.preference is not None].count(True) != int(self.policy_type == GENERATOR):
            raise ValueError("exactly one of rlhf and preference must be set for a generator, and none for others")
        if self.preference is not None and self.log is None:
            raise ValueError("log must be set with preference; it is what is learned from")
        return self


class EvaluateConfig(StatusModel):
    """What the evaluate stage does."""

    stage: Literal["evaluate"] = "evaluate"
    policy_type: PolicyType = "classifier"
    dataset: DatasetRef
    candidates: tuple[StageRef, ...] = Field(strict=False, min_length=1, max_length=2)
    """In order of preference: the first is kept unless it is worse than the next, or than `start`."""
    start: Artifact | None = None
    """The policy that mode rl_only started from: it takes the place of a second candidate."""
    champion: Artifact | None = None
    """The live version: measured beside them, it decides nothing."""
    base_model: BaseModelRef | None = None
    """Where the run finds its base; a policy out of the cache may name a place where the same bytes once were."""
    evaluation: Evaluation
    hyper: EvaluateStage
    max_tokens: int | None = None
    """What the supervised stage cut texts to; None = whatever the candidates say."""
    rlhf: RlhfStage | None = None
    """Of a generator's run with RL: what its answers are rewarded for."""
    reward_model: StageRef | None = None
    """The model that rewarded them."""
    preference: PreferenceStage | None = None
    """Of a generator's run that learned from judged answers: how they were dealt."""
    log: DatasetRef | None = None
    """These answers."""
    seed: int


StageConfig = Annotated[
    SnapshotConfig | ResolveConfig | SupervisedConfig | RewardModelConfig | RlConfig | EvaluateConfig,
    Field(discriminator="stage"),
]


def key_secrets_of(config: StageConfig) -> tuple[SecretRef, ...]:
    """Return the Secrets of the judges that the stage asks, each once, in the order of their names."""
    rewards = (
        config.rlhf.all_rewards if isinstance(config, RlConfig | EvaluateConfig) and config.rlhf is not None else ()
    )
    judges: list[JudgeEndpoint] = [reward.judge for reward in rewards if reward.judge is not None]
    if isinstance(config, EvaluateConfig) and config.hyper.judge is not None:
        judges.append(config.hyper.judge)
    if isinstance(config, SnapshotConfig) and config.scoring is not None:
        judges.append(config.scoring)
    named = {judge.api_key_secret_ref.name: judge.api_key_secret_ref for judge in judges if judge.api_key_secret_ref}
    return tuple(named[name] for name in sorted(named))


def nodes_of(config: StageConfig) -> int:
    """Return how many pods do the stage together."""
    return config.hyper.nodes if isinstance(config, SupervisedConfig | RlConfig) else 1


class StageInput(StatusModel):
    """The whole of /etc/ratchet/stage.json."""

    contract: Literal["ratchet.dev/stage-v1"] = CONTRACT_VERSION
    owner: Owner
    attempt: int = Field(ge=1)
    prefix: str
    """Store prefix of this stage of this owner; COMMIT.json will stand directly below."""
    input_digest: str | None = Field(default=None, min_length=64, max_length=64)
    """None = never cached (resolve, and snapshots, whose sources may have changed)."""
    store: StoreConfig
    config: StageConfig
    tracking: Tracking | None = None
    """Trackers that get the stage's metrics; no part of its config, because it cannot change the result."""


class CommittedFile(StatusModel):
    """One file of a committed directory."""

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(min_length=64, max_length=64)


class StageResult(StatusModel):
    """What a stage found out; stands in COMMIT.json and, cut to size, in the termination message."""

    metrics: dict[str, float] = Field(default_factory=dict)
    snapshot: SnapshotSummary | None = None
    hits: dict[str, StageHit] = Field(default_factory=dict)
    """Resolve only: committed stages by name."""
    choice: Choice | None = None
    """Evaluate with RL only: which policy was committed, and why."""
    labels: LabelSet | None = None
    """Evaluate of a classifier only: the classes of what was committed."""


class StageHit(StatusModel):
    """A stage that is committed already."""

    artifact: Artifact
    metrics: dict[str, float] = Field(default_factory=dict)
    choice: Choice | None = None
    labels: LabelSet | None = None

    def lessened(self, *, decides: bool) -> StageHit:
        """The hit with what decides alone: of an evaluation the numbers that gates judge, of other stages none."""
        choice = None if self.choice is None else self.choice.model_copy(update={"why": _cut(self.choice.why, 100)})
        metrics = _judged(self.metrics) if decides else {}
        labels = None if self.labels is None else self.labels.without_names()
        return self.model_copy(update={"metrics": metrics, "choice": choice, "labels": labels})


class Commit(StatusModel):
    """COMMIT.json: the one statement that a stage is done, and by which directory. The first one written wins."""

    contract: Literal["ratchet.dev/stage-v1"] = CONTRACT_VERSION
    stage: Stage
    input_digest: str | None = None
    directory: str
    """Store prefix of the winning directory."""
    files: tuple[CommittedFile, ...] = Field(strict=False)
    digest: str
    """Artifact digest: `artifact_digest(files)`."""
    writer: str
    """Token of the pod that wrote this; read back after an ambiguous answer to the PUT."""
    result: StageResult


class IndexEntry(StatusModel):
    """index/<input-digest>.json: points to the COMMIT that first produced this result."""

    commit: str
    """Store key of the COMMIT.json."""
    digest: str


class EndState(StrEnum):
    """How a stage ended, in its own words."""

    COMMITTED = "Committed"
    ALREADY_COMMITTED = "AlreadyCommitted"
    SUPERSEDED = "Superseded"
    PREEMPTED = "Preempted"
    FAILED = "Failed"


class TerminationMessage(StatusModel):
    """What a stage writes to its termination log, at most 4 KiB of JSON."""

    contract: Literal["ratchet.dev/stage-v1"] = CONTRACT_VERSION
    state: EndState = Field(strict=False)
    reason: str = ""
    message: str = ""
    artifact: Artifact | None = None
    result: StageResult = StageResult()

    def fit(self) -> bytes:
        """Return at most TERMINATION_LIMIT bytes of JSON: cuts the message first, then detail by detail.

        Raises:
            ValueError: the indispensable part alone is too long (a defect: its fields are bounded).
        """
        data = b""
        for length, result in (
            (1000, self.result),
            (200, self.result),
            *((0, less) for less in _lessened(self.result)),
        ):
            candidate = self.model_copy(update={"message": _cut(self.message, length), "result": result})
            data = candidate.model_dump_json(by_alias=True, exclude_none=True).encode()
            if len(data) <= TERMINATION_LIMIT:
                return data
        raise ValueError(f"termination message of {len(data)} bytes does not fit {TERMINATION_LIMIT}")


COMPARED = ("baseline", "rl", "diff", "champion")
"""First parts, before a slash, of the names of a comparison's numbers, which no gate judges."""


def _judged(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out the numbers of a comparison, which no gate judges."""
    return {name: value for name, value in metrics.items() if not _is_compared(name)}


def _is_compared(name: str) -> bool:
    first, slash, _ = name.partition("/")
    return bool(slash) and first in COMPARED


def _lessened(result: StageResult) -> Iterator[StageResult]:
    """The result with ever less in it; what was left out stands in COMMIT.json and in the committed files."""
    yield result
    if result.snapshot is not None:
        slim = result.snapshot.model_copy(update={"smallest_labels": (), "removed": (), "tasks": None})
        result = result.model_copy(update={"snapshot": slim})
        yield result
    if result.choice is not None:
        result = result.model_copy(update={"choice": result.choice.model_copy(update={"why": ""})})
        yield result
    result = result.model_copy(update={"metrics": _judged(result.metrics)})
    yield result
    if result.labels is not None:
        result = result.model_copy(update={"labels": result.labels.without_names()})
        yield result
        # gates decide more than labels do: a version without them is compared with none
        result = result.model_copy(update={"labels": None})
        yield result
    if result.hits:
        less = {name: hit.lessened(decides=name == Stage.EVALUATE) for name, hit in result.hits.items()}
        result = result.model_copy(update={"hits": less})
        yield result
        # a stage whose hit is not told starts, and finds the commit by itself
        result = result.model_copy(update={"hits": {}})
        yield result
    yield result.model_copy(update={"metrics": {}})


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit]


ETA_LIMIT_SECONDS = 10**9
"""Thirty years; a longer estimate says no more. An image of the user's may serve anything, status holds this much."""


class Progress(StatusModel):
    """What the pod serves at /progress."""

    stage: str
    step: int = Field(ge=0, le=2**53)
    steps: int = Field(ge=0, le=2**53)
    loss: float | None = None
    eta_seconds: int | None = Field(default=None, ge=0, le=ETA_LIMIT_SECONDS)


def artifact_digest(files: Mapping[str, str]) -> str:
    """Digest of a directory: SHA-256 over its sorted (path, sha256) list. Equal bytes give the equal digest.

    Args:
        files: path below the directory -> SHA-256 of the file's bytes.
    """
    return digest_of(sorted(files.items()))


def input_digest(stage: Stage, config: Mapping[str, Any], *, parents: Mapping[str, str], code_version: str) -> str:
    """Digest of everything that decides a stage's result: settings, inputs, base model and code.

    A parent stands here by its own input digest, so that all digests of a run are known before any stage ran.
    Store locations, pod resources and names are left out by the caller: they do not change the result.

    Args:
        stage: which recipe.
        config: the settings that matter to the result, JSON-able.
        parents: name -> digest of what the stage reads (dataset digest, parents' input digests).
        code_version: version of the package or of the user's image.
    """
    return digest_of(
        {
            "stage": stage.value,
            "revision": STAGE_REVISION[stage],
            "config": dict(config),
            "parents": dict(parents),
            "code": code_version,
        }
    )


StageResult.model_rebuild()
TerminationMessage.model_rebuild()
Commit.model_rebuild()
