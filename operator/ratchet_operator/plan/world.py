"""What a pass sees (`…World`) and what it decides (`Plan`): plain frozen data, the same for every body.

`observe` builds the worlds, the rules of `plan` turn them into a `Plan`, `apply` carries it out. Nothing here
reads or writes anything. All times are aware UTC; `now` is the only clock a rule may use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from ratchet_api.attempts import Artifact
from ratchet_api.base import StatusModel
from ratchet_api.conditions import Reason
from ratchet_api.feedback_dataset import FeedbackDatasetSpec, FeedbackDatasetStatus
from ratchet_api.label_sets import LabelSet
from ratchet_api.policy import RLPolicySpec, RLPolicyStatus, TrainedFrom
from ratchet_api.snapshot_summary import SnapshotSummary
from ratchet_api.stage import Progress, TerminationMessage
from ratchet_api.training_run import RLTrainingRunSpec, RLTrainingRunStatus
from ratchet_operator.cluster.protocol import KubeObject, Resource
from ratchet_operator.plan.rollout.world import Measured, Trouble
from ratchet_operator.settings import Settings, StoreSettings

StatusT = TypeVar("StatusT", bound=StatusModel)

NOW = timedelta(0)
"""`requeue_after` of a plan whose next step is known and must only wait for this one to be stored."""


@dataclass(frozen=True, slots=True)
class Meta:
    """The metadata that decisions depend on."""

    kind: str
    resource: Resource
    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Kind and name, as messages call the object."""
        return f"{self.kind} {self.name!r}"


@dataclass(frozen=True, slots=True)
class PodSight:
    """One pod of a Job, as far as decisions need it."""

    name: str
    uid: str
    created: datetime
    phase: str
    node: str = ""
    deleting: bool = False
    started: bool = False
    """Whether the stage's container runs or ran."""
    exit_code: int | None = None
    exit_reason: str = ""
    """The kubelet's word, such as OOMKilled; or the pod's own reason, such as Evicted."""
    said: TerminationMessage | None = None
    raw_message: str = ""
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""
    disrupted: bool = False
    index: int = 0
    """Which node of the stage it is."""
    manifest: KubeObject = field(default_factory=dict, compare=False, repr=False)

    @property
    def over(self) -> bool:
        """Whether the pod ended."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def works(self) -> bool:
        """Whether the stage's container runs or has done its work."""
        return self.started and self.phase != "Failed"


@dataclass(frozen=True, slots=True)
class JobSight:
    """One Job, as far as decisions need it."""

    name: str
    uid: str
    owner_uid: str = ""
    """uid of the controlling owner; empty = nobody controls it."""
    owner_text: str = ""
    """Who controls it, for messages."""
    created: datetime | None = None
    deleted_at: datetime | None = None
    suspended: bool = False
    started: datetime | None = None
    """When it was admitted: status.startTime, the server's clock."""
    ended: datetime | None = None
    complete: bool = False
    failed_reason: str = ""
    failed_message: str = ""
    active: int = 0
    nodes: int = 1
    """How many pods it runs at a time, each under an index of its own."""

    @property
    def over(self) -> bool:
        """Whether the Job reached its end."""
        return self.complete or bool(self.failed_reason)

    @property
    def active_seconds(self) -> int:
        """Active time by the servers' clocks alone; what no server recorded is not charged."""
        end = self.ended or self.deleted_at
        if self.started is None or end is None:
            return 0
        return max(0, int((end - self.started).total_seconds()))


@dataclass(frozen=True, slots=True)
class StageSight:
    """What is seen of the recorded attempt."""

    job: JobSight | None = None
    pods: tuple[PodSight, ...] = ()
    previous: JobSight | None = None
    """Job of the attempt before, while it exists; read only when the recorded attempt has none."""
    refused_pods: str = ""
    """Why the Job controller cannot create a pod, from the Job's events; empty = it can."""
    progress: Progress | None = None
    """The pod's own word, if it was asked in this pass and answered."""

    @property
    def team(self) -> tuple[PodSight, ...]:
        """The newest pod of each node, by index; one that still lives before any that ended."""
        newest: dict[int, PodSight] = {}
        for pod in sorted(self.pods, key=lambda p: (not p.over, p.created, p.name)):
            newest[pod.index] = pod
        return tuple(newest[index] for index in sorted(newest))

    @property
    def pod(self) -> PodSight | None:
        """The pod that speaks for the stage: the first that keeps the others waiting, else that of node 0."""
        return next((pod for pod in self.team if not pod.works), next(iter(self.team), None))

    @property
    def short(self) -> bool:
        """Whether some node has no pod yet."""
        return self.job is not None and len(self.team) < self.job.nodes

    @property
    def runs(self) -> bool:
        """Whether every node's container runs; one that ended well waits for nobody."""
        return not self.short and any(not pod.over for pod in self.team) and all(pod.works for pod in self.team)


@dataclass(frozen=True, slots=True)
class DatasetSight:
    """The dataset that a run or a template names."""

    name: str
    ready: bool = False
    stalled: bool = False
    reason: str = ""
    message: str = ""
    snapshot: SnapshotSummary | None = None
    type: str = ""
    """What its spec says that an example is."""


@dataclass(frozen=True, slots=True)
class PolicySight:
    """A policy that a run names."""

    name: str
    type: str
    versions: Mapping[str, int] = field(default_factory=dict)
    """uid of a run -> version number."""
    artifacts: Mapping[int, Artifact] = field(default_factory=dict)
    """Version number -> what it is."""
    champion: int | None = None


@dataclass(frozen=True, slots=True)
class RunWorld:
    """One reading of everything a run's decision needs."""

    now: datetime
    settings: Settings
    meta: Meta
    spec: RLTrainingRunSpec | None
    spec_error: str
    status: RLTrainingRunStatus
    frozen: bool = False
    """The stored status cannot be read in full but says that the run ended: leave it as it is."""
    dataset: DatasetSight | None = None
    log: DatasetSight | None = None
    """The dataset that spec.stages.rl.datasetRef names; read until the run has started."""
    policy: PolicySight | None = None
    """The policy that it publishes to; read before the start for its champion, and at the end for its number."""
    start: PolicySight | None = None
    """The policy that spec.startFrom names; read until the run has started."""
    store: StoreSettings | None = None
    sight: StageSight = field(default_factory=StageSight)


@dataclass(frozen=True, slots=True)
class DatasetWorld:
    """One reading of everything a dataset's decision needs."""

    now: datetime
    settings: Settings
    meta: Meta
    spec: FeedbackDatasetSpec | None
    spec_error: str
    status: FeedbackDatasetStatus
    store: StoreSettings | None = None
    sight: StageSight = field(default_factory=StageSight)
    new_events: int | str | None = None
    """Events of feedback since the last snapshot, or why nobody could count them; None = nobody was asked."""


@dataclass(frozen=True, slots=True)
class PublishableRun:
    """A run that names the policy, as far as registering needs it."""

    name: str
    uid: str
    waiting: bool
    """It has passed its gates and waits for a number."""
    numbered: bool
    """It has taken its number into its own status."""
    finished: datetime | None = None
    uri: str = ""
    digest: str = ""
    dataset_digest: str = ""
    code_version: str = ""
    base_model: TrainedFrom | None = None
    labels: LabelSet | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class RouterSight(NamedTuple):
    """One router's pod that takes traffic."""

    name: str
    uid: str
    told: str
    """The annotation by which we made its kubelet look."""
    table: str
    """Version of the table that it applied; empty = it did not answer."""
    reaches: frozenset[int]
    """Versions whose servers it reaches."""


@dataclass(frozen=True, slots=True)
class ServingSight:
    """What is seen of a policy's servers and routers."""

    children: tuple[tuple[Resource, KubeObject], ...] = ()
    """Our Deployments, Services, ConfigMaps and HTTPRoutes that serve it, history aside."""
    routers: tuple[RouterSight, ...] = ()
    """Who deals the requests: routers, or the route by which Gateways do, as one of them."""
    gateways: str | None = None
    """What Gateways lack to have taken the route, empty if nothing; None = routers deal."""
    no_routes: bool = False
    """Whether an HTTPRoute is wanted, and the cluster does not know the kind."""
    evidence: Mapping[str, Any] | str | None = None
    """What the analyst says of the present trial, or why it says nothing; None = nobody was asked."""
    arms: Mapping[int, Mapping[str, Any] | str] = field(default_factory=dict)
    """The same of each version of a test with fixed shares."""
    measured: Mapping[tuple[str, int], Measured] = field(default_factory=dict)
    """What Prometheus says of the user's own numbers, by the query's name and the version."""
    troubles: Mapping[int, Trouble] = field(default_factory=dict)
    """What the pods of each version's servers say; of versions that rest and answer nobody asks."""
    store: StoreSettings | None = None


@dataclass(frozen=True, slots=True)
class PolicyWorld:
    """One reading of everything a policy's decision needs."""

    now: datetime
    settings: Settings
    meta: Meta
    spec: RLPolicySpec | None
    spec_error: str
    status: RLPolicyStatus
    runs: tuple[PublishableRun, ...] = ()
    dataset: DatasetSight | None = None
    """The dataset of spec.training.template, if there is one."""
    log: DatasetSight | None = None
    """The dataset of logged answers that the template names, if it does."""
    serving: ServingSight = field(default_factory=ServingSight)


@dataclass(frozen=True, slots=True)
class CreateObject:
    """Create a child; if the name is taken, adopt it when it is ours, else fail loudly."""

    resource: Resource
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Delete exactly the object of that uid."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    foreground: bool = False


@dataclass(frozen=True, slots=True)
class ApplyObject:
    """Make a child say what the manifest says, whatever it said before; never take another owner's object."""

    resource: Resource
    manifest: dict[str, Any]
    uid: str | None = None
    """Of the child as it was seen; None = there was none."""


Action = CreateObject | ApplyObject | DeleteObject


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the object, sent only after its status is stored."""

    reason: Reason
    message: str
    type: Literal["Normal", "Warning"] = "Normal"


@dataclass(frozen=True, slots=True)
class Plan(Generic[StatusT]):
    """What a pass shall do, in this order: actions, one status write, events.

    Attributes:
        actions: deletes and creates, in order.
        status: the whole next status; None = leave the stored one alone.
        events: sent only after the status is stored.
        requeue_after: look again after this long even if nothing is heard; None = only when something changes.
    """

    actions: tuple[Action, ...] = ()
    status: StatusT | None = None
    events: tuple[Event, ...] = ()
    requeue_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The cluster refused one of a plan's actions; the next plan says so in status."""

    reason: Reason
    message: str
