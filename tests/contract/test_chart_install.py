"""The rendered chart against a real API server: every object is accepted, and its roles are enough to work with.

The operator of these tests is the real one, logged in as a user who has what the chart grants and nothing else.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ratchet_api.base import API_VERSION, GROUP
from ratchet_operator.service import Service
from ratchet_operator.settings import Settings, StoreSettings
from tests.contract.chart import NAMESPACE, Object, Rendered, render
from tests.controlplane import ControlPlane

pytestmark = pytest.mark.cluster

PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "CronJob": "/apis/batch/v1/namespaces/{namespace}/cronjobs",
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}
ROLES = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
TEAM = "chart-team"


def path_of(obj: Object) -> str:
    return PATHS[obj["kind"]].format(namespace=obj["metadata"].get("namespace"))


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> ControlPlane:
    for name in (NAMESPACE, TEAM):
        control_plane.namespace(name)
    return control_plane


@pytest.mark.parametrize(
    "settings",
    [
        (),
        (f"watchNamespaces={{{TEAM}}}", "networkPolicy.enabled=true", "stages.serviceAccount.create=true",
         "networkPolicy.scrapeFrom.team=observability", "images.pullSecrets={pull}", "operator.priorityClassName=high"),
        ("gateway.enabled=true", "store.uri=s3://bucket", f"gateway.namespaces={{{TEAM}}}",
         "networkPolicy.enabled=true", "gateway.auth={kubernetes,keys}", "gateway.keysSecretName=keys",
         "gateway.storeSecretName=store",
         "gateway.ingress.enabled=true", "gateway.ingress.domain=example.com", "gateway.ingress.tlsSecretName=tls"),
    ],
    ids=["defaults", "everything that needs no further kinds", "gateways"],
)  # fmt: skip
def test_a_real_server_accepts_every_object_of_the_chart(settings: Sequence[str], server: ControlPlane) -> None:
    objects = render(*settings).objects
    assert len(objects) >= 8
    for obj in objects:
        path = (
            f"{path_of(obj)}/{obj['metadata']['name']}?dryRun=All&fieldValidation=Strict&fieldManager=helm&force=true"
        )
        server.request("PATCH", path, obj, content_type="application/apply-patch+yaml")


def grant(server: ControlPlane, rendered: Rendered, user: str, *, without: tuple[str, str] | None = None) -> None:
    """Give the user what the chart gives the operator's account, under names of its own; `without` = resource, verb."""
    for kind in ROLES:
        for obj in copy.deepcopy(rendered.all(kind)):
            obj["metadata"]["name"] = f"{user}-{obj['metadata']['name']}"
            if "subjects" in obj:
                obj["subjects"] = [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]
                obj["roleRef"]["name"] = f"{user}-{obj['roleRef']['name']}"
            for rule in obj.get("rules", ()):
                if without is not None and without[0] in rule["resources"]:
                    rule["verbs"] = [verb for verb in rule["verbs"] if verb != without[1]]
            server.apply(f"{path_of(obj)}/{obj['metadata']['name']}", obj)


@asynccontextmanager
async def operator(server: ControlPlane, user: str, namespaces: tuple[str, ...]) -> AsyncIterator[Service]:
    """The real operator, logged in as the user."""
    settings = Settings(
        namespaces=namespaces, time_scale=0.05, http_port=0, resync_seconds=3, store=StoreSettings("s3://bucket")
    )
    service = Service(settings, lambda: server.connection(user), identity=("operator-0", NAMESPACE), die=_no_death)
    task = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        service.stop()
        assert await task == 0


def _no_death(code: int) -> None:
    raise AssertionError(f"the operator wanted to exit with {code}")


async def until(what: Callable[[], bool], *, seconds: float = 45.0) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(what):
        assert time.monotonic() < end, "not so in time"
        await asyncio.sleep(0.1)


def dataset(name: str, **spec: Any) -> Object:
    rows = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(20)]
    return {
        "apiVersion": API_VERSION,
        "kind": "FeedbackDataset",
        "metadata": {"name": name, "namespace": TEAM},
        "spec": {"type": "classification", "source": {"inline": rows}, **spec},
    }


def dataset_path(name: str) -> str:
    return f"/apis/{GROUP}/v1alpha1/namespaces/{TEAM}/feedbackdatasets/{name}"


def conditions(server: ControlPlane, name: str) -> Mapping[str, Mapping[str, str]]:
    status = server.request("GET", dataset_path(name)).get("status", {})
    return {item["type"]: item for item in status.get("conditions", [])}


def jobs(server: ControlPlane) -> dict[str, Object]:
    listed = server.request("GET", f"/apis/batch/v1/namespaces/{TEAM}/jobs")["items"]
    return {job["metadata"]["name"]: job for job in listed}


def events_about(server: ControlPlane, name: str) -> list[str]:
    listed = server.request("GET", f"/apis/events.k8s.io/v1/namespaces/{TEAM}/events")["items"]
    return [event["reason"] for event in listed if event["regarding"]["name"] == name]


def refused_calls(service: Service) -> set[tuple[str, str]]:
    """Verb and resource of every call that RBAC refused."""
    return {
        (sample.labels["verb"], sample.labels["resource"])
        for family in service.registry.collect()
        if family.name == "ratchet_api_requests"
        for sample in family.samples
        if sample.labels.get("code") == "403"
    }


@pytest.mark.parametrize(
    ("user", "namespaces"),
    [("operator-everywhere", ()), ("operator-in-one", (TEAM,))],
    ids=["watching everything", "watching one namespace"],
)
async def test_the_operator_works_with_the_charts_rights_and_is_refused_nothing(
    server: ControlPlane, user: str, namespaces: tuple[str, ...]
) -> None:
    """P19, the other way round: what the chart grants is enough for kopf, heartbeat, passes and Events."""
    watch = f"watchNamespaces={{{','.join(namespaces)}}}"
    grant(server, render("crds.enabled=false", *([watch] if namespaces else [])), user)
    name = f"inline-{len(namespaces)}"
    async with operator(server, user, namespaces) as service:
        await until(lambda: service.health.unready() is None)
        await asyncio.to_thread(server.apply, dataset_path(name), dataset(name))
        await until(lambda: f"{name}-snapshot-1" in jobs(server))
        await until(lambda: "Reconciling" in conditions(server, name))
        await asyncio.to_thread(server.apply, dataset_path(name), dataset(name, suspend=True))
        await until(
            lambda: "deletionTimestamp" in jobs(server).get(f"{name}-snapshot-1", {"metadata": "gone"})["metadata"]
        )
        await until(lambda: bool(events_about(server, name)))
        await until(lambda: service.health.last_seen is not None)
        assert refused_calls(service) == set()


async def test_a_missing_right_is_named_in_a_condition(server: ControlPlane) -> None:
    """T13, P39: the message names the verb and the resource, the reason is Forbidden."""
    user, name = "operator-without", "not-allowed"
    grant(server, render("crds.enabled=false", f"watchNamespaces={{{TEAM}}}"), user, without=("jobs", "create"))
    async with operator(server, user, (TEAM,)) as service:
        await until(lambda: service.health.unready() is None)
        await asyncio.to_thread(server.apply, dataset_path(name), dataset(name))
        await until(lambda: any(item["reason"] == "Forbidden" for item in conditions(server, name).values()))
        said = {item["type"]: item for item in conditions(server, name).values() if item["reason"] == "Forbidden"}
        assert 'cannot create resource "jobs"' in said["Stalled"]["message"]
        assert refused_calls(service) == {("create", "jobs")}
    assert f"{name}-snapshot-1" not in jobs(server)
