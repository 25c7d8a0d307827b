"""The last rule of a dataset: the recorded attempt's children, waiting, success, retry, failure. Pure."""

from __future__ import annotations

from ratchet_api.attempts import StageAttempt
from ratchet_api.conditions import ConditionType, Reason
from ratchet_api.feedback_dataset import FeedbackDatasetSpec, FeedbackDatasetStatus
from ratchet_api.names import stage_prefix
from ratchet_api.stage import Owner, SnapshotConfig, Stage, StageInput, StoreConfig
from ratchet_operator.desired.child import StageRequest
from ratchet_operator.desired.job import render_job
from ratchet_operator.plan.attempts import (
    POLL_SECONDS,
    Create,
    Done,
    Running,
    Waiting,
    judge,
)
from ratchet_operator.plan.datasets.rules import report_ready
from ratchet_operator.plan.datasets.state import (
    failure_digest,
    fresh,
    image_of,
    limits_of,
    not_ready,
    our_job,
    spec_of,
    wanted_target,
)
from ratchet_operator.plan.failure import Again, Fatal
from ratchet_operator.plan.say import Said, progressing, settle, stalled, with_remedy
from ratchet_operator.plan.world import (
    NOW,
    CreateObject,
    DatasetWorld,
    Event,
    Plan,
)
from ratchet_operator.settings import StoreSettings

DatasetPlan = Plan[FeedbackDatasetStatus]
DATASETS_DIR = "datasets"


def make_snapshot(world: DatasetWorld) -> DatasetPlan:
    """Move the recorded attempt on by one step."""
    attempt = world.status.attempt
    if attempt is None:
        raise ValueError(f"{world.meta.title}: no attempt is recorded; a rule stands in the wrong place")
    verdict = judge(attempt, world.sight, limits_of(world), owner_uid=world.meta.uid, namespace=world.meta.namespace)
    match verdict:
        case Create():
            return _create(world, attempt)
        case Waiting():
            return _wait(world, attempt, verdict)
        case Running():
            text = f"Pod {verdict.pod.name!r} makes the snapshot."
            said = (not_ready(Reason.STAGE_RUNNING, text), *progressing(Reason.STAGE_RUNNING, text))
            status = _started(world, attempt)
            return settle(world, status, "Running", said, requeue_after=world.settings.pause(3 * POLL_SECONDS))
        case Done():
            return _succeed(world, attempt, verdict)
        case Again():
            return _retry(world, verdict)
        case Fatal():
            return _fail(world, verdict)


def _create(world: DatasetWorld, attempt: StageAttempt) -> DatasetPlan:
    spec, store = spec_of(world), world.store
    if store is None:
        raise ValueError(f"{world.meta.title}: a Job is wanted without a store")
    left = spec.active_deadline_seconds - attempt.active_seconds
    if left <= 0:
        text = f"Stage 'snapshot': earlier attempts used {attempt.active_seconds} s of"
        text += f" spec.activeDeadlineSeconds {spec.active_deadline_seconds}"
        message = with_remedy(Reason.DEADLINE_EXCEEDED, text)
        return _fail(world, Fatal(attempt, Reason.DEADLINE_EXCEEDED, message))
    request = StageRequest(
        owner=world.meta,
        stage=Stage.SNAPSHOT,
        attempt=attempt.number,
        name=attempt.job,
        content=snapshot_input(world, spec, store, attempt.number),
        image=image_of(world),
        resources=spec.resources,
        placement=spec.placement,
        deadline_seconds=left,
        avoid_nodes=attempt.avoid_nodes,
        store=store,
    )
    job = CreateObject("jobs", render_job(request, world.settings))
    state = world.status.state if world.status.state in ("Starting", "Retrying") else "Starting"
    return settle(world, world.status, state, (), actions=(job,), requeue_after=fresh(world))


def snapshot_input(world: DatasetWorld, spec: FeedbackDatasetSpec, store: StoreSettings, attempt: int) -> StageInput:
    """Return the whole of the snapshot stage's stage.json. Every target has a prefix of its own."""
    meta = world.meta
    prefix = stage_prefix(meta.namespace, DATASETS_DIR, meta.name, meta.uid, Stage.SNAPSHOT.value)
    return StageInput(
        owner=Owner(kind=meta.kind, namespace=meta.namespace, name=meta.name, uid=meta.uid),
        attempt=attempt,
        prefix=f"{prefix}/{wanted_target(world)[:16]}",
        store=StoreConfig(uri=store.uri, endpoint=store.endpoint, region=store.region),
        config=SnapshotConfig(
            type=spec.type,
            source=spec.source,
            columns=spec.columns,
            labels=spec.labels,
            filters=spec.filters,
            split=spec.split,
            scoring=spec.scoring,
        ),
    )


def _wait(world: DatasetWorld, attempt: StageAttempt, verdict: Waiting) -> DatasetPlan:
    kstatus = stalled if verdict.stalled else progressing
    said = (
        not_ready(verdict.reason, verdict.message),
        *kstatus(verdict.reason, verdict.message),
    )
    retrying = verdict.reason is Reason.WAITING_FOR_RETRY
    state = "Queued" if verdict.queued else "Retrying" if retrying else "Starting"
    actions = (verdict.remove,) if verdict.remove is not None else ()
    requeue = world.settings.pause(verdict.seconds)
    return settle(world, _started(world, attempt), state, said, actions=actions, requeue_after=requeue)


def _succeed(world: DatasetWorld, attempt: StageAttempt, verdict: Done) -> DatasetPlan:
    job = our_job(world)
    status = world.status.model_copy(
        update={
            "snapshot": verdict.said.result.snapshot,
            "snapshot_target": world.status.target,
            "snapshot_time": world.now,
            "attempt": attempt.model_copy(
                update={
                    "active_seconds": verdict.seconds,
                    "started": (job.started if job else None) or attempt.started,
                    "not_before": None,
                }
            ),
        }
    )
    snapshot = verdict.said.result.snapshot
    text = f"Snapshot {snapshot.digest[:12]} of {world.meta.title} is ready." if snapshot else ""
    event = Event(Reason.SNAPSHOT_READY, text)
    recorded = settle(world, status, "Ready", (), events=(event,))
    # the rule that says Ready in every later pass says it in this one, too: one write instead of two
    after = report_ready(
        DatasetWorld(
            now=world.now,
            settings=world.settings,
            meta=world.meta,
            spec=world.spec,
            spec_error="",
            status=recorded.status or status,
        )
    )
    return Plan(status=after.status if after else recorded.status, events=(event,), requeue_after=NOW)


def _retry(world: DatasetWorld, verdict: Again) -> DatasetPlan:
    status = world.status.model_copy(update={"attempt": verdict.attempt})
    said = (
        not_ready(verdict.reason, verdict.message),
        *progressing(Reason.WAITING_FOR_RETRY, verdict.message),
    )
    event = Event(verdict.reason, verdict.message, "Warning" if verdict.counted else "Normal")
    pause = verdict.attempt.not_before - world.now if verdict.attempt.not_before else NOW
    return settle(world, status, "Retrying", said, events=(event,), requeue_after=max(pause, NOW))


def _fail(world: DatasetWorld, verdict: Fatal) -> DatasetPlan:
    status = world.status.model_copy(update={"attempt": verdict.attempt, "failed_target": failure_digest(world)})
    said = (
        Said(ConditionType.READY, False, verdict.reason, verdict.message),
        *stalled(verdict.reason, verdict.message),
    )
    event = Event(verdict.reason, verdict.message, "Warning")
    return settle(world, status, "Failed", said, events=(event,))


def _started(world: DatasetWorld, attempt: StageAttempt) -> FeedbackDatasetStatus:
    job = our_job(world)
    if job is None or job.started is None:
        return world.status
    return world.status.model_copy(update={"attempt": attempt.model_copy(update={"started": job.started})})
