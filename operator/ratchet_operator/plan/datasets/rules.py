"""Rules of a dataset before its Job moves: refused, suspended, ready, failed, aimed at another target. Pure."""

from __future__ import annotations

from ratchet_api.conditions import ConditionType, Reason, find_condition, is_true
from ratchet_api.feedback_dataset import FeedbackDatasetStatus
from ratchet_api.stage import Stage
from ratchet_operator.plan.allowed import not_allowed
from ratchet_operator.plan.attempts import first_attempt, stopped_attempt
from ratchet_operator.plan.datasets.refresh import begun, looking_ahead, schedule_problem
from ratchet_operator.plan.datasets.state import (
    failure_digest,
    fresh,
    image_of,
    limits_of,
    live,
    not_ready,
    our_job,
    refresh_of,
    retargeting,
    settled,
    spec_of,
    stop,
    wanted_target,
)
from ratchet_operator.plan.say import Said, at_rest, progressing, settle, stalled, with_remedy
from ratchet_operator.plan.world import NOW, DatasetWorld, DeleteObject, Event, Plan

DatasetPlan = Plan[FeedbackDatasetStatus]
_ATTEMPT_LIMIT = 10_000_000
_STORE_RECHECK_SECONDS = 60.0
_REFUSALS = frozenset(
    {Reason.INVALID_SPEC, Reason.IMAGE_NOT_ALLOWED, Reason.PRIORITY_CLASS_NOT_ALLOWED, Reason.STORE_NOT_CONFIGURED}
)


def leave_deleted(world: DatasetWorld) -> DatasetPlan | None:
    """A dataset that is being deleted is left to the garbage collector; its snapshots stay in the store."""
    return Plan() if world.meta.deleting else None


def refuse_invalid(world: DatasetWorld) -> DatasetPlan | None:
    """A spec that the models or the allow-lists refuse makes no snapshot."""
    if world.spec is None:
        return _refuse(world, Reason.INVALID_SPEC, world.spec_error)
    schedule = world.spec.refresh.schedule if world.spec.refresh is not None else None
    if schedule is not None and (problem := schedule_problem(schedule, world.now)):
        return _refuse(world, Reason.INVALID_SPEC, f"{world.meta.title}: {problem}")
    refused = not_allowed(world.meta.title, image_of(world), world.spec.placement, world.settings)
    return None if refused is None else _refuse(world, *refused)


def account_for_stop(world: DatasetWorld) -> DatasetPlan | None:
    """A Job that we stopped is going or gone: record the next attempt, uncounted."""
    attempt = world.status.attempt
    if settled(world):
        return None  # nothing was read about the attempt, because nothing is wanted of it
    if attempt is None or not (is_true(world.status.conditions, ConditionType.SUSPENDED) or retargeting(world)):
        return None
    following = stopped_attempt(attempt, world.sight, limits_of(world), owner_uid=world.meta.uid)
    if following is None:
        return None
    status = world.status.model_copy(update={"attempt": following})
    return settle(world, status, world.status.state, (), requeue_after=NOW)


def suspend(world: DatasetWorld) -> DatasetPlan | None:
    """While spec.suspend is true no Job lives; a Job that just ended is recorded first."""
    if not spec_of(world).suspend:
        return None
    job = our_job(world)
    recorded = world.status.snapshot_target == world.status.target or bool(world.status.failed_target)
    if job is not None and job.over and not recorded:
        return None
    said = (
        Said(ConditionType.SUSPENDED, True, Reason.SUSPENDED_BY_USER, "spec.suspend is true."),
        *at_rest(Reason.SUSPENDED_BY_USER),
    )
    running = live(job or world.sight.previous)
    if running is None:
        return settle(world, world.status, "Suspended", said)
    if not is_true(world.status.conditions, ConditionType.SUSPENDED):
        event = Event(Reason.SUSPENDED_BY_USER, f"{world.meta.title} is suspended.")
        return settle(world, world.status, "Suspended", said, events=(event,), requeue_after=NOW)
    return settle(world, world.status, "Suspended", said, actions=(stop(world, running),), requeue_after=fresh(world))


def resume(world: DatasetWorld) -> DatasetPlan | None:
    """spec.suspend was taken back: say so and go on."""
    if spec_of(world).suspend or not is_true(world.status.conditions, ConditionType.SUSPENDED):
        return None
    said = (Said(ConditionType.SUSPENDED, False, Reason.RESUMED, "spec.suspend is false again."),)
    event = Event(Reason.RESUMED, f"{world.meta.title} goes on.")
    return settle(world, world.status, "Pending", said, events=(event,), requeue_after=NOW)


def report_ready(world: DatasetWorld) -> DatasetPlan | None:
    """The present target has its snapshot; a Job that makes another one (the spec was reverted) is stopped."""
    status, target = world.status, wanted_target(world)
    if status.snapshot is None or status.snapshot_target != target:
        return None
    text = f"Snapshot {status.snapshot.digest} holds {status.snapshot.counts.kept} rows."
    suspended = spec_of(world).suspend
    said = (
        Said(ConditionType.READY, True, Reason.SNAPSHOT_READY, text),
        Said(ConditionType.SUSPENDED, suspended, Reason.SUSPENDED_BY_USER if suspended else Reason.RESUMED),
        *at_rest(Reason.SNAPSHOT_READY),
    )
    refresh, again = looking_ahead(world)
    status = status.model_copy(
        update={
            "snapshot_generation": world.meta.generation,
            "observed_refresh": refresh_of(world),
            "failed_target": "",
            "refresh": refresh,
        }
    )
    running = live(our_job(world)) if retargeting(world) else None
    if running is not None:
        return settle(world, status, "Ready", said, actions=(stop(world, running),), requeue_after=fresh(world))
    return settle(world, status, "Ready", said, requeue_after=again)


def stay_failed(world: DatasetWorld) -> DatasetPlan | None:
    """The present spec failed for good; only another spec, a new refresh value or a refresh that is due is tried."""
    status = world.status
    if status.failed_target != failure_digest(world):
        return None
    refresh, again = looking_ahead(world)
    status = status.model_copy(update={"refresh": refresh})
    found = find_condition(status.conditions, ConditionType.STALLED)
    if found is not None and found.status == "True" and found.reason not in _REFUSALS:
        said: tuple[Said, ...] = (not_ready(_known_reason(found.reason), found.message),)
    else:
        ended = status.attempt.last_exit if status.attempt else None
        reason = _known_reason(ended.reason if ended else "")
        message = with_remedy(reason, f"Stage 'snapshot': {ended.message if ended else 'it failed before'}")
        said = (not_ready(reason, message), *stalled(reason, message))
    return settle(world, status, "Failed", said, requeue_after=again)


def _known_reason(text: str) -> Reason:
    return Reason(text) if text in set(Reason) else Reason.RETRIES_EXHAUSTED


def require_store(world: DatasetWorld) -> DatasetPlan | None:
    """Without a store no snapshot can be kept."""
    if world.store is not None or world.sight.job is not None:
        return None
    text = f"{world.meta.title}: namespace {world.meta.namespace!r} has no store"
    plan = _refuse(world, Reason.STORE_NOT_CONFIGURED, text)
    return Plan(status=plan.status, requeue_after=world.settings.pause(_STORE_RECHECK_SECONDS))


def retarget(world: DatasetWorld) -> DatasetPlan | None:
    """The recorded attempt works for another target: stop its Job, then record an attempt for this one."""
    status, target = world.status, wanted_target(world)
    if status.attempt is not None and status.target == target and not status.failed_target:
        return None
    running = live(our_job(world))
    if running is not None:
        said = progressing(Reason.ACCEPTED, "The spec changed; the old snapshot's Job is stopped first.")
        return settle(world, status, "Starting", said, actions=(stop(world, running),), requeue_after=fresh(world))
    number = 1 if status.attempt is None else status.attempt.number + 1
    if number > _ATTEMPT_LIMIT:
        text = f"{world.meta.title} used up {_ATTEMPT_LIMIT} attempts; create the dataset anew under another name"
        return _refuse(world, Reason.RETRIES_EXHAUSTED, text)
    attempt = first_attempt(world.meta.name, Stage.SNAPSHOT, number=number)
    changes = {"attempt": attempt, "target": target, "failed_target": "", "refresh": begun(world)}
    status = status.model_copy(update=changes)
    text = f"A snapshot is made (attempt {number})."
    said = (not_ready(Reason.ACCEPTED, text), *progressing(Reason.ACCEPTED, text))
    actions = _outlived(world)
    return settle(world, status, "Starting", said, actions=actions, requeue_after=NOW)


def _outlived(world: DatasetWorld) -> tuple[DeleteObject, ...]:
    """The ended Job of the attempt before, where snapshots are made for ever: else Jobs pile up for ever."""
    job = our_job(world)
    if spec_of(world).refresh is None or job is None or job.deleted_at is not None:
        return ()
    return (DeleteObject("jobs", world.meta.namespace, job.name, job.uid),)


def _refuse(world: DatasetWorld, reason: Reason, detail: str) -> DatasetPlan:
    message = with_remedy(reason, detail)
    said = (Said(ConditionType.READY, False, reason, message), *stalled(reason, message))
    return settle(world, world.status, "Invalid", said)
