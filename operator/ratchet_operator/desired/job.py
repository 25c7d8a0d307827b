"""The Job of one attempt: its pods satisfy Pod Security `restricted`, whatever the custom resource says.

The stage's input travels in the pod template, which nobody can change once the Job exists; the pod mounts it as a file
(ADR 0010).

Pure; called by the plan rules that create children. The Job itself replaces a pod only for the exits that count
nothing (preemption); every counted retry is a new attempt, hence a new Job.

A stage of several nodes is an indexed Job, a pod per node. One pod that is lost ends the others with the code of a
preemption (they notice), so the same policy replaces all of them, each under its index; any other exit of one pod ends
the Job, hence the attempt, for all. The pods find each other through the store and need no Service (ADR 0014).
"""

from __future__ import annotations

from typing import Any

from ratchet_api.base import canonical_json
from ratchet_api.judge import SECRET_KEY, SecretRef
from ratchet_api.names import (
    ANNOTATION_STAGE_INPUT,
    LABEL_QUEUE,
    PROGRESS_PORT,
    STAGE_CONTAINER,
    STAGE_DIR,
    STAGE_FILE,
)
from ratchet_api.placement import Placement, Resources
from ratchet_api.stage import GRACE_SECONDS, TERMINATION_PATH, UNCOUNTED_EXITS, StageInput, key_secrets_of
from ratchet_operator.desired.child import StageRequest, check_allowed, labels_of, metadata_of, with_hash
from ratchet_operator.settings import Settings

GPU = "nvidia.com/gpu"
_SHM_SHARE = 4
"""/dev/shm may take this part of the pod's memory; what is in it counts against the memory limit."""


def render_job(request: StageRequest, settings: Settings) -> dict[str, Any]:
    """Render the Job.

    Raises:
        NotAllowed: the request names an image or priority class that is not allowed.
        pydantic.ValidationError: the stage's input does not survive its own round trip (a defect).
    """
    check_allowed(request, settings)
    labels = labels_of(request)
    metadata = metadata_of(request, labels)
    pod_metadata = {
        "labels": labels,
        "annotations": {**metadata["annotations"], ANNOTATION_STAGE_INPUT: _stage_input(request)},
    }
    spec: dict[str, Any] = {
        "completions": request.nodes,
        "parallelism": request.nodes,
        "backoffLimit": 0,
        "activeDeadlineSeconds": max(1, request.deadline_seconds),
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": {"metadata": pod_metadata, "spec": _pod(request, settings)},
    }
    if request.nodes > 1:
        spec["completionMode"] = "Indexed"  # gives each pod its number, in JOB_COMPLETION_INDEX
    if request.placement.queue_name is not None:
        # said once: from here on the queue alone owns this field
        spec["suspend"] = True
        metadata["labels"] = {**labels, LABEL_QUEUE: request.placement.queue_name}
    return with_hash({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})


def _stage_input(request: StageRequest) -> str:
    """Return the text of stage.json; it is parsed once more, so that no pod starts with one it cannot read."""
    text = canonical_json(request.content.to_wire()).decode()
    StageInput.model_validate_json(text)
    return text


def _stage_file() -> dict[str, Any]:
    field = {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{ANNOTATION_STAGE_INPUT}']"}
    return {"path": STAGE_FILE, "fieldRef": field}


def _failure_rules() -> list[dict[str, Any]]:
    exits = {"containerName": STAGE_CONTAINER, "values": sorted(UNCOUNTED_EXITS)}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {**exits, "operator": "In"}},
        {"action": "FailJob", "onExitCodes": {**exits, "operator": "NotIn"}},
    ]


def _pod(request: StageRequest, settings: Settings) -> dict[str, Any]:
    scratch = f"{round(request.resources.ephemeral_storage_gi * 1024)}Mi"
    shm = f"{max(64, round(request.resources.memory_gi * 1024 / _SHM_SHARE))}Mi"
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "serviceAccountName": settings.stage_service_account,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.stage_uid,
            "runAsGroup": settings.stage_uid,
            "fsGroup": settings.stage_uid,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(request, settings)],
        "volumes": [
            {"name": "stage", "downwardAPI": {"items": [_stage_file()]}},
            {"name": "scratch", "emptyDir": {"sizeLimit": scratch}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}},
        ],
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return pod | _placed(request.placement, request.avoid_nodes)


def _container(request: StageRequest, settings: Settings) -> dict[str, Any]:
    amounts = quantities(request.resources)
    container: dict[str, Any] = {
        "name": STAGE_CONTAINER,
        "image": request.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["ratchet-stage"],
        "env": _environment(request, settings),
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"}],
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "terminationMessagePath": TERMINATION_PATH,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "stage", "mountPath": STAGE_DIR, "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    if request.store.secret_name:
        # not optional: a missing Secret must be said, not found out by a failing upload
        container["envFrom"] = [{"secretRef": {"name": request.store.secret_name}}]
    return container


def quantities(resources: Resources) -> dict[str, str]:
    """Return the resources as Kubernetes quantities; requests equal limits, so the pod is Guaranteed."""
    amounts = {"cpu": f"{round(resources.cpu * 1000)}m", "memory": f"{round(resources.memory_gi * 1024)}Mi"}
    return amounts | ({GPU: str(resources.gpus)} if resources.gpus else {})


def _environment(request: StageRequest, settings: Settings) -> list[dict[str, Any]]:
    fixed = {
        "RATCHET_STAGE_FILE": f"{STAGE_DIR}/{STAGE_FILE}",
        "RATCHET_TERMINATION_PATH": TERMINATION_PATH,
        "RATCHET_PROGRESS_PORT": str(PROGRESS_PORT),
        "RATCHET_SCRATCH": "/tmp",
        "RATCHET_LOG_LEVEL": settings.log_level,
        "OMP_NUM_THREADS": str(max(1, int(request.resources.cpu))),
        # a thread that waits for another sleeps: spinning would burn the CPU limit, or the neighbour's core
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
    }
    downward = {
        "RATCHET_POD_UID": "metadata.uid",
        "RATCHET_POD_NAME": "metadata.name",
        "RATCHET_NODE_NAME": "spec.nodeName",
    }
    if request.nodes > 1:
        downward["RATCHET_POD_IP"] = "status.podIP"
    return [
        *({"name": k, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": v}}} for k, v in downward.items()),
        *({"name": k, "value": v} for k, v in fixed.items()),
        *(_judge_key(ref) for ref in key_secrets_of(request.content.config)),
    ]


def _judge_key(ref: SecretRef) -> dict[str, Any]:
    """A key of its own name, so that no spec can send another Secret to an endpoint of its choice."""
    key = {"name": ref.name, "key": SECRET_KEY}
    return {"name": ref.variable, "valueFrom": {"secretKeyRef": key}}


def _placed(placement: Placement, avoid_nodes: tuple[str, ...]) -> dict[str, Any]:
    """Node selector, tolerations, priority class, and the nodes whose accelerator failed."""
    part: dict[str, Any] = {}
    if placement.node_selector:
        part["nodeSelector"] = dict(placement.node_selector)
    if placement.tolerations:
        part["tolerations"] = [t.to_wire() for t in placement.tolerations]
    if placement.priority_class_name is not None:
        part["priorityClassName"] = placement.priority_class_name
    if avoid_nodes:
        # by the node's own name (one value per term is the rule there): the hostname label may differ from it
        fields = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in sorted(avoid_nodes)]
        terms = {"nodeSelectorTerms": [{"matchFields": fields}]}
        part["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    return part
