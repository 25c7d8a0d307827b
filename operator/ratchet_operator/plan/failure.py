"""What follows from a failed Job: a new attempt after a pause, or the end. The exit table of the stage contract, acted.

Pure; called by `attempts.judge`. Counters live in the attempt and travel to its successor, so a decision needs no
history beyond the recorded attempt and the failed Job.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ratchet_api.attempts import StageAttempt, StageExit
from ratchet_api.conditions import Reason
from ratchet_api.names import child_name
from ratchet_api.stage import UNCOUNTED_EXITS, UNKNOWN_EXIT_LIMIT, ExitCode, Retry, exit_rule
from ratchet_operator.plan.say import with_remedy
from ratchet_operator.plan.world import JobSight, PodSight, StageSight
from ratchet_operator.settings import Settings

FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 300.0
_AVOID_LIMIT = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What the owner's spec and the operator allow an attempt."""

    owner: str
    stage: str
    backoff_limit: int
    settings: Settings
    now: datetime


@dataclass(frozen=True, slots=True)
class Again:
    """The stage is tried again: `attempt` is the next one."""

    attempt: StageAttempt
    reason: Reason
    message: str
    counted: bool


@dataclass(frozen=True, slots=True)
class Fatal:
    """The stage failed for good; `attempt` is the one that failed, with its exit recorded."""

    attempt: StageAttempt
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class _Ending:
    reason: Reason
    retry: Retry
    message: str
    code: int | None = None
    oom: bool = False
    node: str = ""


def lost(attempt: StageAttempt, what: str, limits: Limits, *, seconds: int = 0) -> Again | Fatal:
    """The attempt vanished without a result: one counted retry."""
    return _decide(attempt, _Ending(Reason.POD_LOST, Retry.COUNTED, what), limits, seconds)


def stopped(attempt: StageAttempt, limits: Limits, *, seconds: int) -> StageAttempt:
    """The attempt that follows one which we stopped ourselves: nothing is counted and nothing waits."""
    return _next(attempt, limits, seconds=seconds, ended=attempt.last_exit, pause=False)


def judge_failure(attempt: StageAttempt, job: JobSight, sight: StageSight, limits: Limits) -> Again | Fatal:
    """Decide about a Job whose Failed condition is True."""
    return _decide(attempt, _ending(attempt, job, _failed_pod(sight)), limits, job.active_seconds)


def _failed_pod(sight: StageSight) -> PodSight | None:
    """The pod that failed the Job: of several nodes not one that left because another did."""
    ended = [pod for pod in sight.pods if pod.phase == "Failed" or pod.exit_code not in (None, 0)]
    return max(
        ended,
        key=lambda p: (p.exit_code not in UNCOUNTED_EXITS and not p.disrupted, p.created, p.name),
        default=None,
    )


def _ending(attempt: StageAttempt, job: JobSight, pod: PodSight | None) -> _Ending:
    """Say how the attempt ended, in the words of the exit table."""
    where = f"Job {job.name!r}"
    if job.failed_reason == "DeadlineExceeded":
        text = f"{where} was active for {job.active_seconds} s, which used up spec.activeDeadlineSeconds"
        return _Ending(Reason.DEADLINE_EXCEEDED, Retry.NEVER, text)
    if pod is None:
        return _Ending(Reason.POD_LOST, Retry.COUNTED, f"{where} failed ({job.failed_reason}) and its pod is gone")
    if pod.exit_code is None or (pod.exit_code == 0 and pod.phase == "Failed"):
        retry = Retry.UNCOUNTED if pod.disrupted else Retry.COUNTED
        reason = Reason.PREEMPTED if pod.disrupted else Reason.POD_LOST
        why = " ".join(part for part in (pod.exit_reason, pod.raw_message) if part) or "no exit code was seen"
        return _Ending(reason, retry, f"Pod {pod.name!r} of {where} ended without a result: {why}", node=pod.node)
    oom = pod.exit_reason == "OOMKilled"
    code = int(ExitCode.KILLED) if oom else pod.exit_code
    rule = exit_rule(code)
    if pod.disrupted and rule.retry is not Retry.NEVER:
        text = f"Pod {pod.name!r} of {where} was disrupted (exit {pod.exit_code})"
        return _Ending(Reason.PREEMPTED, Retry.UNCOUNTED, text, pod.exit_code)
    killed_again = rule.retry is Retry.ONCE and (attempt.kills >= 1 or oom)
    reason = Reason.OUT_OF_MEMORY if killed_again else rule.reason
    said = pod.said.message if pod.said else pod.raw_message
    text = f"Pod {pod.name!r} of {where} ended with exit code {pod.exit_code}" + (f": {said}" if said else "")
    return _Ending(reason, rule.retry, text, pod.exit_code, oom, pod.node)


def _decide(attempt: StageAttempt, end: _Ending, limits: Limits, seconds: int) -> Again | Fatal:
    """Retry or end, by the row's policy and the counters; uncounted rows are bounded by the deadline alone."""
    exit_ = StageExit(
        code=end.code if end.code is None or 0 <= end.code <= 255 else None,
        reason=end.reason.value,
        message=end.message[:1024],
    )
    counted = end.retry in (Retry.COUNTED, Retry.OTHER_NODE, Retry.ONCE, Retry.LIMITED)
    tally = attempt.model_copy(
        update={
            "counted_failures": attempt.counted_failures + counted,
            "kills": attempt.kills + (end.retry is Retry.ONCE),
            "unknown_exits": attempt.unknown_exits + (end.retry is Retry.LIMITED),
            "last_exit": exit_,
        }
    )
    over = _over(tally, end, limits)
    if over is not None:
        final = attempt.model_copy(
            update={"last_exit": exit_, "active_seconds": attempt.active_seconds + seconds, "not_before": None}
        )
        reason, detail = over
        return Fatal(final, reason, with_remedy(reason, f"Stage {limits.stage!r}: {detail}"))
    avoid = _avoid(tally, end.node) if end.retry is Retry.OTHER_NODE else tally.avoid_nodes
    following = _next(
        tally.model_copy(update={"avoid_nodes": avoid}), limits, seconds=seconds, ended=exit_, pause=counted
    )
    detail = f"Stage {limits.stage!r}: {end.message}; attempt {following.number} follows"
    if counted:
        detail += f" (counted failure {tally.counted_failures} of {limits.backoff_limit} that may be retried)"
    return Again(following, end.reason, with_remedy(end.reason, detail), counted)


def _over(tally: StageAttempt, end: _Ending, limits: Limits) -> tuple[Reason, str] | None:
    if end.retry is Retry.NEVER:
        return end.reason, end.message
    if end.retry is Retry.ONCE and tally.kills >= 2:
        return Reason.OUT_OF_MEMORY, f"{end.message}; it was killed {tally.kills} times"
    if end.retry is Retry.LIMITED and tally.unknown_exits > UNKNOWN_EXIT_LIMIT:
        return Reason.UNKNOWN_EXIT, f"{end.message}; that is outside the contract for the {tally.unknown_exits}rd time"
    if tally.counted_failures > limits.backoff_limit:
        if end.oom:
            return Reason.OUT_OF_MEMORY, end.message
        text = f"{end.message} ({end.reason.value}); spec.backoffLimit {limits.backoff_limit} allows no further attempt"
        return Reason.RETRIES_EXHAUSTED, text
    return None


def _avoid(attempt: StageAttempt, node: str) -> tuple[str, ...]:
    kept = tuple(n for n in attempt.avoid_nodes if n != node)
    return (*kept, node)[-_AVOID_LIMIT:] if node else kept


def _next(attempt: StageAttempt, limits: Limits, *, seconds: int, ended: StageExit | None, pause: bool) -> StageAttempt:
    number = attempt.number + 1
    wait = min(FIRST_PAUSE_SECONDS * 2.0 ** min(attempt.counted_failures - 1, 16), LONGEST_PAUSE_SECONDS)
    return attempt.model_copy(
        update={
            "number": number,
            "job": child_name(limits.owner, limits.stage, number),
            "started": None,
            "not_before": limits.now + limits.settings.pause(wait) if pause else None,
            "active_seconds": attempt.active_seconds + seconds,
            "last_exit": ended,
        }
    )
