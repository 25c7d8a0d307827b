"""Small pure readings and updates of a run's status that several rules share. Decides nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ratchet_api.base import digest_of
from ratchet_api.stage import Stage
from ratchet_api.training_run import RLTrainingRunSpec, RLTrainingRunStatus, StageStatus
from ratchet_operator.plan.failure import Limits
from ratchet_operator.plan.runs.pipeline import kind_of
from ratchet_operator.plan.world import RunWorld

FINISHED_STATES = ("Succeeded", "Cached")
PASSED_STATES = (*FINISHED_STATES, "Failed")
"""A stage that failed is passed only where the run goes on without it; else the run has ended."""

_MUTABLE = ("suspend", "ttlSecondsAfterFinished")


def spec_of(world: RunWorld) -> RLTrainingRunSpec:
    """Return the spec; rules after `refuse_invalid_spec` may rely on it.

    Raises:
        ValueError: it is invalid; a rule stands in the wrong place.
    """
    if world.spec is None:
        raise ValueError(f"{world.meta.title}: a rule asked for an invalid spec: {world.spec_error}")
    return world.spec


def immutable_digest(spec: RLTrainingRunSpec) -> str:
    """Digest of what may not change once started; without defaults, so that a field added later changes nothing."""
    wire = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    return digest_of({k: v for k, v in wire.items() if k not in _MUTABLE})


def image_of(world: RunWorld) -> str:
    """Return the image of the run's stages: the pinned one, else the spec's, else the operator's."""
    if world.status.resolved is not None:
        return world.status.resolved.image
    return spec_of(world).image or world.settings.stage_image


def current_stage(status: RLTrainingRunStatus) -> StageStatus | None:
    """Return the first stage that is still to be run, or None when there is none."""
    return next((s for s in status.stages if s.state not in PASSED_STATES), None)


def stage_named(status: RLTrainingRunStatus, stage: Stage) -> StageStatus | None:
    """Return a stage's row."""
    return next((s for s in status.stages if s.name == stage.value), None)


def with_stage(status: RLTrainingRunStatus, name: str, **update: Any) -> RLTrainingRunStatus:
    """Return the status with one stage's row updated."""
    rows = tuple(s.model_copy(update=update) if s.name == name else s for s in status.stages)
    return status.model_copy(update={"stages": rows})


def used_seconds(status: RLTrainingRunStatus) -> int:
    """Active seconds that all ended attempts of all stages used."""
    return sum(s.attempt.active_seconds for s in status.stages if s.attempt is not None)


def gpu_hours(world: RunWorld, status: RLTrainingRunStatus) -> float:
    """GPUs times active hours of all attempts; the running one by the operator's clock, corrected when it ends."""
    spec = spec_of(world)
    total = 0.0
    for row in status.stages:
        gpus = kind_of(spec, row.name).gpus(spec)
        if row.attempt is not None and gpus:
            total += gpus * row.attempt.active_seconds
            if row.state == "Running" and row.attempt.started is not None:
                total += gpus * max(0.0, (world.now - row.attempt.started).total_seconds())
    return round(total / 3600, 4)


def limits_of(world: RunWorld, stage: str) -> Limits:
    """Return what the spec allows the stage's attempts."""
    return Limits(
        owner=world.meta.name,
        stage=stage,
        backoff_limit=spec_of(world).backoff_limit,
        settings=world.settings,
        now=world.now,
    )


def short_time(seconds: int) -> str:
    """Format a duration for people: 45s, 3m20s, 2h05m."""
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def poll(world: RunWorld, seconds: float) -> timedelta:
    """Return one of the operator's own pauses."""
    return world.settings.pause(seconds)
