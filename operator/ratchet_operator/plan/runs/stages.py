"""The rule of the current stage: children, waiting, progress, success, retry, failure. Pure.

A pass either records that an attempt is wanted or creates that attempt's Job, never both; so every name stands
in status before an object of that name exists.
"""

from __future__ import annotations

from datetime import timedelta

from ratchet_api.attempts import StageAttempt
from ratchet_api.base import METRIC_KEY_LIMIT, METRICS_LIMIT
from ratchet_api.conditions import ConditionType, Reason
from ratchet_api.stage import NUMERIC_REASONS, Stage
from ratchet_api.training_run import RLTrainingRunStatus, StageStatus
from ratchet_operator.desired.child import StageRequest
from ratchet_operator.desired.job import render_job
from ratchet_operator.plan.attempts import (
    Create,
    Done,
    Running,
    Waiting,
    first_attempt,
    judge,
)
from ratchet_operator.plan.failure import Again, Fatal
from ratchet_operator.plan.runs.pipeline import kind_of, stage_input, without
from ratchet_operator.plan.runs.progress import cleared, with_progress
from ratchet_operator.plan.runs.state import (
    current_stage,
    gpu_hours,
    image_of,
    limits_of,
    poll,
    spec_of,
    used_seconds,
    with_stage,
)
from ratchet_operator.plan.say import Said, at_rest, progressing, settle, stalled, with_remedy
from ratchet_operator.plan.world import NOW, CreateObject, Event, Plan, RunWorld

RunPlan = Plan[RLTrainingRunStatus]


def run_stage(world: RunWorld) -> RunPlan | None:
    """Move the current stage on by one step; None when every stage is finished."""
    row = current_stage(world.status)
    if row is None:
        return None
    if row.attempt is None:
        return _want(world, world.status, row)
    limits = limits_of(world, row.name)
    verdict = judge(row.attempt, world.sight, limits, owner_uid=world.meta.uid, namespace=world.meta.namespace)
    match verdict:
        case Create():
            return _create(world, row, row.attempt)
        case Waiting():
            return _wait(world, row, verdict)
        case Running():
            return _run(world, row, row.attempt, verdict)
        case Done():
            return _succeed(world, row, row.attempt, verdict)
        case Again():
            return _retry(world, row, verdict)
        case Fatal():
            return _fail(world, row, verdict)


def _want(world: RunWorld, status: RLTrainingRunStatus, row: StageStatus) -> RunPlan:
    """Record the first attempt of a stage; its Job follows in the next pass."""
    status = with_stage(status, row.name, attempt=first_attempt(world.meta.name, Stage(row.name)))
    said = progressing(Reason.ACCEPTED, f"Stage {row.name!r} starts.")
    return settle(world, status.model_copy(update={"stage": row.name}), "Starting", said, requeue_after=NOW)


def _create(world: RunWorld, row: StageStatus, attempt: StageAttempt) -> RunPlan:
    spec, store = spec_of(world), world.store
    if store is None:
        raise ValueError(f"{world.meta.title}: stage {row.name!r} is wanted without a store")
    left = spec.active_deadline_seconds - used_seconds(world.status)
    if left <= 0:
        text = f"Stage {row.name!r}: earlier attempts and stages used {used_seconds(world.status)} s of"
        text += f" spec.activeDeadlineSeconds {spec.active_deadline_seconds}"
        reason = Reason.DEADLINE_EXCEEDED
        return _fail(world, row, Fatal(attempt, reason, with_remedy(reason, text)))
    request = StageRequest(
        owner=world.meta,
        stage=Stage(row.name),
        attempt=attempt.number,
        name=attempt.job,
        content=stage_input(world.meta, spec, world.status, store, name=row.name, attempt=attempt.number),
        image=image_of(world),
        resources=kind_of(spec, row.name).resources(spec),
        nodes=kind_of(spec, row.name).nodes(spec),
        placement=spec.placement,
        deadline_seconds=left,
        avoid_nodes=attempt.avoid_nodes,
        store=store,
    )
    job = CreateObject("jobs", render_job(request, world.settings))
    # the status stays as it is, unless it still speaks of an obstacle that is gone
    state = world.status.state if world.status.state in ("Starting", "Retrying") else "Starting"
    status = with_stage(world.status, row.name, state="Pending")
    said = progressing(Reason.ACCEPTED, f"Stage {row.name!r} starts.") if state != world.status.state else ()
    return settle(world, status, state, said, actions=(job,), requeue_after=poll(world, 15))


def _wait(world: RunWorld, row: StageStatus, verdict: Waiting) -> RunPlan:
    job = world.sight.job
    started = job.started if job is not None and job.owner_uid == world.meta.uid else None
    status = world.status
    if started is not None and row.attempt is not None:
        status = with_stage(status, row.name, attempt=row.attempt.model_copy(update={"started": started}))
    status = cleared(status).model_copy(update={"stage": row.name})
    reason, message = verdict.reason, verdict.message
    said = [
        *(stalled(reason, message) if verdict.stalled else progressing(reason, message)),
        Said(ConditionType.RUNNING, False, reason, message),
    ]
    if job is not None and not verdict.stalled:
        said.append(Said(ConditionType.ADMITTED, not verdict.queued, reason, message if verdict.queued else ""))
    retrying = reason is Reason.WAITING_FOR_RETRY
    state = "Queued" if verdict.queued else "Retrying" if retrying else "Starting"
    actions = (verdict.remove,) if verdict.remove is not None else ()
    return settle(world, status, state, said, actions=actions, requeue_after=poll(world, verdict.seconds))


def _run(world: RunWorld, row: StageStatus, attempt: StageAttempt, verdict: Running) -> RunPlan:
    attempt = attempt.model_copy(update={"started": verdict.job.started or attempt.started})
    status = with_stage(world.status, row.name, state="Running", attempt=attempt)
    text = f"Stage {row.name!r} runs in pod {verdict.pod.name!r}" + (
        f" on node {verdict.pod.node!r}." if verdict.pod.node else "."
    )
    said = (
        *progressing(Reason.STAGE_RUNNING, text),
        Said(ConditionType.ADMITTED, True, Reason.STAGE_RUNNING),
        Said(ConditionType.RUNNING, True, Reason.STAGE_RUNNING, text),
    )
    status, wait = with_progress(world, status.model_copy(update={"stage": row.name}), row.name)
    return settle(world, status, "Running", said, requeue_after=wait)


def _succeed(world: RunWorld, row: StageStatus, attempt: StageAttempt, verdict: Done) -> RunPlan:
    """Record the result; resolve also names the stages that are committed already, which then never get a Job."""
    job = world.sight.job
    done = attempt.model_copy(
        update={
            "active_seconds": verdict.seconds,
            "started": (job.started if job else None) or attempt.started,
            "not_before": None,
        }
    )
    status = with_stage(
        world.status,
        row.name,
        state="Succeeded",
        attempt=done,
        artifact=verdict.said.artifact,
        metrics=_bounded(verdict.said.result.metrics),
        choice=verdict.said.result.choice,
        labels=verdict.said.result.labels,
        finished=world.now,
    )
    events = [Event(Reason.STAGE_SUCCEEDED, f"Stage {row.name!r} is committed.")]
    if row.name == Stage.RESOLVE:
        status, cached = _take_hits(world, status, verdict)
        events += [Event(Reason.STAGE_CACHED, f"Stage {name!r} was committed before; skipped.") for name in cached]
    status = cleared(status).model_copy(update={"gpu_hours": gpu_hours(world, status)})
    message = f"Stage {row.name!r} is committed."
    said = (
        *progressing(Reason.STAGE_SUCCEEDED, message),
        Said(ConditionType.RUNNING, False, Reason.STAGE_SUCCEEDED, message),
        Said(ConditionType.ADMITTED, True, Reason.STAGE_SUCCEEDED),
    )
    following = current_stage(status)
    if following is not None:
        wanted = first_attempt(world.meta.name, Stage(following.name))
        status = with_stage(status, following.name, attempt=wanted).model_copy(update={"stage": following.name})
    return settle(world, status, "Starting", said, events=events, requeue_after=NOW)


def _take_hits(
    world: RunWorld, status: RLTrainingRunStatus, verdict: Done
) -> tuple[RLTrainingRunStatus, tuple[str, ...]]:
    """Mark committed stages; a hit counts only while every stage before it is a hit too, else its parent is gone."""
    cached: list[str] = []
    for row in status.stages[1:]:
        hit = verdict.said.result.hits.get(row.name)
        if hit is None:
            break
        status = with_stage(
            status,
            row.name,
            state="Cached",
            artifact=hit.artifact,
            metrics=_bounded(hit.metrics),
            choice=hit.choice,
            labels=hit.labels,
            finished=world.now,
        )
        cached.append(row.name)
    return status, tuple(cached)


def _retry(world: RunWorld, row: StageStatus, verdict: Again) -> RunPlan:
    status = with_stage(cleared(world.status), row.name, state="Pending", attempt=verdict.attempt)
    status = status.model_copy(update={"gpu_hours": gpu_hours(world, status), "stage": row.name})
    said = (
        *progressing(Reason.WAITING_FOR_RETRY, verdict.message),
        Said(ConditionType.RUNNING, False, verdict.reason, verdict.message),
    )
    event = Event(verdict.reason, verdict.message, "Warning" if verdict.counted else "Normal")
    pause = verdict.attempt.not_before - world.now if verdict.attempt.not_before else timedelta(0)
    return settle(world, status, "Retrying", said, events=(event,), requeue_after=max(pause, NOW))


def _fail(world: RunWorld, row: StageStatus, verdict: Fatal) -> RunPlan:
    spec = spec_of(world)
    if verdict.reason in NUMERIC_REASONS and kind_of(spec, row.name).numbers_may_fail(spec):
        return _go_on_without(world, row, verdict)
    status = with_stage(cleared(world.status), row.name, state="Failed", attempt=verdict.attempt, finished=world.now)
    status = status.model_copy(update={"gpu_hours": gpu_hours(world, status), "completion_time": world.now})
    said = (
        Said(ConditionType.FAILED, True, verdict.reason, verdict.message),
        Said(ConditionType.RUNNING, False, verdict.reason),
        Said(ConditionType.STALLED, True, verdict.reason, verdict.message),
        *at_rest(verdict.reason)[:1],
    )
    event = Event(verdict.reason, verdict.message, "Warning")
    return settle(world, status, "Failed", said, events=(event,))


def _go_on_without(world: RunWorld, row: StageStatus, verdict: Fatal) -> RunPlan:
    """Leave the stage failed and go on: what follows works with what the stages before it made."""
    status = with_stage(cleared(world.status), row.name, state="Failed", attempt=verdict.attempt, finished=world.now)
    places = [each.name for each in status.stages]
    for later in status.stages[places.index(row.name) + 1 :]:
        status = with_stage(status, later.name, input_digest=without(later.input_digest, Stage(row.name)))
    following = current_stage(status)
    if following is None:
        raise ValueError(f"{world.meta.title}: stage {row.name!r} is the last one, nothing goes on without it")
    wanted = first_attempt(world.meta.name, Stage(following.name))
    status = with_stage(status, following.name, attempt=wanted).model_copy(update={"stage": following.name})
    status = status.model_copy(update={"gpu_hours": gpu_hours(world, status)})
    message = f"{verdict.message} The run goes on without stage {row.name!r}."
    said = (
        *progressing(Reason.RL_FAILED, message),
        Said(ConditionType.RUNNING, False, verdict.reason, verdict.message),
    )
    event = Event(verdict.reason, message, "Warning")
    return settle(world, status, "Starting", said, events=(event,), requeue_after=NOW)


def _bounded(metrics: dict[str, float]) -> dict[str, float]:
    """At most as many metrics as status holds; the stage writes the important ones first."""
    kept = [(k, v) for k, v in metrics.items() if len(k) <= METRIC_KEY_LIMIT]
    return dict(kept[:METRICS_LIMIT])
