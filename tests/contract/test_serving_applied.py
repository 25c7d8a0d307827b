"""What serving applies, as a real API server takes it: manifests, restricted pods, and nothing to apply twice."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ratchet_api.kinds import RL_POLICY
from ratchet_api.names import ANNOTATION_TABLE
from ratchet_api.policy import RLPolicySpec
from ratchet_operator.cluster.http import HttpCluster
from ratchet_operator.reconcile import Reconciler
from ratchet_operator.settings import Platform, Settings, StoreSettings
from ratchet_operator.wakes import Key
from tests.controlplane import ControlPlane

pytestmark = pytest.mark.cluster
NAMESPACE = "serving-applied"
SETTINGS = Settings(
    store=StoreSettings("s3://bucket", secret_name="store-credentials"),
    serving=Platform("registry/serving:1", "registry/router:1", gateway_url="http://ratchet-gateway.{namespace}:8000"),
)
SPEC = RLPolicySpec.model_validate(
    {
        "type": "classifier",
        "serving": {
            "replicas": 2,
            "placement": {"nodeSelector": {"pool": "a"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
            "routers": {"subjectCookie": "who", "testerHeader": "x-version"},
        },
        "rollout": {},
    }
)
STATUS = {
    "versions": [
        {
            "version": 1,
            "run": "first",
            "runUid": "uid",
            "uri": "s3://bucket/first",
            "digest": "a" * 64,
            "datasetDigest": "b" * 64,
            "published": "2026-01-01T00:00:00Z",
        }
    ],
    "nextVersion": 2,
    "champion": 1,
}


async def children(cluster: HttpCluster) -> dict[str, str]:
    """Revision of each child."""
    found: list[dict[str, Any]] = []
    for resource in ("deployments", "services", "configmaps", "poddisruptionbudgets"):
        found += await cluster.list(resource, NAMESPACE, labels={"ratchet.dev/policy": "support"})  # type: ignore[arg-type]
    return {f"{obj['kind']}/{obj['metadata']['name']}": obj["metadata"]["resourceVersion"] for obj in found}


async def test_a_real_server_takes_the_children_and_finds_nothing_to_change_in_the_next_pass(
    control_plane: ControlPlane,
) -> None:
    control_plane.namespace(NAMESPACE)
    async with HttpCluster(control_plane.connection()) as cluster:
        made = await cluster.create("rlpolicies", RL_POLICY.manifest("support", SPEC, namespace=NAMESPACE))
        await cluster.patch_status("rlpolicies", made, STATUS)
        key = Key("rlpolicies", NAMESPACE, "support")
        operator = Reconciler(cluster, SETTINGS, lambda: datetime.now(UTC), random.Random(0))
        for _ in range(3):
            await operator.reconcile(key)
        first = await children(cluster)
        assert sorted(first) == [
            "ConfigMap/support-router",
            "ConfigMap/support-router-start",
            "Deployment/support-router",
            "Deployment/support-v1",
            "PodDisruptionBudget/support-router",
            "PodDisruptionBudget/support-v1",
            "Service/support-router",
            "Service/support-v1",
        ]
        policy = await cluster.get("rlpolicies", NAMESPACE, "support")
        assert policy is not None
        conditions = {row["type"]: (row["status"], row["reason"]) for row in policy["status"]["conditions"]}
        assert conditions["Ready"] == ("False", "Preparing")
        await operator.reconcile(key)
        assert await children(cluster) == first

        # another setting takes a field away: what one manager applied, it takes back
        smaller = replace(SETTINGS, serving=replace(SETTINGS.serving, gateway_url=""))  # type: ignore[type-var]
        await Reconciler(cluster, smaller, lambda: datetime.now(UTC), random.Random(0)).reconcile(key)
        servers = await cluster.get("deployments", NAMESPACE, "support-v1")
        assert servers is not None
        volumes = servers["spec"]["template"]["spec"]["volumes"]
        assert sorted(volume["name"] for volume in volumes) == ["scratch", "signing"]


async def test_a_pods_annotation_is_all_that_is_applied_to_it(control_plane: ControlPlane) -> None:
    control_plane.namespace(f"{NAMESPACE}-pods")
    container = {"name": "router", "image": "registry/router:1"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": f"{NAMESPACE}-pods"},
        "spec": {"serviceAccountName": "default", "automountServiceAccountToken": False, "containers": [container]},
    }
    async with HttpCluster(control_plane.connection()) as cluster:
        made = await cluster.create("pods", pod)
        note = {"apiVersion": "v1", "kind": "Pod"}
        meta = {"name": "p", "namespace": f"{NAMESPACE}-pods", "annotations": {ANNOTATION_TABLE: "abc.1"}}
        changed = await cluster.apply("pods", note | {"metadata": meta}, uid=made["metadata"]["uid"])
        assert changed["metadata"]["annotations"] == {ANNOTATION_TABLE: "abc.1"}
        assert changed["spec"] == made["spec"]
