"""What status says about a running stage's progress, and when it is worth a write. Pure.

Progress is written when it moved by at least one percent and at most every twenty seconds, so that a thousand runs
do not drown the API server. Nothing decides by it.
"""

from __future__ import annotations

from datetime import timedelta

from ratchet_api.resolved import RunProgress
from ratchet_api.stage import Progress
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_operator.plan.attempts import LONGEST_POLL_SECONDS, POLL_SECONDS
from ratchet_operator.plan.runs.state import gpu_hours, poll, short_time
from ratchet_operator.plan.world import RunWorld


def cleared(status: RLTrainingRunStatus) -> RLTrainingRunStatus:
    """Return the status without progress, for when no pod runs."""
    return status.model_copy(update={"progress": None, "progress_percent": "", "eta": ""})


def progress_due(world: RunWorld) -> bool:
    """Tell whether the running pod should be asked now; `observe` calls this before it asks."""
    last = world.status.progress
    if last is None:
        return True
    age = world.now - last.updated
    return not timedelta(0) <= age < poll(world, POLL_SECONDS)


def with_progress(world: RunWorld, status: RLTrainingRunStatus, stage: str) -> tuple[RLTrainingRunStatus, timedelta]:
    """Return the status with the pod's word in it, if it is news, and when to ask again."""
    told, last = world.sight.progress, status.progress
    wait = poll(world, _seconds_to_next_percent(told or last))
    if told is None:
        return status, wait
    if last is not None and last.stage == stage and last.steps == told.steps:
        moved = abs(_percent(told.step, told.steps) - _percent(last.step, last.steps))
        if moved < 1:
            return status, wait
    return _written(world, status, stage, told), wait


def _seconds_to_next_percent(known: Progress | RunProgress | None) -> float:
    """A pod that needs a minute per percent is asked once a minute: a thousand long runs cost little."""
    if known is None or known.eta_seconds is None:
        return POLL_SECONDS
    left = 100 - _percent(known.step, known.steps)
    return min(max(known.eta_seconds / max(left, 1), POLL_SECONDS), LONGEST_POLL_SECONDS)


def _percent(step: int, steps: int) -> int:
    return min(100, 100 * step // steps) if steps else 0


def _written(world: RunWorld, status: RLTrainingRunStatus, stage: str, told: Progress) -> RLTrainingRunStatus:
    progress = RunProgress(
        stage=stage,
        step=told.step,
        steps=told.steps,
        loss=told.loss,
        eta_seconds=told.eta_seconds,
        updated=world.now,
    )
    return status.model_copy(
        update={
            "progress": progress,
            "progress_percent": f"{_percent(told.step, told.steps)}%",
            "eta": "" if told.eta_seconds is None else short_time(told.eta_seconds),
            "gpu_hours": gpu_hours(world, status),
        }
    )
