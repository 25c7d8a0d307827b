"""What a policy is served by: its servers, a Deployment and a headless Service for each version, and its routers.

Decides manifests, all pods of them Pod Security `restricted`, from plain requests. Never decides which versions run or
who gets them: `plan.rollout` does, and the routers' table is `router_table`'s. Pure and deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ratchet_api.attempts import Artifact
from ratchet_api.base import canonical_json, digest_of
from ratchet_api.generation import KeptGeneration
from ratchet_api.names import (
    ANNOTATION_OWNER_NAME,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    LABEL_OWNER_KIND,
    LABEL_OWNER_NAME,
    LABEL_OWNER_UID,
    LABEL_POLICY,
    LABEL_VERSION,
    MANAGED_BY,
    ROUTER_PORT,
    SERVER_PORT,
    history_name,
    label_value,
    router_name,
    server_name,
)
from ratchet_api.placement import NodePlacement, Resources
from ratchet_api.rollout import ShareRow
from ratchet_operator.desired.child import owner_reference, with_hash
from ratchet_operator.desired.engine import SERVER_RESOURCES, engine_of
from ratchet_operator.desired.job import quantities
from ratchet_operator.desired.router_bootstrap import ADMIN_PATH_ALLOWED, BOOTSTRAP_FILE, bootstrap
from ratchet_operator.desired.router_table import TABLE_PATH, RouterTable, router_files
from ratchet_operator.plan.world import Meta
from ratchet_operator.settings import Platform, StoreSettings

Manifest = dict[str, Any]
STATS_PORT = 9902
ROUTER, SERVER = "router", "server"
"""Components, by which a policy's objects are told apart."""
TABLE_DIR, ROUTER_DIR = "/etc/ratchet/table", "/etc/ratchet/router"
SIGNING_DIR, TOKEN_DIR = "/etc/ratchet/signing", "/var/run/secrets/ratchet"
GATEWAY_AUDIENCE = "ratchet-gateway"
HISTORY_FILE = "rows.json"
DRAIN_SECONDS = 20
_SLEEP_SECONDS = 5
_GRACE_SECONDS = DRAIN_SECONDS + 15
_ANNOTATION_BOOTSTRAP = "ratchet.dev/bootstrap"


@dataclass(frozen=True, slots=True)
class Servers:
    """One version's servers.

    Attributes:
        owner: the policy.
        version: its number.
        artifact: what they load.
        store: where it lies.
        replicas: pods.
        resources: of each; with an engine beside it, of that.
        placement: of them.
        engine: who makes a generator's tokens.
        generation: how it answers where a request does not say so itself; None = as it was trained.
    """

    owner: Meta
    version: int
    artifact: Artifact
    store: StoreSettings
    replicas: int
    resources: Resources
    placement: NodePlacement
    engine: Literal["builtin", "vllm"] = "builtin"
    generation: KeptGeneration | None = None


@dataclass(frozen=True, slots=True)
class Routers:
    """A policy's routers.

    Attributes:
        owner: the policy.
        replicas: pods.
        resources: of each; a worker of Envoy for each whole core.
        cookie: in which a subject of ours comes back; None = who names no subject gets the champion.
    """

    owner: Meta
    replicas: int
    resources: Resources
    cookie: str | None = None


def render_servers(servers: Servers, platform: Platform) -> tuple[Manifest, Manifest]:
    """Return the Deployment and the Service of one version."""
    name, labels = server_name(servers.owner.name, servers.version), labels_of(servers.owner, SERVER, servers.version)
    resources = servers.resources if servers.engine == "builtin" else SERVER_RESOURCES
    container = {
        "name": "server",
        "image": platform.server_image,
        "command": ["ratchet-serve"],
        "env": [{"name": key, "value": value} for key, value in _environment(servers, platform, resources).items()],
        "ports": [{"name": "http", "containerPort": SERVER_PORT, "protocol": "TCP"}],
        # a big policy takes a while to be fetched and checked; nothing else is asked before it is there
        "startupProbe": {**_probe("/readyz", SERVER_PORT), "periodSeconds": 5, "failureThreshold": 360},
        "readinessProbe": {**_probe("/readyz", SERVER_PORT), "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**_probe("/healthz", SERVER_PORT), "periodSeconds": 10, "failureThreshold": 6},
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "signing", "mountPath": SIGNING_DIR, "readOnly": True},
            *([{"name": "token", "mountPath": TOKEN_DIR, "readOnly": True}] if platform.gateway_url else []),
        ],
    }
    scratch = f"{round(servers.resources.ephemeral_storage_gi * 1024)}Mi"
    volumes: list[Manifest] = [
        {"name": "scratch", "emptyDir": {"sizeLimit": scratch}},
        {"name": "signing", "secret": {"secretName": platform.signing_secret}},
    ]
    if platform.gateway_url:
        token = {"audience": GATEWAY_AUDIENCE, "expirationSeconds": 3600, "path": "token"}
        volumes.append({"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}})
    credentials: Manifest = {}
    if servers.store.secret_name:
        credentials["envFrom"] = [{"secretRef": {"name": servers.store.secret_name}}]
    if servers.engine == "builtin":
        pod = _pod(container | credentials, volumes, resources, platform)
    else:
        pod = _with_engine(container, credentials, volumes, servers, platform)
    pod |= _placed(servers.placement)
    deployment = _deployment(servers.owner, name, labels, servers.replicas, pod, {})
    return deployment, _service(servers.owner, name, labels, SERVER_PORT, SERVER_PORT, headless=True)


def _with_engine(
    server: Manifest, credentials: Manifest, volumes: list[Manifest], servers: Servers, platform: Platform
) -> Manifest:
    """The pod of a server that vLLM makes tokens for."""
    scratch = volumes[0]["emptyDir"]["sizeLimit"]
    beside = engine_of(
        server,
        image=platform.vllm_image,
        resources=servers.resources,
        scratch=scratch,
        drain_seconds=_SLEEP_SECONDS + DRAIN_SECONDS,
    )
    told = [{"name": key, "value": value} for key, value in beside.environment.items()]
    env = [*server["env"], *told]
    server = server | {"env": env, "volumeMounts": [*server["volumeMounts"], *beside.mounts]}
    pod = _pod(server, [*volumes, *beside.volumes], SERVER_RESOURCES, platform)
    pod["containers"].append(_hardened(beside.container, servers.resources, platform))
    fetch = beside.fetch | {"env": env} | credentials
    pod["initContainers"] = [_hardened(fetch, SERVER_RESOURCES, platform)]
    return pod


def render_routers(
    routers: Routers, table: RouterTable, platform: Platform
) -> tuple[Manifest, Manifest, Manifest, Manifest]:
    """Return the ConfigMaps of the table and of the start, the Deployment and the Service.

    Only the table's ConfigMap changes in a rollout: the pods read it as it is and are not started anew.
    """
    owner, name = routers.owner, router_name(routers.owner.name)
    labels, start = labels_of(owner, ROUTER), f"{name}-start"
    text = bootstrap(owner.name, table_dir=TABLE_DIR, port=ROUTER_PORT, stats_port=STATS_PORT, cookie=routers.cookie)
    workers = str(max(1, int(routers.resources.cpu)))
    arguments = [
        "-c",
        f"{ROUTER_DIR}/{BOOTSTRAP_FILE}",
        "--disable-hot-restart",
        "--concurrency",
        workers,
        "-l",
        "warn",
    ]
    container = {
        "name": "router",
        "image": platform.router_image,
        "command": ["envoy", *arguments],
        "ports": [
            {"name": "http", "containerPort": ROUTER_PORT, "protocol": "TCP"},
            {"name": "stats", "containerPort": STATS_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {**_probe(TABLE_PATH, ROUTER_PORT), "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {
            **_probe(f"{ADMIN_PATH_ALLOWED}?filter=^server.live$", STATS_PORT),
            "periodSeconds": 10,
            "failureThreshold": 6,
        },
        "volumeMounts": [
            {"name": "table", "mountPath": TABLE_DIR, "readOnly": True},
            {"name": "start", "mountPath": ROUTER_DIR, "readOnly": True},
        ],
    }
    volumes: list[Manifest] = [
        {"name": "table", "configMap": {"name": name}},
        {"name": "start", "configMap": {"name": start}},
    ]
    pod = _pod(container, volumes, routers.resources, platform)
    annotations = {_ANNOTATION_BOOTSTRAP: digest_of(text)[:16]}
    return (
        _config_map(owner, name, labels, router_files(table)),
        _config_map(owner, start, labels, {BOOTSTRAP_FILE: text}),
        _deployment(owner, name, labels, routers.replicas, pod, annotations),
        _service(owner, name, labels, 80, ROUTER_PORT, headless=False),
    )


def render_budget(deployment: Manifest) -> Manifest | None:
    """Return what lets drained nodes take one pod of a Deployment at a time; None = it has but one.

    A single pod gets none: a budget that kept it would hold up every drain for ever, another would keep nothing.
    """
    if deployment["spec"]["replicas"] < 2:
        return None
    metadata = {key: deployment["metadata"][key] for key in ("name", "namespace", "labels", "ownerReferences")}
    metadata["annotations"] = {ANNOTATION_OWNER_NAME: deployment["metadata"]["annotations"][ANNOTATION_OWNER_NAME]}
    spec = {
        "maxUnavailable": 1,
        # pods that are not ready answer nobody: those of a version that never starts would hold up drains, too
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": deployment["spec"]["selector"],
    }
    return with_hash({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec})


def render_history(owner: Meta, rows: Sequence[ShareRow]) -> Manifest:
    """Return the ConfigMap that keeps rows of the history which the status has no room for; it never changes."""
    text = json.dumps([row.to_wire() for row in rows], indent=1) + "\n"
    name, labels = history_name(owner.name, rows[0].number), labels_of(owner, "history")
    return _config_map(owner, name, labels, {HISTORY_FILE: text}, immutable=True)


def _environment(servers: Servers, platform: Platform, resources: Resources) -> dict[str, str]:
    """What `ratchet_serving.settings` reads."""
    store, namespace = servers.store, servers.owner.namespace
    said = {
        "RATCHET_STORE_URI": store.uri,
        "RATCHET_STORE_ENDPOINT": store.endpoint or "",
        "RATCHET_STORE_REGION": store.region,
        "RATCHET_SERVING_NAMESPACE": namespace,
        "RATCHET_SERVING_POLICY": servers.owner.name,
        "RATCHET_SERVING_VERSION": str(servers.version),
        "RATCHET_SERVING_ARTIFACT_URI": servers.artifact.uri,
        "RATCHET_SERVING_ARTIFACT_DIGEST": servers.artifact.digest,
        "RATCHET_SERVING_HOST": "0.0.0.0",
        "RATCHET_SERVING_PORT": str(SERVER_PORT),
        "RATCHET_SERVING_BEHIND_ROUTER": "true",
        "RATCHET_SERVING_SIGNING_KEYS": SIGNING_DIR,
        "RATCHET_SERVING_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "RATCHET_LOG_LEVEL": platform.log_level,
        "OMP_NUM_THREADS": str(max(1, int(resources.cpu))),
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
    }
    if servers.generation is not None:
        # a kubelet reads $(NAME) as another variable's value; JSON may tell a character by its number
        text = canonical_json(servers.generation.to_wire()).decode()
        said["RATCHET_SERVING_GENERATION"] = text.replace("$", "\\u0024")
    if platform.gateway_url:
        said["RATCHET_SERVING_GATEWAY_URL"] = platform.gateway_url.replace("{namespace}", namespace)
        said["RATCHET_SERVING_GATEWAY_TOKEN_FILE"] = f"{TOKEN_DIR}/token"
    return said


def _probe(path: str, port: int) -> Manifest:
    return {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 3}


def _hardened(container: Manifest, resources: Resources, platform: Platform) -> Manifest:
    """A container with its amounts, restricted."""
    amounts = quantities(resources)
    return container | {
        "imagePullPolicy": platform.pull_policy,
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _pod(container: Manifest, volumes: list[Manifest], resources: Resources, platform: Platform) -> Manifest:
    # until every router has stopped sending: a Service forgets a pod only a moment after it begins to end
    ending = {"lifecycle": {"preStop": {"sleep": {"seconds": _SLEEP_SECONDS}}}}
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "serviceAccountName": platform.service_account,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": platform.uid,
            "runAsGroup": platform.uid,
            "fsGroup": platform.uid,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_hardened(container, resources, platform) | ending],
        "volumes": volumes,
    }
    if platform.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in platform.pull_secrets]
    return pod


def _placed(placement: NodePlacement) -> Manifest:
    part: Manifest = {}
    if placement.node_selector:
        part["nodeSelector"] = dict(placement.node_selector)
    if placement.tolerations:
        part["tolerations"] = [each.to_wire() for each in placement.tolerations]
    if placement.priority_class_name is not None:
        part["priorityClassName"] = placement.priority_class_name
    return part


def _deployment(
    owner: Meta, name: str, labels: dict[str, str], replicas: int, pod: Manifest, annotations: dict[str, str]
) -> Manifest:
    selector = {key: labels[key] for key in _SELECTED if key in labels}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector},
    }
    spec = {
        "replicas": replicas,
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": labels, "annotations": {ANNOTATION_OWNER_NAME: owner.name, **annotations}},
            "spec": pod | {"topologySpreadConstraints": [spread]},
        },
    }
    return with_hash(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata_of(owner, name, labels), "spec": spec}
    )


def _service(owner: Meta, name: str, labels: dict[str, str], port: int, target: int, *, headless: bool) -> Manifest:
    spec: Manifest = {
        "selector": {key: labels[key] for key in _SELECTED if key in labels},
        "ports": [{"name": "http", "port": port, "targetPort": target, "protocol": "TCP"}],
        **({"clusterIP": "None"} if headless else {}),
    }
    return with_hash(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata_of(owner, name, labels), "spec": spec}
    )


def _config_map(
    owner: Meta, name: str, labels: dict[str, str], data: dict[str, str], *, immutable: bool = False
) -> Manifest:
    made: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata_of(owner, name, labels),
        "data": data,
    }
    return with_hash(made | ({"immutable": True} if immutable else {}))


_SELECTED = (LABEL_OWNER_UID, LABEL_COMPONENT, LABEL_VERSION)
"""Labels by which a Deployment and a Service find their pods; they never change."""


def labels_of(owner: Meta, component: str, version: int | None = None) -> dict[str, str]:
    """Return the labels of a child that serves the policy."""
    return {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_COMPONENT: component,
        LABEL_OWNER_KIND: owner.kind,
        LABEL_OWNER_NAME: label_value(owner.name),
        LABEL_OWNER_UID: owner.uid,
        LABEL_POLICY: label_value(owner.name),
        **({} if version is None else {LABEL_VERSION: str(version)}),
    }


def metadata_of(owner: Meta, name: str, labels: dict[str, str]) -> Manifest:
    """Return its metadata."""
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": dict(labels),
        "annotations": {ANNOTATION_OWNER_NAME: owner.name},
        "ownerReferences": [owner_reference(owner)],
    }
