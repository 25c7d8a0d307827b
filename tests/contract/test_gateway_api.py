"""A policy's HTTPRoute against a real API server with the Gateway API's own CustomResourceDefinitions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from ratchet_api.kinds import RL_POLICY
from ratchet_api.policy import RLPolicySpec
from ratchet_operator.cluster.http import HttpCluster
from ratchet_operator.cluster.protocol import KubeObject
from ratchet_operator.reconcile import Reconciler
from ratchet_operator.wakes import Key
from tests.contract.test_serving_applied import SETTINGS, STATUS
from tests.controlplane import ControlPlane
from tests.lab import binaries

pytestmark = pytest.mark.cluster
NAMESPACE, ROUTE = "gateway-api", "support-route"
SPEC = RLPolicySpec.model_validate(
    {
        "type": "classifier",
        "serving": {
            "httpRoute": {
                "parentRefs": [{"name": "edge", "namespace": "infra", "sectionName": "https"}, {"name": "inside"}],
                "hostnames": ["support.example.com"],
                "testerHeader": "x-version",
            }
        },
        "rollout": {},
    }
)
TRIAL = {
    "serving": 1,
    "candidate": 2,
    "candidateDigest": "c" * 64,
    "experiment": "1-v1-v2",
    "experiments": 1,
    "step": 0,
    "percent": 5.0,
    "history": [{"number": 1, "version": 1, "since": "2026-01-01T00:00:00Z", "why": "then", "by": "user"}],
    "rows": 1,
}


def routes_crd() -> Mapping[str, Any]:
    source = binaries.source_of(binaries.GATEWAY_API, "sigs.k8s.io/gateway-api")
    text = (source / "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml").read_text()
    crd: Mapping[str, Any] = yaml.safe_load(text)
    return crd


def taken(route: KubeObject, *, generation: int) -> list[dict[str, Any]]:
    """What controllers of both Gateways write."""
    now = "2026-01-01T00:00:00Z"
    conditions = [
        {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": now}
        | {"observedGeneration": generation}
        for kind in ("Accepted", "ResolvedRefs")
    ]
    return [
        {"controllerName": "example.com/gateway", "parentRef": parent, "conditions": conditions}
        for parent in route["spec"]["parentRefs"]
    ]


async def test_a_real_server_takes_the_route_and_a_step_waits_for_both_gateways(control_plane: ControlPlane) -> None:
    control_plane.namespace(NAMESPACE)
    async with HttpCluster(control_plane.connection()) as cluster:
        made = await cluster.create("rlpolicies", RL_POLICY.manifest("support", SPEC, namespace=NAMESPACE))
        second = STATUS["versions"][0] | {"version": 2, "digest": "c" * 64}  # type: ignore[index]
        status = {**STATUS, "versions": [STATUS["versions"][0], second], "nextVersion": 3, "rollout": TRIAL}  # type: ignore[index]
        await cluster.patch_status("rlpolicies", made, status)
        operator = Reconciler(cluster, SETTINGS, lambda: datetime.now(UTC), random.Random(0))

        async def told(kind: str) -> tuple[str, str, str]:
            await operator.reconcile(Key("rlpolicies", NAMESPACE, "support"))
            policy = await cluster.get("rlpolicies", NAMESPACE, "support")
            assert policy is not None
            row = next(row for row in policy["status"]["conditions"] if row["type"] == kind)
            return row["status"], row["reason"], row["message"]

        assert (await told("Stalled"))[:2] == ("True", "GatewayAPIMissing")
        control_plane.install_crd(routes_crd())
        await operator.reconcile(Key("rlpolicies", NAMESPACE, "support"))
        assert "says nothing of it" in (await told("RolledOut"))[2]
        assert (await told("Sticky"))[:2] == ("False", "DealtByGateways")
        route = await cluster.get("httproutes", NAMESPACE, ROUTE)
        assert route is not None
        assert [len(rule["backendRefs"]) for rule in route["spec"]["rules"]] == [1, 1, 3]
        assert [backend["weight"] for backend in route["spec"]["rules"][-1]["backendRefs"]] == [500, 9000, 500]

        # what a server adds of its own, and a pass in which nothing is to do, change nothing
        await operator.reconcile(Key("rlpolicies", NAMESPACE, "support"))
        again = await cluster.get("httproutes", NAMESPACE, ROUTE)
        assert again is not None
        assert again["metadata"]["resourceVersion"] == route["metadata"]["resourceVersion"]

        old = await cluster.patch_status("httproutes", again, {"parents": taken(again, generation=0)})
        assert "has not seen its last change" in (await told("RolledOut"))[2]
        await cluster.patch_status("httproutes", old, {"parents": taken(old, generation=old["metadata"]["generation"])})
        assert "Gateways" not in (await told("RolledOut"))[2]
        policy = await cluster.get("rlpolicies", NAMESPACE, "support")
        assert policy is not None
        assert policy["status"]["rollout"]["stepSince"]
