"""What a child is made of: labels, owner reference, spec hash; and the checks made again before rendering.

Pure; called by `job`. The allow-lists are checked when a spec is accepted and once more here, so
that no path leads from a custom resource to a pod that the administrator did not allow (promise P20).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ratchet_api.base import API_VERSION, digest_of
from ratchet_api.names import (
    ANNOTATION_OWNER_NAME,
    ANNOTATION_SPEC_HASH,
    LABEL_ATTEMPT,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    LABEL_OWNER_KIND,
    LABEL_OWNER_NAME,
    LABEL_OWNER_UID,
    LABEL_STAGE,
    MANAGED_BY,
    label_value,
)
from ratchet_api.placement import Placement, Resources
from ratchet_api.stage import Stage, StageInput
from ratchet_operator.plan.world import Meta
from ratchet_operator.settings import Settings, StoreSettings


@dataclass(frozen=True, slots=True)
class StageRequest:
    """Everything that the Job of one attempt is rendered from.

    Attributes:
        owner: the object that the attempt belongs to.
        stage: which stage.
        attempt: its number.
        name: name of the Job, as recorded in status.
        content: the stage's input file.
        image: the stage image.
        resources: of each pod.
        placement: of the pod.
        deadline_seconds: what is left of the owner's active time.
        avoid_nodes: host names that the pod must stay away from.
        store: gives the name of the credentials' Secret.
        nodes: how many pods do the stage together.
    """

    owner: Meta
    stage: Stage
    attempt: int
    name: str
    content: StageInput
    image: str
    resources: Resources
    placement: Placement
    deadline_seconds: int
    avoid_nodes: tuple[str, ...]
    store: StoreSettings
    nodes: int = 1


class NotAllowed(ValueError):
    """A request names an image or priority class that is on no allow-list; a defect of the caller."""


def check_allowed(request: StageRequest, settings: Settings) -> None:
    """Refuse what acceptance should have refused already.

    Raises:
        NotAllowed: names the value and the list it is missing from.
    """
    title = f"{request.owner.title} stage {request.stage.value!r}"
    if not settings.image_allowed(request.image):
        raise NotAllowed(f"{title}: image {request.image!r} is not on images.allowed; add it there or use another")
    wanted = request.placement.priority_class_name
    if wanted is not None and wanted not in settings.allowed_priority_classes:
        raise NotAllowed(f"{title}: priority class {wanted!r} is not on priorityClasses.allowed; add it or drop it")


def labels_of(request: StageRequest) -> dict[str, str]:
    """Labels of the Job and its pods."""
    return {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_COMPONENT: "stage",
        LABEL_OWNER_KIND: request.owner.kind,
        LABEL_OWNER_NAME: label_value(request.owner.name),
        LABEL_OWNER_UID: request.owner.uid,
        LABEL_STAGE: request.stage.value,
        LABEL_ATTEMPT: str(request.attempt),
    }


def owner_reference(owner: Meta) -> dict[str, Any]:
    """The reference by which the garbage collector removes a child with its owner."""
    return {
        "apiVersion": API_VERSION,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": False,  # true would need update on the owner's finalizers subresource
    }


def metadata_of(request: StageRequest, labels: Mapping[str, str]) -> dict[str, Any]:
    """Metadata of a child; a label cannot hold every owner's name, the annotation can."""
    return {
        "name": request.name,
        "namespace": request.owner.namespace,
        "labels": dict(labels),
        "annotations": {ANNOTATION_OWNER_NAME: request.owner.name},
        "ownerReferences": [owner_reference(request.owner)],
    }


def with_hash(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest annotated with the hash of itself, by which an adopted child is recognised."""
    metadata = dict(manifest["metadata"])
    metadata["annotations"] = {**metadata.get("annotations", {}), ANNOTATION_SPEC_HASH: digest_of(manifest)[:16]}
    return {**manifest, "metadata": metadata}
