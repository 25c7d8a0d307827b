"""Rules for runs that need no more work: being deleted, Complete or Failed, past their time to live. Pure."""

from __future__ import annotations

from datetime import timedelta

from ratchet_api.conditions import ConditionType, Reason, is_true
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_operator.plan.world import DeleteObject, Event, Plan, RunWorld

RunPlan = Plan[RLTrainingRunStatus]


def ended(status: RLTrainingRunStatus) -> bool:
    """Tell whether the run is Complete or Failed."""
    return is_true(status.conditions, ConditionType.COMPLETE) or is_true(status.conditions, ConditionType.FAILED)


def leave_deleted(world: RunWorld) -> RunPlan | None:
    """A run that is being deleted is left to the garbage collector, which frees its pods."""
    return Plan() if world.meta.deleting else None


def leave_finished(world: RunWorld) -> RunPlan | None:
    """A finished run stays as it is until its time to live is over; its result is in status by then."""
    if world.frozen:
        return Plan()
    if not ended(world.status):
        return None
    finished = world.status.completion_time
    ttl = world.spec.ttl_seconds_after_finished if world.spec is not None else None
    if ttl is None or finished is None:
        return Plan()
    left = finished + timedelta(seconds=ttl) - world.now
    if left > timedelta(0):
        return Plan(requeue_after=left)
    run = DeleteObject(world.meta.resource, world.meta.namespace, world.meta.name, world.meta.uid)
    message = f"{world.meta.title} finished {ttl} s ago or more (spec.ttlSecondsAfterFinished) and is deleted."
    return Plan(actions=(run,), events=(Event(Reason.TTL_EXPIRED, message),))
