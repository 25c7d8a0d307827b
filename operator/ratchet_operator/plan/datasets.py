"""The rules of a dataset: which snapshot is wanted, the Job that makes it, and when the dataset is Ready. Pure.

A snapshot is wanted for a *target*: the digest of what decides its content (sources, columns, rules, split) and of
the refresh annotation. A change of resources or of suspend wants no new snapshot. While a new one is made, or after
it failed, the last snapshot stays in status, but the dataset is Ready only for its present target.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from ratchet_api.attempts import StageAttempt
from ratchet_api.base import digest_of
from ratchet_api.conditions import ConditionType, Reason, find_condition, is_true
from ratchet_api.feedback_dataset import FeedbackDatasetSpec, FeedbackDatasetStatus
from ratchet_api.names import ANNOTATION_REFRESH, stage_prefix
from ratchet_api.stage import Owner, SnapshotConfig, Stage, StageInput, StoreConfig
from ratchet_operator.desired.child import StageRequest
from ratchet_operator.desired.configmap import render_configmap
from ratchet_operator.desired.job import render_job
from ratchet_operator.plan.attempts import (
    FRESH_SECONDS,
    POLL_SECONDS,
    Create,
    Done,
    Running,
    Waiting,
    first_attempt,
    judge,
    stopped_attempt,
)
from ratchet_operator.plan.failure import Again, Fatal, Limits
from ratchet_operator.plan.say import Said, at_rest, progressing, settle, stalled, with_remedy
from ratchet_operator.plan.world import (
    NOW,
    CreateObject,
    DatasetWorld,
    DeleteObject,
    Event,
    JobSight,
    Plan,
    Refusal,
)
from ratchet_operator.settings import StoreSettings

DatasetPlan = Plan[FeedbackDatasetStatus]
DATASETS_DIR = "datasets"
_ATTEMPT_LIMIT = 10_000
_STORE_RECHECK_SECONDS = 60.0
_REFUSED_SECONDS = 120.0
_REFUSALS = frozenset(
    {Reason.INVALID_SPEC, Reason.IMAGE_NOT_ALLOWED, Reason.PRIORITY_CLASS_NOT_ALLOWED, Reason.STORE_NOT_CONFIGURED}
)
_CONTENT_FIELDS = ("type", "source", "columns", "labels", "filters", "split")


def target_of(spec: FeedbackDatasetSpec, refresh: str) -> str:
    """Digest of everything that a snapshot answers. Defaults are left out: a field added later changes nothing."""
    wire = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    return digest_of({"spec": {k: wire[k] for k in _CONTENT_FIELDS if k in wire}, "refresh": refresh})


def _failure_digest(world: DatasetWorld) -> str:
    """Digest of the whole spec but suspend: more memory or a longer deadline is worth another try."""
    wire = _spec(world).model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    wire.pop("suspend", None)
    return digest_of({"spec": wire, "refresh": _refresh(world)})


def plan_dataset(world: DatasetWorld) -> DatasetPlan:
    """Decide what a pass does for a dataset. Equal worlds give equal plans."""
    for rule in RULES:
        decided = rule(world)
        if decided is not None:
            return decided
    return _snapshot(world)


def refused_dataset(world: DatasetWorld, refusal: Refusal) -> DatasetPlan:
    """Record that the cluster refused one of the plan's actions; tried again later."""
    message = with_remedy(refusal.reason, f"{world.meta.title}: {refusal.message}")
    hard = refusal.reason in (Reason.FORBIDDEN, Reason.CHILD_CONFLICT)
    said = (*(stalled if hard else progressing)(refusal.reason, message), _not_ready(world, refusal.reason, message))
    return settle(world, world.status, "Starting", said, requeue_after=world.settings.pause(_REFUSED_SECONDS))


def _leave_deleted(world: DatasetWorld) -> DatasetPlan | None:
    return Plan() if world.meta.deleting else None


def _refuse_invalid(world: DatasetWorld) -> DatasetPlan | None:
    """A spec that the models or the allow-lists refuse makes no snapshot."""
    if world.spec is None:
        return _refuse(world, Reason.INVALID_SPEC, world.spec_error)
    image = _image(world)
    if not world.settings.image_allowed(image):
        text = f"{world.meta.title}: spec.image {image!r} is not on the operator's allow-list"
        return _refuse(world, Reason.IMAGE_NOT_ALLOWED, text)
    wanted = world.spec.placement.priority_class_name
    if wanted is not None and wanted not in world.settings.allowed_priority_classes:
        text = f"{world.meta.title}: spec.placement.priorityClassName {wanted!r} is not on the operator's allow-list"
        return _refuse(world, Reason.PRIORITY_CLASS_NOT_ALLOWED, text)
    return None


def _account_for_stop(world: DatasetWorld) -> DatasetPlan | None:
    """A Job that we stopped is going or gone: record the next attempt, uncounted."""
    attempt = world.status.attempt
    if attempt is None or not (is_true(world.status.conditions, ConditionType.SUSPENDED) or _retargeting(world)):
        return None
    following = stopped_attempt(attempt, world.sight, _limits(world), owner_uid=world.meta.uid)
    if following is None:
        return None
    status = world.status.model_copy(update={"attempt": following})
    return settle(world, status, world.status.state, (), requeue_after=NOW)


def _suspend(world: DatasetWorld) -> DatasetPlan | None:
    """While spec.suspend is true no Job lives; a Job that just ended is recorded first."""
    if not _spec(world).suspend:
        return None
    job = _our_job(world)
    recorded = world.status.snapshot_target == world.status.target or bool(world.status.failed_target)
    if job is not None and job.over and not recorded:
        return None
    said = (
        Said(ConditionType.SUSPENDED, True, Reason.SUSPENDED_BY_USER, "spec.suspend is true."),
        *at_rest(Reason.SUSPENDED_BY_USER),
    )
    live = _live(job or world.sight.previous)
    if live is None:
        return settle(world, world.status, "Suspended", said)
    if not is_true(world.status.conditions, ConditionType.SUSPENDED):
        event = Event(Reason.SUSPENDED_BY_USER, f"{world.meta.title} is suspended.")
        return settle(world, world.status, "Suspended", said, events=(event,), requeue_after=NOW)
    return settle(world, world.status, "Suspended", said, actions=(_stop(world, live),), requeue_after=_fresh(world))


def _resume(world: DatasetWorld) -> DatasetPlan | None:
    if _spec(world).suspend or not is_true(world.status.conditions, ConditionType.SUSPENDED):
        return None
    said = (Said(ConditionType.SUSPENDED, False, Reason.RESUMED, "spec.suspend is false again."),)
    event = Event(Reason.RESUMED, f"{world.meta.title} goes on.")
    return settle(world, world.status, "Pending", said, events=(event,), requeue_after=NOW)


def _ready(world: DatasetWorld) -> DatasetPlan | None:
    """The present target has its snapshot; a Job that makes another one (the spec was reverted) is stopped."""
    status, target = world.status, _target(world)
    if status.snapshot is None or status.snapshot_target != target:
        return None
    text = f"Snapshot {status.snapshot.digest} holds {status.snapshot.counts.kept} rows."
    said = (Said(ConditionType.READY, True, Reason.SNAPSHOT_READY, text), *at_rest(Reason.SNAPSHOT_READY))
    status = status.model_copy(
        update={"snapshot_generation": world.meta.generation, "observed_refresh": _refresh(world), "failed_target": ""}
    )
    live = _live(_our_job(world)) if _retargeting(world) else None
    if live is not None:
        return settle(world, status, "Ready", said, actions=(_stop(world, live),), requeue_after=_fresh(world))
    return settle(world, status, "Ready", said)


def _stay_failed(world: DatasetWorld) -> DatasetPlan | None:
    """The present spec failed for good; only another spec or a new refresh value is tried."""
    status = world.status
    if status.failed_target != _failure_digest(world):
        return None
    found = find_condition(status.conditions, ConditionType.STALLED)
    if found is not None and found.status == "True" and found.reason not in _REFUSALS:
        said: tuple[Said, ...] = (_not_ready(world, Reason(found.reason), found.message),)
    else:
        ended = status.attempt.last_exit if status.attempt else None
        reason = _known_reason(ended.reason if ended else "")
        message = with_remedy(reason, f"Stage 'snapshot': {ended.message if ended else 'it failed before'}")
        said = (_not_ready(world, reason, message), *stalled(reason, message))
    return settle(world, status, "Failed", said)


def _known_reason(text: str) -> Reason:
    return Reason(text) if text in set(Reason) else Reason.RETRIES_EXHAUSTED


def _require_store(world: DatasetWorld) -> DatasetPlan | None:
    if world.store is not None or world.sight.job is not None:
        return None
    text = f"{world.meta.title}: namespace {world.meta.namespace!r} has no store"
    plan = _refuse(world, Reason.STORE_NOT_CONFIGURED, text)
    return Plan(status=plan.status, requeue_after=world.settings.pause(_STORE_RECHECK_SECONDS))


def _retarget(world: DatasetWorld) -> DatasetPlan | None:
    """The recorded attempt works for another target: stop its Job, then record an attempt for this one."""
    status, target = world.status, _target(world)
    if status.attempt is not None and status.target == target and not status.failed_target:
        return None
    live = _live(_our_job(world))
    if live is not None:
        said = progressing(Reason.ACCEPTED, "The spec changed; the old snapshot's Job is stopped first.")
        return settle(world, status, "Starting", said, actions=(_stop(world, live),), requeue_after=_fresh(world))
    number = 1 if status.attempt is None else status.attempt.number + 1
    if number > _ATTEMPT_LIMIT:
        text = f"{world.meta.title} used up {_ATTEMPT_LIMIT} attempts; create the dataset anew under another name"
        return _refuse(world, Reason.RETRIES_EXHAUSTED, text)
    attempt = first_attempt(world.meta.name, Stage.SNAPSHOT, number=number)
    status = status.model_copy(update={"attempt": attempt, "target": target, "failed_target": ""})
    text = f"A snapshot is made (attempt {number})."
    said = (_not_ready(world, Reason.ACCEPTED, text), *progressing(Reason.ACCEPTED, text))
    return settle(world, status, "Starting", said, requeue_after=NOW)


RULES: tuple[Callable[[DatasetWorld], DatasetPlan | None], ...] = (
    _leave_deleted,  # the garbage collector works
    _refuse_invalid,  # a spec that cannot run, or asks for what is not allowed
    _account_for_stop,  # a Job that we stopped is going: the next attempt, uncounted
    _suspend,  # spec.suspend: stop the Job, start nothing
    _resume,  # spec.suspend was taken back
    _ready,  # the wanted snapshot is there
    _stay_failed,  # the wanted snapshot failed for good
    _require_store,  # nothing can start without a store
    _retarget,  # record an attempt for the wanted snapshot
)


def _snapshot(world: DatasetWorld) -> DatasetPlan:
    """Move the recorded attempt on by one step."""
    attempt = world.status.attempt
    if attempt is None:
        raise ValueError(f"{world.meta.title}: no attempt is recorded; a rule stands in the wrong place")
    verdict = judge(attempt, world.sight, _limits(world), owner_uid=world.meta.uid, namespace=world.meta.namespace)
    match verdict:
        case Create():
            return _create(world, attempt)
        case Waiting():
            return _wait(world, attempt, verdict)
        case Running():
            text = f"Pod {verdict.pod.name!r} makes the snapshot."
            said = (_not_ready(world, Reason.STAGE_RUNNING, text), *progressing(Reason.STAGE_RUNNING, text))
            status = _started(world, attempt)
            return settle(world, status, "Running", said, requeue_after=world.settings.pause(3 * POLL_SECONDS))
        case Done():
            return _succeed(world, attempt, verdict)
        case Again():
            return _retry(world, verdict)
        case Fatal():
            return _fail(world, verdict)


def _create(world: DatasetWorld, attempt: StageAttempt) -> DatasetPlan:
    spec, store = _spec(world), world.store
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
        image=_image(world),
        resources=spec.resources,
        placement=spec.placement,
        deadline_seconds=left,
        avoid_nodes=attempt.avoid_nodes,
        store=store,
    )
    children = (
        CreateObject("configmaps", render_configmap(request, world.settings)),
        CreateObject("jobs", render_job(request, world.settings)),
    )
    state = world.status.state if world.status.state in ("Starting", "Retrying") else "Starting"
    return settle(world, world.status, state, (), actions=children, requeue_after=_fresh(world))


def snapshot_input(world: DatasetWorld, spec: FeedbackDatasetSpec, store: StoreSettings, attempt: int) -> StageInput:
    """Return the whole of the snapshot stage's stage.json. Every target has a prefix of its own."""
    meta = world.meta
    prefix = stage_prefix(meta.namespace, DATASETS_DIR, meta.name, meta.uid, Stage.SNAPSHOT.value)
    return StageInput(
        owner=Owner(kind=meta.kind, namespace=meta.namespace, name=meta.name, uid=meta.uid),
        attempt=attempt,
        prefix=f"{prefix}/{_target(world)[:16]}",
        store=StoreConfig(uri=store.uri, endpoint=store.endpoint, region=store.region),
        config=SnapshotConfig(
            type=spec.type,
            source=spec.source,
            columns=spec.columns,
            labels=spec.labels,
            filters=spec.filters,
            split=spec.split,
        ),
    )


def _wait(world: DatasetWorld, attempt: StageAttempt, verdict: Waiting) -> DatasetPlan:
    kstatus = stalled if verdict.stalled else progressing
    said = (
        _not_ready(world, verdict.reason, verdict.message),
        *kstatus(verdict.reason, verdict.message),
    )
    retrying = verdict.reason is Reason.WAITING_FOR_RETRY
    state = "Queued" if verdict.queued else "Retrying" if retrying else "Starting"
    actions = (verdict.remove,) if verdict.remove is not None else ()
    requeue = world.settings.pause(verdict.seconds)
    return settle(world, _started(world, attempt), state, said, actions=actions, requeue_after=requeue)


def _succeed(world: DatasetWorld, attempt: StageAttempt, verdict: Done) -> DatasetPlan:
    status = world.status.model_copy(
        update={
            "snapshot": verdict.said.result.snapshot,
            "snapshot_target": world.status.target,
            "snapshot_time": world.now,
            "attempt": attempt.model_copy(update={"active_seconds": verdict.seconds, "not_before": None}),
        }
    )
    snapshot = verdict.said.result.snapshot
    text = f"Snapshot {snapshot.digest[:12]} of {world.meta.title} is ready." if snapshot else ""
    event = Event(Reason.SNAPSHOT_READY, text)
    recorded = settle(world, status, "Ready", (), events=(event,))
    # the rule that says Ready in every later pass says it in this one, too: one write instead of two
    after = _ready(
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
        _not_ready(world, verdict.reason, verdict.message),
        *progressing(Reason.WAITING_FOR_RETRY, verdict.message),
    )
    event = Event(verdict.reason, verdict.message, "Warning" if verdict.counted else "Normal")
    pause = verdict.attempt.not_before - world.now if verdict.attempt.not_before else NOW
    return settle(world, status, "Retrying", said, events=(event,), requeue_after=max(pause, NOW))


def _fail(world: DatasetWorld, verdict: Fatal) -> DatasetPlan:
    status = world.status.model_copy(update={"attempt": verdict.attempt, "failed_target": _failure_digest(world)})
    said = (
        Said(ConditionType.READY, False, verdict.reason, verdict.message),
        *stalled(verdict.reason, verdict.message),
    )
    event = Event(verdict.reason, verdict.message, "Warning")
    return settle(world, status, "Failed", said, events=(event,))


def _refuse(world: DatasetWorld, reason: Reason, detail: str) -> DatasetPlan:
    message = with_remedy(reason, detail)
    said = (Said(ConditionType.READY, False, reason, message), *stalled(reason, message))
    return settle(world, world.status, "Invalid", said)


def _spec(world: DatasetWorld) -> FeedbackDatasetSpec:
    if world.spec is None:
        raise ValueError(f"{world.meta.title}: a rule asked for an invalid spec: {world.spec_error}")
    return world.spec


def _refresh(world: DatasetWorld) -> str:
    return world.meta.annotations.get(ANNOTATION_REFRESH, "")[:256]


def _target(world: DatasetWorld) -> str:
    return target_of(_spec(world), _refresh(world))


def _retargeting(world: DatasetWorld) -> bool:
    """Whether the recorded attempt works for a target that is no longer wanted."""
    return world.spec is not None and world.status.attempt is not None and world.status.target != _target(world)


def _image(world: DatasetWorld) -> str:
    return _spec(world).image or world.settings.stage_image


def _limits(world: DatasetWorld) -> Limits:
    return Limits(
        owner=world.meta.name,
        stage=Stage.SNAPSHOT.value,
        backoff_limit=_spec(world).backoff_limit,
        settings=world.settings,
        now=world.now,
    )


def _our_job(world: DatasetWorld) -> JobSight | None:
    job = world.sight.job
    return job if job is not None and job.owner_uid == world.meta.uid else None


def _live(job: JobSight | None) -> JobSight | None:
    return job if job is not None and not job.over and job.deleted_at is None else None


def _stop(world: DatasetWorld, job: JobSight) -> DeleteObject:
    return DeleteObject("jobs", world.meta.namespace, job.name, job.uid, foreground=True)


def _fresh(world: DatasetWorld) -> timedelta:
    return world.settings.pause(FRESH_SECONDS)


def _started(world: DatasetWorld, attempt: StageAttempt) -> FeedbackDatasetStatus:
    job = _our_job(world)
    if job is None or job.started is None:
        return world.status
    return world.status.model_copy(update={"attempt": attempt.model_copy(update={"started": job.started})})


def _not_ready(world: DatasetWorld, reason: Reason, message: str) -> Said:
    return Said(ConditionType.READY, False, reason, message)
