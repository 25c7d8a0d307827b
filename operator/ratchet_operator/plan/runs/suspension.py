"""Rules for `spec.suspend`: stop the Job after recording that we stop it, count nothing, go on when taken back. Pure.

Two passes on purpose: first the condition Suspended=True is stored, then the Job is deleted. Whoever reads the world
after a crash can thus tell a Job that we stopped from one that was lost.
"""

from __future__ import annotations

from ratchet_api.conditions import ConditionType, Reason, is_true
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_operator.plan.attempts import FRESH_SECONDS, stopped_attempt
from ratchet_operator.plan.runs.state import current_stage, limits_of, poll, spec_of, with_stage
from ratchet_operator.plan.say import Said, at_rest, progressing, settle
from ratchet_operator.plan.world import NOW, DeleteObject, Event, JobSight, Plan, RunWorld

RunPlan = Plan[RLTrainingRunStatus]
_CLEARED = {"progress": None, "progress_percent": "", "eta": ""}


def account_for_stop(world: RunWorld) -> RunPlan | None:
    """A Job that was stopped by suspension is going or gone: record the next attempt, uncounted."""
    stage = current_stage(world.status)
    if not is_true(world.status.conditions, ConditionType.SUSPENDED) or stage is None or stage.attempt is None:
        return None
    following = stopped_attempt(stage.attempt, world.sight, limits_of(world, stage.name), owner_uid=world.meta.uid)
    if following is None:
        return None
    status = with_stage(world.status, stage.name, state="Pending", attempt=following)
    return settle(world, status, "Suspended", (), requeue_after=NOW)


def suspend(world: RunWorld) -> RunPlan | None:
    """While spec.suspend is true no Job lives; a Job that just ended is recorded first."""
    if not spec_of(world).suspend:
        return None
    job = world.sight.job
    ours = job is not None and job.owner_uid == world.meta.uid
    if ours and job is not None and job.over:
        return None
    said = (
        Said(ConditionType.SUSPENDED, True, Reason.SUSPENDED_BY_USER, "spec.suspend is true."),
        *at_rest(Reason.SUSPENDED_BY_USER),
        *_not_running(world),
    )
    status = world.status.model_copy(update=_CLEARED)
    live = _live(job) if ours else _live(world.sight.previous)
    if live is None:
        return settle(world, status, "Suspended", said)
    if not is_true(world.status.conditions, ConditionType.SUSPENDED):
        event = Event(Reason.SUSPENDED_BY_USER, f"{world.meta.title} is suspended; its pod writes a checkpoint.")
        return settle(world, status, "Suspended", said, events=(event,), requeue_after=NOW)
    stop = DeleteObject("jobs", world.meta.namespace, live.name, live.uid, foreground=True)
    return settle(world, status, "Suspended", said, actions=(stop,), requeue_after=poll(world, FRESH_SECONDS))


def resume(world: RunWorld) -> RunPlan | None:
    """spec.suspend was taken back: say so and go on where the run stood."""
    if spec_of(world).suspend or not is_true(world.status.conditions, ConditionType.SUSPENDED):
        return None
    text = "spec.suspend is false again."
    said = (
        Said(ConditionType.SUSPENDED, False, Reason.RESUMED, text),
        *progressing(Reason.RESUMED, text),
    )
    event = Event(Reason.RESUMED, f"{world.meta.title} goes on.")
    return settle(world, world.status, "Pending", said, events=(event,), requeue_after=NOW)


def _live(job: JobSight | None) -> JobSight | None:
    return job if job is not None and not job.over and job.deleted_at is None else None


def _not_running(world: RunWorld) -> tuple[Said, ...]:
    started = any(c.type == ConditionType.RUNNING for c in world.status.conditions)
    return (Said(ConditionType.RUNNING, False, Reason.SUSPENDED_BY_USER),) if started else ()
