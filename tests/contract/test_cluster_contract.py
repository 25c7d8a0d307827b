"""What observe and apply may rely on, whatever stands behind the `Cluster` protocol."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ratchet_operator.cluster.connect import Connection
from ratchet_operator.cluster.http import HttpCluster
from ratchet_operator.cluster.local import LocalCluster
from ratchet_operator.cluster.memory import MemoryCluster
from ratchet_operator.cluster.protocol import Cluster, Conflict, Rejected
from tests.contract.objects import config_map, job, run
from tests.controlplane import ControlPlane

_numbers = itertools.count(1)


@pytest.fixture(params=["memory", "local", pytest.param("http", marks=pytest.mark.cluster)])
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    if request.param == "memory":
        yield MemoryCluster(clock=lambda: datetime.now(UTC))
        return
    if request.param == "local":
        with LocalCluster(tmp_path / "home") as local:  # not started, so no Job runs
            yield local
        return
    plane: ControlPlane = request.getfixturevalue("control_plane")
    async with HttpCluster(connection_to(plane)) as real:
        yield real


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    name = f"contract-{next(_numbers)}"
    if "http" in request.node.callspec.params.values():
        plane: ControlPlane = request.getfixturevalue("control_plane")
        plane.namespace(name)
    return name


def connection_to(plane: ControlPlane, user: str = "admin") -> Connection:
    return plane.connection(user)


def without(obj: dict[str, Any] | None, *keys: str) -> dict[str, Any]:
    assert obj is not None
    return {key: value for key, value in obj["metadata"].items() if key not in keys}


async def test_an_absent_object_is_none(cluster: Cluster, namespace: str) -> None:
    assert await cluster.get("jobs", namespace, "absent") is None


async def test_what_was_created_is_read_back_with_kind_uid_and_generation(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create("jobs", job(namespace, "a"))
    read = await cluster.get("jobs", namespace, "a")
    assert read is not None
    assert read["kind"] == "Job"
    assert read["apiVersion"] == "batch/v1"
    assert read["metadata"]["uid"] == made["metadata"]["uid"]
    assert read["metadata"]["generation"] == 1
    assert read["metadata"]["creationTimestamp"]
    assert read["metadata"]["labels"]["ratchet.dev/owner"] == "r"


async def test_creating_a_name_twice_is_a_conflict(cluster: Cluster, namespace: str) -> None:
    await cluster.create("configmaps", config_map(namespace, "a"))
    with pytest.raises(Conflict):
        await cluster.create("configmaps", config_map(namespace, "a"))


async def test_the_same_name_in_another_namespace_or_resource_is_another_object(
    cluster: Cluster, namespace: str
) -> None:
    first = await cluster.create("configmaps", config_map(namespace, "a"))
    second = await cluster.create("jobs", job(namespace, "a"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]


async def test_a_list_holds_the_namespaces_objects_with_all_the_labels_and_their_kind(
    cluster: Cluster, namespace: str
) -> None:
    await cluster.create("jobs", job(namespace, "a", labels={"stage": "x"}))
    await cluster.create("jobs", job(namespace, "b", labels={"stage": "y"}))
    await cluster.create("jobs", job(namespace, "c", labels={"stage": "x", "more": "z"}))
    found = await cluster.list("jobs", namespace, labels={"stage": "x"})
    assert sorted(item["metadata"]["name"] for item in found) == ["a", "c"]
    assert {item["kind"] for item in found} == {"Job"}
    both = await cluster.list("jobs", namespace, labels={"stage": "x", "more": "z"})
    assert [item["metadata"]["name"] for item in both] == ["c"]
    assert len(await cluster.list("jobs", namespace)) == 3


async def test_a_list_longer_than_a_page_is_whole(cluster: Cluster, namespace: str) -> None:
    for number in range(230):
        await cluster.create("configmaps", config_map(namespace, f"c{number:03}"))
    found = await cluster.list("configmaps", namespace)
    assert sorted(item["metadata"]["name"] for item in found) == [f"c{number:03}" for number in range(230)]


async def test_a_list_over_all_namespaces_holds_this_one(cluster: Cluster, namespace: str) -> None:
    await cluster.create("rltrainingruns", run(namespace, "a"))
    found = await cluster.list("rltrainingruns", None)
    assert (namespace, "a") in {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in found}


async def test_deleting_needs_the_uid_so_a_recreated_name_survives(cluster: Cluster, namespace: str) -> None:
    old = await cluster.create("configmaps", config_map(namespace, "a"))
    await cluster.delete("configmaps", namespace, "a", uid=old["metadata"]["uid"])
    assert await cluster.get("configmaps", namespace, "a") is None
    new = await cluster.create("configmaps", config_map(namespace, "a"))
    await cluster.delete("configmaps", namespace, "a", uid=old["metadata"]["uid"])
    survivor = await cluster.get("configmaps", namespace, "a")
    assert survivor is not None
    assert survivor["metadata"]["uid"] == new["metadata"]["uid"]


async def test_deleting_what_is_gone_is_success(cluster: Cluster, namespace: str) -> None:
    await cluster.delete("jobs", namespace, "absent", uid="00000000-0000-0000-0000-000000000000")


async def test_a_status_write_replaces_the_whole_status_and_nothing_else(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create("rltrainingruns", run(namespace, "a"))
    first = await cluster.patch_status("rltrainingruns", made, {"state": "Running", "stage": "resolve"})
    second = await cluster.patch_status("rltrainingruns", first, {"state": "Complete"})
    assert second["status"] == {"state": "Complete"}
    read = await cluster.get("rltrainingruns", namespace, "a")
    assert read is not None
    assert read["status"] == {"state": "Complete"}
    assert read["spec"] == made["spec"]
    assert read["metadata"]["generation"] == made["metadata"]["generation"] == 1
    assert read["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert read["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]


async def test_a_status_write_on_an_old_reading_is_a_conflict_and_writes_nothing(
    cluster: Cluster, namespace: str
) -> None:
    """P9."""
    old = await cluster.create("rltrainingruns", run(namespace, "a"))
    await cluster.patch_status("rltrainingruns", old, {"state": "Running"})
    with pytest.raises(Conflict):
        await cluster.patch_status("rltrainingruns", old, {"state": "Failed"})
    read = await cluster.get("rltrainingruns", namespace, "a")
    assert read is not None
    assert read["status"] == {"state": "Running"}


async def test_a_status_write_to_a_deleted_object_is_rejected_as_not_found(cluster: Cluster, namespace: str) -> None:
    old = await cluster.create("rltrainingruns", run(namespace, "a"))
    await cluster.delete("rltrainingruns", namespace, "a", uid=old["metadata"]["uid"])
    with pytest.raises(Rejected) as caught:
        await cluster.patch_status("rltrainingruns", old, {"state": "Failed"})
    assert caught.value.status == 404


async def test_a_status_write_never_reaches_a_recreated_object(cluster: Cluster, namespace: str) -> None:
    old = await cluster.create("rltrainingruns", run(namespace, "a"))
    await cluster.delete("rltrainingruns", namespace, "a", uid=old["metadata"]["uid"])
    await cluster.create("rltrainingruns", run(namespace, "a"))
    with pytest.raises(Conflict):
        await cluster.patch_status("rltrainingruns", old, {"state": "Failed"})
    read = await cluster.get("rltrainingruns", namespace, "a")
    assert read is not None
    assert "status" not in read


async def test_a_status_in_a_created_manifest_is_ignored(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create("rltrainingruns", run(namespace, "a") | {"status": {"state": "Complete"}})
    assert "status" not in made


async def test_a_whole_number_in_a_status_comes_back_equal_in_value(cluster: Cluster, namespace: str) -> None:
    """The server stores 0.0 as 0: who compares statuses must compare values."""
    made = await cluster.create("rltrainingruns", run(namespace, "a"))
    stored = await cluster.patch_status("rltrainingruns", made, {"gpuHours": 0.0})
    assert stored["status"] == {"gpuHours": 0}
    again = await cluster.patch_status("rltrainingruns", stored, {"gpuHours": 0.0})
    assert again["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]


async def test_an_event_never_raises(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create("rltrainingruns", run(namespace, "a"))
    await cluster.emit(made, type="Warning", reason="Preempted", message="x" * 5000)
    await cluster.emit(without_metadata(made), type="Normal", reason="Accepted", message="gone already")


def without_metadata(obj: dict[str, Any]) -> dict[str, Any]:
    return obj | {"metadata": {"name": "gone", "namespace": "no-such-namespace", "uid": "none"}}


async def test_an_object_without_events_has_none(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create("jobs", job(namespace, "a"))
    assert list(await cluster.events(made)) == []


async def test_a_pod_without_an_address_reports_no_progress(cluster: Cluster, namespace: str) -> None:
    pod = {"metadata": {"name": "p", "namespace": namespace, "uid": "u"}, "status": {"phase": "Pending"}}
    assert await cluster.progress(pod) is None


async def test_applying_without_a_uid_creates_and_never_takes_a_name_that_is_taken(
    cluster: Cluster, namespace: str
) -> None:
    made = await cluster.apply("configmaps", config_map(namespace, "a"), uid=None)
    assert made["metadata"]["uid"]
    await cluster.create("configmaps", config_map(namespace, "b") | {"data": {"mine": "yes"}})
    with pytest.raises(Conflict):
        await cluster.apply("configmaps", config_map(namespace, "b") | {"data": {"mine": "no"}}, uid=None)
    read = await cluster.get("configmaps", namespace, "b")
    assert read is not None
    assert read["data"] == {"mine": "yes"}


async def test_applying_replaces_what_the_manifest_names_and_what_it_named_before(
    cluster: Cluster, namespace: str
) -> None:
    first = config_map(namespace, "a") | {"data": {"old": "1", "kept": "1"}}
    made = await cluster.apply("configmaps", first, uid=None)
    second = config_map(namespace, "a") | {"data": {"new": "2", "kept": "1"}}
    changed = await cluster.apply("configmaps", second, uid=made["metadata"]["uid"])
    assert changed["data"] == {"new": "2", "kept": "1"}
    again = await cluster.apply("configmaps", second, uid=made["metadata"]["uid"])
    assert again["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]


async def test_applying_to_an_object_that_was_made_anew_changes_nothing(cluster: Cluster, namespace: str) -> None:
    old = await cluster.apply("configmaps", config_map(namespace, "a") | {"data": {"n": "1"}}, uid=None)
    await cluster.delete("configmaps", namespace, "a", uid=old["metadata"]["uid"])
    await cluster.create("configmaps", config_map(namespace, "a") | {"data": {"n": "2"}})
    with pytest.raises((Conflict, Rejected)):
        await cluster.apply("configmaps", config_map(namespace, "a") | {"data": {"n": "3"}}, uid=old["metadata"]["uid"])
    read = await cluster.get("configmaps", namespace, "a")
    assert read is not None
    assert read["data"] == {"n": "2"}


async def test_a_router_without_an_address_has_no_table(cluster: Cluster, namespace: str) -> None:
    pod = {"metadata": {"name": "p", "namespace": namespace, "uid": "u"}, "status": {"phase": "Pending"}}
    assert await cluster.routed(pod, (1, 2)) == ("", frozenset())


async def test_without_an_analyst_a_text_says_so(cluster: Cluster, namespace: str) -> None:
    assert "analyst" in str(await cluster.evidence(namespace, "support", "0" * 16))


async def test_without_a_prometheus_a_text_says_so(cluster: Cluster, namespace: str) -> None:
    assert "Prometheus" in str(await cluster.measured(namespace, "vector(1)"))
