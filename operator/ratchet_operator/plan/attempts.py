"""One try at a stage: what the recorded attempt and its Job mean together.

`judge` is the part that runs and datasets share: it looks at the recorded attempt and at what is seen of it and says
what is true now. The rules of each kind turn that verdict into status and children. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from ratchet_api.attempts import StageAttempt
from ratchet_api.conditions import Reason
from ratchet_api.names import child_name
from ratchet_api.stage import EndState, Stage, TerminationMessage
from ratchet_operator.plan.failure import (
    LONGEST_PAUSE_SECONDS,
    Again,
    Fatal,
    Limits,
    judge_failure,
    lost,
    stopped,
)
from ratchet_operator.plan.pending import why_waiting
from ratchet_operator.plan.say import with_remedy
from ratchet_operator.plan.world import DeleteObject, JobSight, PodSight, StageSight

POLL_SECONDS = 20.0
"""How often a running pod is asked for its progress."""
LONGEST_POLL_SECONDS = 60.0
"""How seldom a slow pod is asked."""
PENDING_SECONDS = 300.0
QUIET_SECONDS = 900.0
"""Longest pause for a Job whose news come by its watch anyway: admission by a queue, its first pod."""
"""How often a waiting Job is looked at without an event. Its cause is mended by something whose event wakes us."""
FRESH_SECONDS = 15.0
"""The second look at a Job that has no pod yet. Nothing wakes us if a quota refuses its pod, so looks go on, each
after twice the age of the Job."""


@dataclass(frozen=True, slots=True)
class Create:
    """The children of the recorded attempt are wanted and do not exist."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing runs; it will without anybody's help, or as soon as the message's cause is mended."""

    reason: Reason
    message: str
    seconds: float
    queued: bool = False
    stalled: bool = False
    remove: DeleteObject | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """The stage's container runs, on every node of it; the pod is that of node 0."""

    job: JobSight
    pod: PodSight


@dataclass(frozen=True, slots=True)
class Done:
    """The stage is committed."""

    said: TerminationMessage
    seconds: int


Verdict = Create | Waiting | Running | Done | Again | Fatal


def first_attempt(owner: str, stage: Stage, *, number: int = 1) -> StageAttempt:
    """Return the record of a stage's first try."""
    return StageAttempt(number=number, job=child_name(owner, stage.value, number))


def judge(attempt: StageAttempt, sight: StageSight, limits: Limits, *, owner_uid: str, namespace: str) -> Verdict:
    """Say what is true of the recorded attempt.

    Args:
        attempt: as recorded in status.
        sight: its Job, pods and the Job before it.
        limits: of the owner's spec.
        owner_uid: uid of the object that the attempt belongs to.
        namespace: where its Jobs live.
    """
    job = sight.job
    if job is None:
        return _without_job(attempt, sight, limits, namespace)
    if job.owner_uid != owner_uid:
        text = f"Job {job.name!r} exists and is controlled by {job.owner_text}, uid {job.owner_uid or 'none'}"
        text += f", not by uid {owner_uid} of {limits.owner!r}"
        return Waiting(Reason.CHILD_CONFLICT, with_remedy(Reason.CHILD_CONFLICT, text), PENDING_SECONDS, stalled=True)
    if job.complete:
        return _complete(attempt, job, sight, limits)
    if job.failed_reason:
        return judge_failure(attempt, job, sight, limits)
    if job.deleted_at is not None:
        text = f"Job {job.name!r} is being deleted by somebody else"
        return lost(attempt, text, limits, seconds=job.active_seconds)
    if sight.runs and sight.pod is not None and not job.suspended:
        return Running(job, sight.pod)
    reason, message = why_waiting(sight)
    return Waiting(reason, message, _look_again(job, sight, reason, limits), queued=job.suspended)


def stopped_attempt(attempt: StageAttempt, sight: StageSight, limits: Limits, *, owner_uid: str) -> StageAttempt | None:
    """Return the attempt after one that we stopped, once its Job is going or gone; None = it is not.

    Only for an owner that records in status that it stops its Job: that is what tells this from a loss.
    """
    job = sight.job
    if job is None:
        return stopped(attempt, limits, seconds=0) if attempt.started is not None else None
    if job.owner_uid != owner_uid or job.over or job.deleted_at is None:
        return None
    return stopped(attempt, limits, seconds=job.active_seconds)


def _without_job(attempt: StageAttempt, sight: StageSight, limits: Limits, namespace: str) -> Verdict:
    if attempt.started is not None:
        return lost(attempt, f"Job {attempt.job!r} was running and is gone", limits)
    before = sight.previous
    if before is not None and not before.over:
        text = f"Job {before.name!r} of the attempt before must be gone first"
        remove = None
        if before.deleted_at is None:
            remove = DeleteObject("jobs", namespace, before.name, before.uid, foreground=True)
        return Waiting(Reason.WAITING_FOR_POD, f"{text}.", FRESH_SECONDS, remove=remove)
    if attempt.not_before is not None:
        left = attempt.not_before - limits.now
        # more than the longest pause is left only when the clock stepped back
        if 0 < left.total_seconds() <= limits.settings.pause(LONGEST_PAUSE_SECONDS).total_seconds():
            why = attempt.last_exit.message if attempt.last_exit else ""
            text = f"Attempt {attempt.number} of stage {limits.stage!r} starts after a pause. Last: {why}"
            return Waiting(Reason.WAITING_FOR_RETRY, text, left.total_seconds() / limits.settings.time_scale)
    return Create()


def _complete(attempt: StageAttempt, job: JobSight, sight: StageSight, limits: Limits) -> Done | Again | Fatal:
    said = next((p.said for p in sight.pods if p.exit_code == 0 and p.said is not None), None)
    if said is not None and not _lacks(said, limits.stage):
        return Done(said, attempt.active_seconds + job.active_seconds)
    missing = "its pod is gone or left no readable message" if said is None else _lacks(said, limits.stage)
    text = f"Job {job.name!r} is complete, but {missing}; the next attempt reads what is committed"
    return lost(attempt, text, limits, seconds=job.active_seconds)


def _lacks(said: TerminationMessage, stage: str) -> str:
    """Return what a successful stage's message lacks; empty = nothing."""
    if said.state not in (EndState.COMMITTED, EndState.ALREADY_COMMITTED, EndState.SUPERSEDED):
        return f"its pod says {said.state.value} with exit code 0"
    if stage == Stage.SNAPSHOT and said.result.snapshot is None:
        return "its message names no snapshot"
    if stage not in (Stage.SNAPSHOT, Stage.RESOLVE) and said.artifact is None:
        return "its message names no artifact"
    return ""


def _look_again(job: JobSight, sight: StageSight, reason: Reason, limits: Limits) -> float:
    """Seconds until the next look; a refusal of the pod stands in an event, which no watch of ours brings."""
    if (
        reason not in (Reason.WAITING_FOR_POD, Reason.WAITING_FOR_QUEUE)
        or (sight.pods and not sight.short)
        or job.created is None
    ):
        return PENDING_SECONDS
    age = (limits.now - job.created).total_seconds() / limits.settings.time_scale
    return min(max(2 * age, FRESH_SECONDS), QUIET_SECONDS)
