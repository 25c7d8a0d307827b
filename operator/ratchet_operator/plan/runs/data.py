"""Rules before the first Job: wait for the snapshot and the start policy, then fix every input of the run. Pure.

After `await_data` spoke for the last time, no later change of the dataset, the operator's image or its version
reaches the run: digest, image, code version, store and the policies named stand in status.resolved.
"""

from __future__ import annotations

from typing import NamedTuple

from ratchet_api.conditions import ConditionType, Reason
from ratchet_api.feedback_dataset import DEMONSTRATIONS, PREFERENCES, RATINGS
from ratchet_api.policy_types import GENERATOR
from ratchet_api.resolved import Estimate, ResolvedLog, ResolvedRun
from ratchet_api.snapshot_summary import SnapshotSummary
from ratchet_api.stage import Stage
from ratchet_api.training_run import RLTrainingRunStatus, StageStatus
from ratchet_operator.plan.attempts import first_attempt
from ratchet_operator.plan.runs.pipeline import pipeline, stage_digests
from ratchet_operator.plan.runs.start import find_champion, find_start, start_missing
from ratchet_operator.plan.runs.state import image_of, immutable_digest, spec_of
from ratchet_operator.plan.say import Said, at_rest, progressing, settle, stalled, with_remedy
from ratchet_operator.plan.world import NOW, DatasetSight, Event, Plan, RunWorld
from ratchet_operator.settings import StoreSettings

RunPlan = Plan[RLTrainingRunStatus]


def report_dry_run(world: RunWorld) -> RunPlan | None:
    """A dry run ends with the estimate as soon as the dataset is ready; it starts nothing."""
    spec = spec_of(world)
    if not spec.dry_run:
        return None
    if late := _late(world):
        return _wait(world, late)
    snapshot = _snapshot_of(world.dataset)
    if missing := start_missing(world):
        return _wait_for_start(world, missing)
    kinds, rows = pipeline(spec), snapshot.counts.train
    stages = tuple(kind.stage.value for kind in kinds)
    steps, gpus = sum(kind.steps(spec, rows) for kind in kinds), max(kind.gpus(spec) for kind in kinds)
    estimate = Estimate(stages=stages, train_rows=rows, steps=steps, gpus=gpus)
    text = f"Would run {', '.join(stages)} on {rows} rows: {steps} steps, at most {gpus} GPUs."
    said = (
        _data_ready(world),
        Said(ConditionType.COMPLETE, True, Reason.DRY_RUN, with_remedy(Reason.DRY_RUN, text)),
        *at_rest(Reason.DRY_RUN),
    )
    status = world.status.model_copy(update={"estimate": estimate, "completion_time": world.now})
    return settle(world, status, "DryRun", said, events=(Event(Reason.DRY_RUN, text),))


def await_data(world: RunWorld) -> RunPlan | None:
    """Wait for the datasets; once they are ready, fix the inputs and record the first attempt."""
    if world.status.resolved is not None and world.status.stages:
        return None
    if late := _late(world):
        return _wait(world, late)
    if missing := start_missing(world):
        return _wait_for_start(world, missing)
    if world.store is None:
        raise ValueError(
            f"{world.meta.title}: inputs are to be fixed without a store; a rule stands in the wrong place"
        )
    return _start(world, world.store)


class _Named(NamedTuple):
    """A dataset that the spec names, and what is seen of it."""

    field: str
    name: str
    types: tuple[str, ...]
    """Which types of dataset the field takes."""
    seen: DatasetSight | None


def _named(world: RunWorld) -> tuple[_Named, ...]:
    spec = spec_of(world)
    wanted = DEMONSTRATIONS if spec.policy_type == GENERATOR else "classification"
    own = _Named("spec.datasetRef.name", spec.dataset_ref.name, (wanted,), world.dataset)
    if spec.log_ref is None:
        return (own,)
    types: tuple[str, ...] = (PREFERENCES, RATINGS)
    if spec.stages.preference is not None and spec.stages.preference.algorithm == "dpo":
        types = (PREFERENCES,)
    elif spec.stages.reward_model is not None and spec.stages.reward_model.scores == "judge":
        types = (DEMONSTRATIONS, RATINGS)
    elif spec.policy_type != GENERATOR:
        types = (RATINGS,)
    return (own, _Named(f"spec.{spec.log_field}.name", spec.log_ref.name, types, world.log))


def _late(world: RunWorld) -> _Named | None:
    """The first dataset that cannot be used yet; None = all can."""
    return next(
        (
            each
            for each in _named(world)
            if each.seen is None
            or not each.seen.ready
            or each.seen.snapshot is None
            or each.seen.type not in each.types
        ),
        None,
    )


def _snapshot_of(seen: DatasetSight | None) -> SnapshotSummary:
    if seen is None or seen.snapshot is None:
        raise ValueError("a snapshot is wanted of a dataset that was found not to be ready")
    return seen.snapshot


def _data_ready(world: RunWorld) -> Said:
    text = f"Snapshot {_snapshot_of(world.dataset).digest}"
    if spec_of(world).log_ref is not None:
        text += f", log {_snapshot_of(world.log).digest}"
    return Said(ConditionType.DATA_READY, True, Reason.SNAPSHOT_READY, f"{text}.")


def _wait(world: RunWorld, late: _Named) -> RunPlan:
    name, seen = late.name, late.seen
    if seen is None:
        reason = Reason.DATASET_NOT_FOUND
        detail = f"{late.field} {name!r}: no such FeedbackDataset in namespace {world.meta.namespace!r}"
    elif seen.type not in late.types:
        reason, types = Reason.DATASET_TYPE_MISMATCH, " or ".join(map(repr, late.types))
        detail = f"{late.field} {name!r}: FeedbackDataset {name!r} has type {seen.type!r}, {types} is needed here"
        message = with_remedy(reason, detail)
        said = (Said(ConditionType.DATA_READY, False, reason, message), *stalled(reason, message))
        return settle(world, world.status, "WaitingForData", said)
    elif seen.stalled:
        reason = Reason.DATASET_FAILED
        detail = f"FeedbackDataset {name!r} cannot be used ({seen.reason}): {seen.message}"
    else:
        reason = Reason.WAITING_FOR_DATASET
        detail = f"FeedbackDataset {name!r} has no snapshot of its present spec yet"
    message = with_remedy(reason, detail)
    said = (Said(ConditionType.DATA_READY, False, reason, message), *progressing(reason, message))
    return settle(world, world.status, "WaitingForData", said)


def _wait_for_start(world: RunWorld, missing: str) -> RunPlan:
    message = with_remedy(Reason.START_NOT_FOUND, missing)
    return settle(world, world.status, "Pending", stalled(Reason.START_NOT_FOUND, message))


def _start(world: RunWorld, store: StoreSettings) -> RunPlan:
    spec, image = spec_of(world), image_of(world)
    snapshot, log = _snapshot_of(world.dataset), None
    if spec.log_ref is not None:
        logged = _snapshot_of(world.log)
        log = ResolvedLog(digest=logged.digest, uri=logged.uri, rows=logged.counts.train)
    resolved = ResolvedRun(
        spec_digest=immutable_digest(spec),
        image=image,
        code_version=world.settings.code_version(image),
        dataset_digest=snapshot.digest,
        dataset_uri=snapshot.uri,
        train_rows=snapshot.counts.train,
        log=log,
        store_uri=store.uri,
        start=find_start(world),
        champion=find_champion(world),
    )
    digests = stage_digests(spec, resolved)
    rows = tuple(StageStatus(name=stage.value, input_digest=digest) for stage, digest in digests.items())
    first = rows[0].model_copy(update={"attempt": first_attempt(world.meta.name, Stage(rows[0].name))})
    status = world.status.model_copy(
        update={
            "resolved": resolved,
            "stages": (first, *rows[1:]),
            "stage": first.name,
            "start_time": world.now,
        }
    )
    said = (
        _data_ready(world),
        *progressing(Reason.ACCEPTED, "Inputs are fixed; the run starts."),
    )
    return settle(world, status, "Starting", said, requeue_after=NOW)
