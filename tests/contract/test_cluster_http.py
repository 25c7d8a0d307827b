"""What the HTTP client makes of refusals, faults and pods; against a real API server, through a faulty proxy."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ratchet_operator.cluster.connect import Connection, LoginError, connect
from ratchet_operator.cluster.http import HttpCluster
from ratchet_operator.cluster.protocol import Conflict, Denied, Forbidden, Unavailable
from tests.contract.faultproxy import Fault, FaultProxy, lists_of, writes
from tests.contract.objects import config_map, job, run
from tests.controlplane import ControlPlane

pytestmark = pytest.mark.cluster
_numbers = itertools.count(1)


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    return control_plane.namespace(f"http-{next(_numbers)}")


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(control_plane.url, control_plane.connection().tls) as running:
        yield running


@pytest.fixture
def calls() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture
async def cluster(
    control_plane: ControlPlane, proxy: FaultProxy, calls: list[tuple[str, str, str]]
) -> AsyncIterator[HttpCluster]:
    connection = control_plane.connection(server=proxy.url)
    async with HttpCluster(
        connection, request_seconds=20.0, on_call=lambda *call: calls.append((call[0], call[1], call[2]))
    ) as client:
        yield client


async def test_a_missing_right_is_forbidden_and_names_verb_and_resource(
    control_plane: ControlPlane, namespace: str
) -> None:
    """P19: the operator can say which rule is missing."""
    async with HttpCluster(control_plane.connection("watcher")) as client:
        with pytest.raises(Forbidden, match='cannot create resource "jobs" in API group "batch"'):
            await client.create("jobs", job(namespace, "a"))
        with pytest.raises(Forbidden, match='cannot list resource "pods"'):
            await client.list("pods", namespace)


async def test_quota_is_denied_with_the_servers_words(
    control_plane: ControlPlane, cluster: HttpCluster, namespace: str
) -> None:
    """P14: what quota refuses can be told from a missing right."""
    path = f"/api/v1/namespaces/{namespace}/resourcequotas/small"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": namespace}}
    made = control_plane.apply(path, quota | {"spec": {"hard": {"count/jobs.batch": "0"}}})
    # The controller that counts is not running here; the admission plug-in believes the status.
    status = {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}}
    control_plane.request("PUT", f"{path}/status", made | {"status": status})
    with pytest.raises(Denied, match="exceeded quota: small"):
        await cluster.create("jobs", job(namespace, "a"))


async def test_a_spec_outside_its_schema_is_denied_and_names_the_field(cluster: HttpCluster, namespace: str) -> None:
    manifest = run(namespace, "a", backoffLimit=1000)
    with pytest.raises(Denied, match=r"spec\.backoffLimit"):
        await cluster.create("rltrainingruns", manifest)


async def test_an_absent_namespace_is_denied(cluster: HttpCluster) -> None:
    with pytest.raises(Denied, match="no-such-namespace"):
        await cluster.create("jobs", job("no-such-namespace", "a"))


async def test_a_manifest_of_another_kind_is_refused_before_it_is_sent(
    cluster: HttpCluster, proxy: FaultProxy, namespace: str
) -> None:
    with pytest.raises(Denied, match="'ConfigMap' sent to jobs"):
        await cluster.create("jobs", config_map(namespace, "a"))
    assert proxy.log == []


async def test_our_own_last_revision_is_told_from_any_other(
    control_plane: ControlPlane, cluster: HttpCluster, namespace: str
) -> None:
    made = await cluster.create("rltrainingruns", run(namespace, "a"))
    assert cluster.is_echo("rltrainingruns", made)
    written = await cluster.patch_status("rltrainingruns", made, {"state": "Running"})
    assert cluster.is_echo("rltrainingruns", written)
    assert not cluster.is_echo("rltrainingruns", made)
    path = f"/apis/ratchet.dev/v1alpha1/namespaces/{namespace}/rltrainingruns/a"
    assert not cluster.is_echo("rltrainingruns", control_plane.apply(path, run(namespace, "a", suspend=True)))


async def test_foreground_deletion_waits_for_the_dependents(cluster: HttpCluster, namespace: str) -> None:
    made = await cluster.create("jobs", job(namespace, "a"))
    await cluster.delete("jobs", namespace, "a", uid=made["metadata"]["uid"], foreground=True)
    left = await cluster.get("jobs", namespace, "a")
    assert left is not None
    assert left["metadata"]["deletionTimestamp"]
    assert left["metadata"]["finalizers"] == ["foregroundDeletion"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_server_in_trouble_is_unavailable_with_its_wish(
    cluster: HttpCluster, proxy: FaultProxy, namespace: str, status: int
) -> None:
    proxy.add(Fault(status=status, message="etcd is slow", headers={"Retry-After": "7"}))
    with pytest.raises(Unavailable, match="etcd is slow") as caught:
        await cluster.get("jobs", namespace, "a")
    assert caught.value.status == status
    assert caught.value.retry_after_seconds == 7.0


async def test_a_short_throttle_is_waited_out_in_the_call(
    cluster: HttpCluster, proxy: FaultProxy, namespace: str, calls: list[tuple[str, str, str]]
) -> None:
    fault = proxy.add(Fault(status=429, headers={"Retry-After": "0"}, times=2))
    made = await cluster.create("configmaps", config_map(namespace, "a"))
    assert made["metadata"]["name"] == "a"
    assert fault.struck == 2
    assert [code for _, _, code in calls] == ["429", "429", "201"]


async def test_silence_is_unavailable_after_the_time_limit(
    control_plane: ControlPlane, proxy: FaultProxy, namespace: str
) -> None:
    proxy.add(Fault(hang=True))
    async with HttpCluster(control_plane.connection(server=proxy.url), request_seconds=0.5) as client:
        with pytest.raises(Unavailable, match=r"no answer within 0\.5 s"):
            await client.get("jobs", namespace, "a")


async def test_a_cut_connection_is_unavailable_even_when_the_write_happened(
    cluster: HttpCluster, proxy: FaultProxy, namespace: str
) -> None:
    """P4: an unanswered create is found by the next try as a conflict, never as a second object."""
    fault = proxy.add(Fault(match=writes, reset_after=True))
    with pytest.raises(Unavailable):
        await cluster.create("jobs", job(namespace, "a"))
    assert fault.struck == 1, "a create must not be repeated by itself"
    proxy.clear()
    with pytest.raises(Conflict):
        await cluster.create("jobs", job(namespace, "a"))


async def test_a_list_that_lost_its_place_begins_anew_once(
    cluster: HttpCluster, proxy: FaultProxy, namespace: str
) -> None:
    """T5: 410 on continue."""
    for number in range(120):
        await cluster.create("configmaps", config_map(namespace, f"c{number}"))
    expired = proxy.add(Fault(match=lambda r: "continue" in r.query, status=410, message="expired", times=1))
    assert len(await cluster.list("configmaps", namespace)) == 120
    assert expired.struck == 1
    proxy.add(Fault(match=lambda r: "continue" in r.query, status=410, message="expired"))
    with pytest.raises(Unavailable, match="expired"):
        await cluster.list("configmaps", namespace)


async def test_kinds_that_are_not_installed_are_named(cluster: HttpCluster, proxy: FaultProxy) -> None:
    proxy.add(Fault(match=lists_of("rlpolicies"), status=404))
    with pytest.raises(Unavailable, match=r"rlpolicies.*are the CRDs installed"):
        await cluster.list("rlpolicies", None)


async def test_events_are_stored_once_and_a_refusal_is_swallowed(
    control_plane: ControlPlane, cluster: HttpCluster, proxy: FaultProxy, namespace: str
) -> None:
    made = await cluster.create("rltrainingruns", run(namespace, "a"))
    for _ in range(3):
        await cluster.emit(made, type="Warning", reason="Preempted", message="the pod was asked to leave")
    await cluster.flush_events()
    path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    (event,) = control_plane.request("GET", path)["items"]
    assert event["reason"] == "Preempted"
    assert event["regarding"]["uid"] == made["metadata"]["uid"]
    assert event["note"] == "the pod was asked to leave"
    other = await cluster.create("rltrainingruns", run(namespace, "b"))
    assert [item["note"] for item in await cluster.events(made)] == ["the pod was asked to leave"]
    assert list(await cluster.events(other)) == []
    proxy.add(Fault(status=403, message="no"))
    await cluster.emit(made, type="Normal", reason="Accepted", message="refused")
    await cluster.flush_events()


async def test_one_object_cannot_flood_the_events(cluster: HttpCluster, proxy: FaultProxy, namespace: str) -> None:
    made = await cluster.create("rltrainingruns", run(namespace, "a"))
    for number in range(100):
        await cluster.emit(made, type="Normal", reason="StageRunning", message=f"step {number}")
    await cluster.flush_events()
    assert proxy.count("POST", "/events") == 20


async def test_a_pods_progress_is_read_without_our_credentials(
    cluster: HttpCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"stage": "supervised", "step": 3})

    app = web.Application()
    app.router.add_get("/progress", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setattr("ratchet_operator.cluster.http.PROGRESS_PORT", runner.addresses[0][1])
    try:
        pod = {"metadata": {"name": "p"}, "status": {"podIP": "127.0.0.1"}}
        assert await cluster.progress(pod) == {"stage": "supervised", "step": 3}
        assert seen == [None]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("body", [b"not json", b"[1]", b'{"a": "' + b"x" * 20000 + b'"}'], ids=["text", "list", "huge"])
async def test_a_pods_nonsense_is_no_progress(
    cluster: HttpCluster, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    monkeypatch.setattr("ratchet_operator.cluster.http.PROGRESS_PORT", server.sockets[0].getsockname()[1])
    try:
        assert await cluster.progress({"metadata": {}, "status": {"podIP": "127.0.0.1"}}) is None
    finally:
        server.close()
        await server.wait_closed()


def account(directory: Path, plane: ControlPlane, token: str) -> Connection:
    (directory / "token").write_text(f"{token}\n")
    (directory / "namespace").write_text("default")
    (directory / "ca.crt").write_text(plane.authority())
    host, port = plane.url.removeprefix("https://").split(":")
    return connect(account_dir=directory, env={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port})


async def test_a_rotated_service_account_token_is_read_again(control_plane: ControlPlane, tmp_path: Path) -> None:
    connection = account(tmp_path, control_plane, "outdated")
    assert connection.namespace == "default"
    async with HttpCluster(connection) as client:
        with pytest.raises(Unavailable, match="401"):
            await client.get("configmaps", "default", "a")
        (tmp_path / "token").write_text(control_plane.tokens["admin"])
        assert await client.get("configmaps", "default", "absent") is None


async def test_a_kubeconfig_is_used_outside_a_cluster(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig()))
    async with HttpCluster(connect(account_dir=tmp_path)) as client:
        assert await client.get("configmaps", "default", "absent") is None


def test_without_any_login_the_error_says_what_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(LoginError, match="KUBECONFIG"):
        connect(account_dir=tmp_path)


def test_a_kubeconfig_that_needs_a_plugin_is_refused_with_the_remedy(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = json.loads(control_plane.kubeconfig().read_text())
    config["users"][0]["user"] = {"exec": {"command": "login", "apiVersion": "client.authentication.k8s.io/v1"}}
    file = tmp_path / "config"
    file.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(LoginError, match="plug-ins are not supported"):
        connect(account_dir=tmp_path)
