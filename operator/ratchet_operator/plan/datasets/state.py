"""Small pure readings of a dataset's world that several rules share. Decides nothing."""

from __future__ import annotations

from datetime import timedelta

from ratchet_api.base import digest_of
from ratchet_api.conditions import ConditionType, Reason
from ratchet_api.feedback_dataset import FeedbackDatasetSpec
from ratchet_api.judge import PATIENCE_FIELDS
from ratchet_api.names import ANNOTATION_REFRESH
from ratchet_api.stage import Stage
from ratchet_operator.plan.attempts import FRESH_SECONDS
from ratchet_operator.plan.failure import Limits
from ratchet_operator.plan.say import Said
from ratchet_operator.plan.world import DatasetWorld, DeleteObject, JobSight

_CONTENT_FIELDS = ("type", "source", "columns", "labels", "filters", "split", "scoring")


def target_of(spec: FeedbackDatasetSpec, refresh: str) -> str:
    """Digest of everything that a snapshot answers. Defaults are left out: a field added later changes nothing."""
    wire = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    for name in PATIENCE_FIELDS:
        wire.get("scoring", {}).pop(name, None)
    return digest_of({"spec": {k: wire[k] for k in _CONTENT_FIELDS if k in wire}, "refresh": refresh})


def failure_digest(world: DatasetWorld) -> str:
    """Digest of the whole spec but suspend: more memory or a longer deadline is worth another try, as is a refresh."""
    wire = spec_of(world).model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    wire.pop("suspend", None)
    return digest_of({"spec": wire, "refresh": _asked_for(world)})


def settled(world: DatasetWorld) -> bool:
    """Tell whether the wanted snapshot is there and the recorded attempt is the one that made it."""
    status = world.status
    return status.snapshot is not None and status.target == status.snapshot_target == wanted_target(world)


def spec_of(world: DatasetWorld) -> FeedbackDatasetSpec:
    """Return the spec; rules after `refuse_invalid` may rely on it.

    Raises:
        ValueError: it is invalid; a rule stands in the wrong place.
    """
    if world.spec is None:
        raise ValueError(f"{world.meta.title}: a rule asked for an invalid spec: {world.spec_error}")
    return world.spec


def refresh_of(world: DatasetWorld) -> str:
    """Return the value of the refresh annotation."""
    return world.meta.annotations.get(ANNOTATION_REFRESH, "")[:256]


def wanted_target(world: DatasetWorld) -> str:
    """Return the target that a snapshot is wanted for."""
    return target_of(spec_of(world), _asked_for(world))


def _asked_for(world: DatasetWorld) -> str:
    """What tells one snapshot of a spec from the next: the annotation, and the refreshes that were due since."""
    number = world.status.refresh.number if world.status.refresh is not None else 0
    return f"{refresh_of(world)}#{number}" if number else refresh_of(world)


def retargeting(world: DatasetWorld) -> bool:
    """Whether the recorded attempt works for a target that is no longer wanted."""
    return world.spec is not None and world.status.attempt is not None and world.status.target != wanted_target(world)


def image_of(world: DatasetWorld) -> str:
    """Return the image of the snapshot's pod."""
    return spec_of(world).image or world.settings.stage_image


def limits_of(world: DatasetWorld) -> Limits:
    """Return what the spec allows the attempts."""
    return Limits(
        owner=world.meta.name,
        stage=Stage.SNAPSHOT.value,
        backoff_limit=spec_of(world).backoff_limit,
        settings=world.settings,
        now=world.now,
    )


def our_job(world: DatasetWorld) -> JobSight | None:
    """Return the recorded attempt's Job if it is the dataset's own."""
    job = world.sight.job
    return job if job is not None and job.owner_uid == world.meta.uid else None


def live(job: JobSight | None) -> JobSight | None:
    """Return the Job if it neither ended nor is being deleted."""
    return job if job is not None and not job.over and job.deleted_at is None else None


def stop(world: DatasetWorld, job: JobSight) -> DeleteObject:
    """Return the action that stops a Job and waits for its pod."""
    return DeleteObject("jobs", world.meta.namespace, job.name, job.uid, foreground=True)


def fresh(world: DatasetWorld) -> timedelta:
    """Return the pause before a second look at something that changes soon."""
    return world.settings.pause(FRESH_SECONDS)


def not_ready(reason: Reason, message: str) -> Said:
    """Return Ready=False with this reason."""
    return Said(ConditionType.READY, False, reason, message)
