"""Turn the API server's JSON into the sights that rules read.

Tolerant by design: a field that is missing or of an unknown shape reads as "not there", because a pass must not
crash on what somebody else wrote. Pure; called by `observe` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from ratchet_api.attempts import Artifact
from ratchet_api.base import parse_time
from ratchet_api.conditions import ConditionType
from ratchet_api.names import ANNOTATION_INDEX, STAGE_CONTAINER
from ratchet_api.policy import TrainedFrom
from ratchet_api.snapshot_summary import SnapshotSummary
from ratchet_api.stage import Stage, TerminationMessage
from ratchet_api.training_run import RLTrainingRunStatus
from ratchet_operator.cluster.protocol import KubeObject, Resource
from ratchet_operator.plan.world import (
    DatasetSight,
    JobSight,
    Meta,
    PodSight,
    PolicySight,
    PublishableRun,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def text_of(value: object) -> str:
    """Return a string as it is, anything else as empty."""
    return value if isinstance(value, str) else ""


def table_of(value: object) -> Mapping[str, Any]:
    """Return a mapping as it is, anything else as empty."""
    return value if isinstance(value, Mapping) else {}


def rows_of(value: object) -> Sequence[Mapping[str, Any]]:
    """Return the mappings of a list, anything else as empty."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []


def time_of(value: object) -> datetime | None:
    """Return an RFC 3339 time, or None if it is none."""
    try:
        return parse_time(value) if isinstance(value, str) else None
    except ValueError:
        return None


def meta_of(kind: str, resource: Resource, obj: KubeObject) -> Meta:
    """Read an object's metadata."""
    metadata = table_of(obj.get("metadata"))
    generation = metadata.get("generation")
    return Meta(
        kind=kind,
        resource=resource,
        namespace=text_of(metadata.get("namespace")),
        name=text_of(metadata.get("name")),
        uid=text_of(metadata.get("uid")),
        generation=generation if isinstance(generation, int) else 0,
        deleting=bool(metadata.get("deletionTimestamp")),
        labels={k: text_of(v) for k, v in table_of(metadata.get("labels")).items()},
        annotations={k: text_of(v) for k, v in table_of(metadata.get("annotations")).items()},
    )


def controller_of(obj: KubeObject) -> Mapping[str, Any]:
    """Return the owner reference that controls the object, or an empty mapping."""
    owners = rows_of(table_of(obj.get("metadata")).get("ownerReferences"))
    return next((owner for owner in owners if owner.get("controller") is True), {})


def condition_of(conditions: object, kind: str) -> Mapping[str, Any]:
    """Return the condition of that type if its status is True, else an empty mapping."""
    return next((c for c in rows_of(conditions) if c.get("type") == kind and c.get("status") == "True"), {})


def job_sight(obj: KubeObject) -> JobSight:
    """Read a Job."""
    metadata, spec, status = (table_of(obj.get(part)) for part in ("metadata", "spec", "status"))
    owner = controller_of(obj)
    complete = condition_of(status.get("conditions"), "Complete")
    failed = condition_of(status.get("conditions"), "Failed")
    active, nodes = status.get("active"), spec.get("parallelism")
    return JobSight(
        name=text_of(metadata.get("name")),
        uid=text_of(metadata.get("uid")),
        owner_uid=text_of(owner.get("uid")),
        owner_text=f"{owner.get('kind')} {owner.get('name')!r}" if owner else "nobody",
        created=time_of(metadata.get("creationTimestamp")),
        deleted_at=time_of(metadata.get("deletionTimestamp")),
        suspended=spec.get("suspend") is True,
        started=time_of(status.get("startTime")),
        ended=time_of(status.get("completionTime")) or time_of((complete or failed).get("lastTransitionTime")),
        complete=bool(complete),
        failed_reason=(text_of(failed.get("reason")) or "Failed") if failed else "",
        failed_message=text_of(failed.get("message")),
        active=active if isinstance(active, int) else 0,
        nodes=nodes if isinstance(nodes, int) else 1,
    )


def _parse_termination(text: str) -> TerminationMessage | None:
    try:
        return TerminationMessage.model_validate(json.loads(text))
    except ValueError:
        return None


def pod_sight(obj: KubeObject) -> PodSight:
    """Read a pod of a stage."""
    metadata, spec, status = (table_of(obj.get(part)) for part in ("metadata", "spec", "status"))
    containers = rows_of(status.get("containerStatuses"))
    state = table_of(next((c.get("state") for c in containers if c.get("name") == STAGE_CONTAINER), None))
    ended, waiting, running = (table_of(state.get(k)) for k in ("terminated", "waiting", "running"))
    raw = text_of(ended.get("message"))
    scheduled = next((c for c in rows_of(status.get("conditions")) if c.get("type") == "PodScheduled"), {})
    lost = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    code = ended.get("exitCode")
    return PodSight(
        name=text_of(metadata.get("name")),
        uid=text_of(metadata.get("uid")),
        created=time_of(metadata.get("creationTimestamp")) or EPOCH,
        phase=text_of(status.get("phase")) or "Pending",
        node=text_of(spec.get("nodeName")),
        deleting=bool(metadata.get("deletionTimestamp")),
        started=bool(running or ended),
        exit_code=code if isinstance(code, int) else None,
        exit_reason=text_of(ended.get("reason")) or text_of(status.get("reason")),
        said=_parse_termination(raw) if raw else None,
        raw_message=raw or text_of(status.get("message")),
        waiting_reason=text_of(waiting.get("reason")),
        waiting_message=text_of(waiting.get("message")),
        unschedulable=text_of(scheduled.get("message")) or "no node fits" if lost else "",
        disrupted=bool(condition_of(status.get("conditions"), "DisruptionTarget")),
        index=_index_of(metadata),
        manifest=obj,
    )


def _index_of(metadata: Mapping[str, Any]) -> int:
    """Number of a pod of an indexed Job; the annotation is there wherever such Jobs are."""
    text = text_of(table_of(metadata.get("annotations")).get(ANNOTATION_INDEX))
    return int(text) if text.isdecimal() and len(text) < 6 else 0


def refused_pods(events: Iterable[KubeObject]) -> str:
    """Return the newest message by which the Job controller says that it cannot create a pod; empty = none."""
    refusals = [e for e in events if e.get("reason") == "FailedCreate"]
    newest = max(refusals, key=_event_time, default=None)
    return text_of(newest.get("message")) or text_of(newest.get("note")) if newest else ""


def _event_time(event: KubeObject) -> datetime:
    times = (time_of(event.get(k)) for k in ("lastTimestamp", "deprecatedLastTimestamp", "eventTime"))
    created = time_of(table_of(event.get("metadata")).get("creationTimestamp"))
    return max((t for t in (*times, created) if t), default=EPOCH)


def dataset_sight(obj: KubeObject) -> DatasetSight:
    """Read the dataset that a run or template names; ready only if its snapshot answers its present spec."""
    meta, status = table_of(obj.get("metadata")), table_of(obj.get("status"))
    ready = next((c for c in rows_of(status.get("conditions")) if c.get("type") == ConditionType.READY), {})
    stalled = condition_of(status.get("conditions"), ConditionType.STALLED)
    try:
        snapshot = SnapshotSummary.model_validate(status.get("snapshot"))
    except ValidationError:
        snapshot = None
    current = ready.get("observedGeneration") == meta.get("generation")
    return DatasetSight(
        name=text_of(meta.get("name")),
        ready=ready.get("status") == "True" and snapshot is not None and current and not meta.get("deletionTimestamp"),
        stalled=bool(stalled),
        reason=text_of((stalled or ready).get("reason")),
        message=text_of((stalled or ready).get("message")),
        snapshot=snapshot,
        type=text_of(table_of(obj.get("spec")).get("type")),
    )


def policy_sight(obj: KubeObject) -> PolicySight:
    """Read a policy that a run names."""
    status = table_of(obj.get("status"))
    versions, champion = rows_of(status.get("versions")), status.get("champion")
    return PolicySight(
        name=text_of(table_of(obj.get("metadata")).get("name")),
        type=text_of(table_of(obj.get("spec")).get("type")),
        versions={
            row["runUid"]: row["version"]
            for row in versions
            # a variant has the run of another version, whose number is the run's
            if isinstance(row.get("runUid"), str) and isinstance(row.get("version"), int) and not row.get("variantOf")
        },
        artifacts={
            row["version"]: Artifact(uri=row["uri"], digest=row["digest"])
            for row in versions
            if isinstance(row.get("version"), int) and text_of(row.get("uri")) and len(text_of(row.get("digest"))) == 64
        },
        champion=champion if isinstance(champion, int) else None,
    )


def publishable_run(obj: KubeObject, waiting_reasons: frozenset[str]) -> PublishableRun:
    """Read a run that names a policy; `waiting_reasons` of its Published condition mean that it wants a number."""
    meta, raw = table_of(obj.get("metadata")), table_of(obj.get("status"))
    name, uid = text_of(meta.get("name")), text_of(meta.get("uid"))
    try:
        status = RLTrainingRunStatus.model_validate(raw)
    except ValidationError:
        return PublishableRun(name=name, uid=uid, waiting=False, numbered=True)
    published = next((c for c in status.conditions if c.type == ConditionType.PUBLISHED), None)
    wants = published is not None and published.status == "Unknown" and published.reason in waiting_reasons
    if not wants or status.artifact is None or status.resolved is None or meta.get("deletionTimestamp"):
        return PublishableRun(name=name, uid=uid, waiting=False, numbered=status.version is not None)
    return PublishableRun(
        name=name,
        uid=uid,
        waiting=True,
        numbered=False,
        finished=max((s.finished for s in status.stages if s.finished), default=None),
        uri=status.artifact.uri,
        digest=status.artifact.digest,
        dataset_digest=status.resolved.dataset_digest,
        code_version=status.resolved.code_version,
        base_model=_trained_from(table_of(table_of(obj.get("spec")).get("baseModel"))),
        labels=next((stage.labels for stage in status.stages if stage.name == Stage.EVALUATE), None),
        metrics=dict(status.metrics),
    )


def _trained_from(base: Mapping[str, Any]) -> TrainedFrom | None:
    uri = text_of(base.get("uri"))
    return TrainedFrom(uri=uri, sha256=text_of(base.get("sha256"))) if uri else None
