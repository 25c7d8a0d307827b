"""Read everything that a pass's decision needs, and nothing else, through the `Cluster` protocol.

`Observer` builds the worlds that `plan` reads. It never decides and never writes. What is read depends only on what
the stored status says the run is waiting for, so that a pass stays cheap: the Job of the recorded attempt by name,
its pods only while the Job can tell something, the dataset until the run has fixed its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from ratchet_api.attempts import StageAttempt
from ratchet_api.conditions import Condition, ConditionType, Reason, is_true
from ratchet_api.feedback_dataset import FeedbackDatasetSpec, FeedbackDatasetStatus
from ratchet_api.kinds import FEEDBACK_DATASET, RL_POLICY, RL_TRAINING_RUN, SpecError
from ratchet_api.names import LABEL_ATTEMPT, LABEL_OWNER_UID, LABEL_STAGE, STORE_CONFIGMAP, child_name
from ratchet_api.policy import RLPolicySpec, RLPolicyStatus
from ratchet_api.rollout import RolloutStatus
from ratchet_api.stage import Progress, Stage
from ratchet_api.training_run import RLTrainingRunSpec, RLTrainingRunStatus, StageStatus
from ratchet_operator.cluster.protocol import Cluster, KubeObject
from ratchet_operator.observe_serving import children_of, serving_sight
from ratchet_operator.plan.datasets.refresh import counted_since
from ratchet_operator.plan.datasets.state import settled
from ratchet_operator.plan.runs.finished import ended
from ratchet_operator.plan.runs.progress import progress_due
from ratchet_operator.plan.runs.state import current_stage
from ratchet_operator.plan.sights import (
    dataset_sight,
    job_sight,
    meta_of,
    pod_sight,
    policy_sight,
    publishable_run,
    refused_pods,
    rows_of,
    table_of,
    text_of,
)
from ratchet_operator.plan.world import (
    DatasetSight,
    DatasetWorld,
    JobSight,
    Meta,
    PodSight,
    PolicySight,
    PolicyWorld,
    RunWorld,
    ServingSight,
    StageSight,
)
from ratchet_operator.settings import Settings, StoreSettings
from ratchet_operator.shared_reads import SharedReads

Clock = Callable[[], datetime]
_UNPUBLISHED = frozenset({Reason.WAITING_FOR_POLICY.value, Reason.POLICY_NOT_FOUND.value})


class Observer:
    """Builds the world of one object."""

    def __init__(self, cluster: Cluster, settings: Settings, clock: Clock) -> None:
        self._cluster = cluster
        self._shared = SharedReads(cluster)
        self._settings = settings
        self._clock = clock

    def bare_run(self, obj: KubeObject) -> RunWorld:
        """Read what the RLTrainingRun itself says, and nothing else."""
        spec, problem = _run_spec(obj)
        status, readable = _run_status(obj)
        return RunWorld(
            now=self._clock(),
            settings=self._settings,
            meta=meta_of(RL_TRAINING_RUN.kind, "rltrainingruns", obj),
            spec=spec,
            spec_error=problem,
            status=status,
            frozen=not readable and _says_ended(obj),
        )

    async def run(self, obj: KubeObject, before: RunWorld | None = None) -> RunWorld:
        """Read what an RLTrainingRun's decision needs.

        Args:
            obj: the run.
            before: what the step before saw, whose status write a moment ago made this object; what it read of the
                store need not be read again.
        """
        world = self.bare_run(obj)
        meta, spec, status = world.meta, world.spec, world.status
        if meta.deleting or spec is None or world.frozen or ended(status):
            return world
        row = current_stage(status)
        sight = StageSight()
        if row is not None and row.attempt is not None and not _first_of_stage(row, before):
            sight = await self._stage(meta, row.name, row.attempt)
        dataset = log = policy = start = store = None
        if status.resolved is None:
            dataset = await self._dataset(meta.namespace, spec.dataset_ref.name)
            if spec.log_ref is not None:
                log = await self._dataset(meta.namespace, spec.log_ref.name)
            if spec.start_from is not None and spec.start_from.policy is not None:
                start = await self._policy(meta.namespace, spec.start_from.policy.name)
        if spec.publish_to is not None and (row is None if status.resolved is not None else spec.with_rl):
            policy = await self._policy(meta.namespace, spec.publish_to.name)
        if status.resolved is None or (row is not None and sight.job is None):
            store = (before.store if before is not None else None) or await self._store(meta.namespace)
        world = replace(world, sight=sight, dataset=dataset, log=log, policy=policy, start=start, store=store)
        if self._running_pod(sight) is not None and progress_due(world):
            return replace(world, sight=replace(sight, progress=await self._progress(sight)))
        return world

    def bare_dataset(self, obj: KubeObject) -> DatasetWorld:
        """Read what the FeedbackDataset itself says, and nothing else."""
        spec, problem = _dataset_spec(obj)
        try:
            status = FeedbackDatasetStatus.model_validate(obj.get("status") or {})
        except ValidationError:
            status = FeedbackDatasetStatus()
        return DatasetWorld(
            now=self._clock(),
            settings=self._settings,
            meta=meta_of(FEEDBACK_DATASET.kind, "feedbackdatasets", obj),
            spec=spec,
            spec_error=problem,
            status=status,
        )

    async def dataset(self, obj: KubeObject, before: DatasetWorld | None = None) -> DatasetWorld:
        """Read what a FeedbackDataset's decision needs; all of it, whatever the step before saw: datasets are few."""
        world = self.bare_dataset(obj)
        meta, attempt = world.meta, world.status.attempt
        if meta.deleting or world.spec is None:
            return world
        since, feedback = counted_since(world), world.spec.source.feedback
        if since is not None and feedback is not None:
            policy = feedback.policy_ref.name
            world = replace(world, new_events=await self._cluster.new_feedback(meta.namespace, policy, since))
        if settled(world):
            return world
        sight = StageSight()
        if attempt is not None:
            sight = await self._stage(meta, Stage.SNAPSHOT.value, attempt)
        store = await self._store(meta.namespace) if sight.job is None else None
        return replace(world, sight=sight, store=store)

    def bare_policy(self, obj: KubeObject) -> PolicyWorld:
        """Read what the RLPolicy itself says, and nothing else."""
        spec, problem = _policy_spec(obj)
        try:
            status = RLPolicyStatus.model_validate(obj.get("status") or {})
        except ValidationError:
            status = _rescued_policy_status(obj)
        return PolicyWorld(
            now=self._clock(),
            settings=self._settings,
            meta=meta_of(RL_POLICY.kind, "rlpolicies", obj),
            spec=spec,
            spec_error=problem,
            status=status,
        )

    async def policy(self, obj: KubeObject, before: PolicyWorld | None = None) -> PolicyWorld:
        """Read what an RLPolicy's decision needs; all of it, whatever the step before saw: policies are few."""
        world = self.bare_policy(obj)
        meta, spec = world.meta, world.spec
        if meta.deleting or spec is None:
            return world
        listed = await self._cluster.list("rltrainingruns", meta.namespace)
        runs = tuple(publishable_run(run, _UNPUBLISHED) for run in listed if _publishes_to(run, meta.name, spec.type))
        dataset = log = None
        if spec.training is not None and not spec.training.suspend:
            template = spec.training.template
            dataset = await self._dataset(meta.namespace, template.dataset_ref.name)
            if template.log_ref is not None:
                log = await self._dataset(meta.namespace, template.log_ref.name)
        serving = await self._serving(world) if self._settings.serving is not None else world.serving
        return replace(world, runs=runs, dataset=dataset, log=log, serving=serving)

    async def _serving(self, world: PolicyWorld) -> ServingSight:
        """What serves the policy; of one that was never served, nothing is read."""
        if world.spec is None or (world.spec.serving is None and world.status.rollout is None):
            return world.serving
        if world.spec.serving is None:
            return ServingSight(children=await children_of(self._cluster, world.meta, world.status))
        sight = await serving_sight(self._cluster, world.meta, world.status, world.spec)
        return replace(sight, store=await self._store(world.meta.namespace))

    async def _stage(self, meta: Meta, stage: str, attempt: StageAttempt) -> StageSight:
        """Read the recorded attempt: its Job, and of its pods no more than the Job can tell something about."""
        found = await self._cluster.get("jobs", meta.namespace, attempt.job)
        if found is None:
            return StageSight(previous=await self._previous(meta, stage, attempt))
        job = job_sight(found)
        if job.owner_uid != meta.uid or (job.suspended and not job.over and not job.active):
            return StageSight(job=job)
        labels = {LABEL_OWNER_UID: meta.uid, LABEL_STAGE: stage, LABEL_ATTEMPT: str(attempt.number)}
        pods = tuple(pod_sight(pod) for pod in await self._cluster.list("pods", meta.namespace, labels=labels))
        sight = StageSight(job=job, pods=pods)
        if sight.short and not job.over:
            return replace(sight, refused_pods=refused_pods(await self._cluster.events(found)))
        return sight

    async def _previous(self, meta: Meta, stage: str, attempt: StageAttempt) -> JobSight | None:
        """The Job of the attempt before: it must not live when the next one is created."""
        if attempt.number == 1:
            return None
        found = await self._cluster.get("jobs", meta.namespace, child_name(meta.name, stage, attempt.number - 1))
        before = job_sight(found) if found is not None else None
        return before if before is not None and before.owner_uid == meta.uid else None

    def _running_pod(self, sight: StageSight) -> PodSight | None:
        pod = sight.pod
        return pod if pod is not None and sight.runs and not pod.over and not pod.deleting else None

    async def _progress(self, sight: StageSight) -> Progress | None:
        pod = self._running_pod(sight)
        told = await self._cluster.progress(pod.manifest) if pod is not None else None
        try:
            return Progress.model_validate(told) if told is not None else None
        except ValidationError:
            return None

    async def _dataset(self, namespace: str, name: str) -> DatasetSight | None:
        found = await self._shared.get("feedbackdatasets", namespace, name)
        return dataset_sight(found) if found is not None else None

    async def _policy(self, namespace: str, name: str) -> PolicySight | None:
        found = await self._shared.get("rlpolicies", namespace, name)
        return policy_sight(found) if found is not None else None

    async def _store(self, namespace: str) -> StoreSettings | None:
        """The namespace's own store if its ConfigMap names one, else the operator's default."""
        found = await self._shared.get("configmaps", namespace, STORE_CONFIGMAP)
        data = table_of(found.get("data")) if found is not None else {}
        uri = text_of(data.get("uri")).strip()
        if not uri:
            return self._settings.store
        return StoreSettings(
            uri=uri,
            endpoint=text_of(data.get("endpoint")).strip() or None,
            region=text_of(data.get("region")).strip() or "us-east-1",
            secret_name=text_of(data.get("secretName")).strip() or None,
        )


def _first_of_stage(row: StageStatus, before: RunWorld | None) -> bool:
    """Whether the step before recorded this first attempt: its Job was named only a moment ago.

    Looking for it would be in vain. Should another operator have created it in between, our create is refused with
    a Conflict, and `apply` then reads what is there.
    """
    if before is None or row.attempt is None or row.attempt.number != 1:
        return False
    return all(old.attempt is None for old in before.status.stages if old.name == row.name)


def _run_spec(obj: KubeObject) -> tuple[RLTrainingRunSpec | None, str]:
    try:
        return RL_TRAINING_RUN.parse_spec(obj), ""
    except SpecError as error:
        return None, str(error)


def _dataset_spec(obj: KubeObject) -> tuple[FeedbackDatasetSpec | None, str]:
    try:
        return FEEDBACK_DATASET.parse_spec(obj), ""
    except SpecError as error:
        return None, str(error)


def _policy_spec(obj: KubeObject) -> tuple[RLPolicySpec | None, str]:
    try:
        return RL_POLICY.parse_spec(obj), ""
    except SpecError as error:
        return None, str(error)


def _run_status(obj: KubeObject) -> tuple[RLTrainingRunStatus, bool]:
    """Return the stored status and whether it could be read; one that cannot be read counts as empty."""
    try:
        return RLTrainingRunStatus.model_validate(obj.get("status") or {}), True
    except ValidationError:
        return RLTrainingRunStatus(), False


def _says_ended(obj: KubeObject) -> bool:
    """Whether an unreadable status still says Complete or Failed: such a run must never start again."""
    conditions = []
    for row in rows_of(table_of(obj.get("status")).get("conditions")):
        try:
            conditions.append(Condition.model_validate(row))
        except ValidationError:
            if row.get("status") == "True" and row.get("type") in (ConditionType.COMPLETE, ConditionType.FAILED):
                return True
    return is_true(conditions, ConditionType.COMPLETE) or is_true(conditions, ConditionType.FAILED)


def _rescued_policy_status(obj: KubeObject) -> RLPolicyStatus:
    """Of an unreadable status keep what must never be lost: numbers rise, whatever else is broken."""
    raw = table_of(obj.get("status"))
    rollout = table_of(raw.get("rollout"))
    numbers = [raw.get("nextVersion"), *(_plus_one(row.get("version")) for row in rows_of(raw.get("versions")))]
    kept = RolloutStatus(
        experiments=_highest([rollout.get("experiments")], 0),
        settled_up_to=_highest([rollout.get("settledUpTo")], 0),
        rows=_highest([rollout.get("rows")], 0),
    )
    return RLPolicyStatus(next_version=_highest(numbers, 1), rollout=kept if rollout else None)


def _highest(numbers: Iterable[object], least: int) -> int:
    return max((n for n in numbers if isinstance(n, int) and least <= n <= 2**31), default=least)


def _plus_one(value: Any) -> int | None:
    return value + 1 if isinstance(value, int) else None


def _publishes_to(run: Mapping[str, Any], policy: str, policy_type: str) -> bool:
    spec = table_of(run.get("spec"))
    return table_of(spec.get("publishTo")).get("name") == policy and spec.get("policyType") == policy_type
