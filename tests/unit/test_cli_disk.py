"""Objects in files behave as on an API server, as far as reconciling relies on it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ratchet_operator.cluster.disk import DiskObjects, object_path, read_objects
from ratchet_operator.cluster.jobrules import Ended, cpu_request, judge
from ratchet_operator.cluster.local import LocalCluster
from ratchet_operator.cluster.protocol import Conflict

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def table(tmp_path: Path) -> DiskObjects:
    return DiskObjects(tmp_path, lambda: NOW)


def thing(name: str = "a", **spec: Any) -> dict[str, Any]:
    return {"kind": "RLTrainingRun", "metadata": {"name": name, "namespace": "ns"}, "spec": spec}


def child(owner: dict[str, Any], name: str) -> dict[str, Any]:
    references = [{"kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}]
    return {"kind": "X", "metadata": {"name": name, "namespace": "ns", "ownerReferences": references}, "spec": {}}


def test_a_new_object_gets_uid_time_generation_and_version(table: DiskObjects) -> None:
    meta = table.insert("rltrainingruns", thing())["metadata"]
    assert meta["generation"] == 1
    assert meta["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert meta["uid"]
    assert meta["resourceVersion"]


def test_the_generation_rises_with_the_spec_and_with_nothing_else(table: DiskObjects) -> None:
    table.insert("rltrainingruns", thing(seed=1))
    table.set_status("rltrainingruns", "ns", "a", {"state": "x"})
    labelled = thing(seed=1)
    labelled["metadata"]["labels"] = {"l": "1"}
    assert table.merge("rltrainingruns", labelled)["metadata"]["generation"] == 1
    changed = table.merge("rltrainingruns", thing(seed=2))
    assert changed["metadata"]["generation"] == 2
    assert changed["metadata"]["labels"] == {"l": "1"}
    assert changed["status"] == {"state": "x"}


def test_an_equal_write_changes_nothing_and_wakes_nobody(table: DiskObjects) -> None:
    first = table.insert("rltrainingruns", thing(seed=1))
    heard: list[str] = []
    table.watch(lambda resource, obj, gone: heard.append(obj["metadata"]["name"]))
    assert table.merge("rltrainingruns", thing(seed=1)) == first
    assert heard == []
    table.merge("rltrainingruns", thing(seed=2))
    assert heard == ["a"]


def test_a_second_insert_conflicts(table: DiskObjects) -> None:
    table.insert("rltrainingruns", thing())
    with pytest.raises(Conflict, match="ns/a exists already"):
        table.insert("rltrainingruns", thing())


def test_a_status_write_against_an_old_reading_conflicts(table: DiskObjects) -> None:
    """P9: no update is lost."""
    seen = table.insert("rltrainingruns", thing())
    table.lock_status("rltrainingruns", seen, {"state": "one"})
    with pytest.raises(Conflict, match="changed since it was read"):
        table.lock_status("rltrainingruns", seen, {"state": "two"})
    table.remove("rltrainingruns", "ns", "a")
    table.insert("rltrainingruns", thing())
    with pytest.raises(Conflict, match="changed since it was read"):
        table.lock_status("rltrainingruns", seen, {"state": "three"})


def test_what_an_owner_owns_goes_with_it_and_jobs_wait_for_their_process(table: DiskObjects) -> None:
    """P10."""
    owner = table.insert("rltrainingruns", thing())
    table.insert("configmaps", child(owner, "settings"))
    table.insert("jobs", child(owner, "job"))
    table.insert("configmaps", child(table.insert("rltrainingruns", thing("b")), "others"))
    table.remove("rltrainingruns", "ns", "a")
    assert [each["metadata"]["name"] for each in table.find_all("configmaps")] == ["others"]
    (job,) = table.find_all("jobs")
    assert job["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"


def test_what_was_written_is_there_after_a_restart(table: DiskObjects, tmp_path: Path) -> None:
    table.insert("rltrainingruns", thing(seed=1))
    last = table.merge("rltrainingruns", thing(seed=2))
    again = DiskObjects(tmp_path, lambda: NOW)
    assert again.find("rltrainingruns", "ns", "a") == last
    newer = again.merge("rltrainingruns", thing(seed=3))
    assert int(newer["metadata"]["resourceVersion"]) > int(last["metadata"]["resourceVersion"])


def test_readers_get_copies(table: DiskObjects) -> None:
    table.insert("rltrainingruns", thing(seed=1))
    seen = table.find("rltrainingruns", "ns", "a")
    assert seen is not None
    seen["spec"]["seed"] = 99
    assert table.find_all("rltrainingruns")[0]["spec"] == {"seed": 1}


def test_two_long_names_with_one_beginning_have_two_files(table: DiskObjects, tmp_path: Path) -> None:
    names = ["n" * 252 + "a", "n" * 252 + "b"]
    for name in names:
        table.insert("rltrainingruns", thing(name))
        assert len(object_path(tmp_path, "rltrainingruns", "ns", name).name) <= 255
    assert [each["metadata"]["name"] for each in read_objects(tmp_path, "rltrainingruns")] == names


async def test_a_delete_with_another_uid_deletes_nothing(tmp_path: Path) -> None:
    """T2: a name that was deleted and made again is another object."""
    with LocalCluster(tmp_path) as cluster:
        cluster.objects.insert("rltrainingruns", thing())
        await cluster.delete("rltrainingruns", "ns", "a", uid="somebody else's")
        assert await cluster.get("rltrainingruns", "ns", "a") is not None


JOB: dict[str, Any] = {
    "metadata": {"name": "job", "namespace": "ns"},
    "spec": {
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75, 143]}},
                {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [75, 143]}},
            ]
        },
        "template": {"spec": {"containers": [{"name": "stage", "resources": {"requests": {"cpu": "1500m"}}}]}},
    },
}


@pytest.mark.parametrize(
    ("ended", "want"),
    [
        (Ended(0, ""), ("Complete", "CompletionsReached")),
        (Ended(75, ""), None),
        (Ended(143, ""), None),
        (Ended(12, ""), ("Failed", "PodFailurePolicy")),
        (Ended(75, "", deadline_passed=True), ("Failed", "DeadlineExceeded")),
    ],
    ids=["done", "preempted", "terminated", "user error", "deadline"],
)
def test_a_job_ends_as_its_pod_failure_policy_says(ended: Ended, want: tuple[str, str] | None) -> None:
    verdict = judge(JOB, "pod", ended)
    assert (verdict and verdict[:2]) == want


def test_a_failed_job_names_the_exit_code_and_the_rule_as_kubernetes_does() -> None:
    verdict = judge(JOB, "job-x", Ended(12, ""))
    assert verdict is not None
    assert verdict[2] == "Container stage for pod ns/job-x failed with exit code 12 matching FailJob rule at index 2"


def test_cpu_requests_are_read_in_both_spellings() -> None:
    assert cpu_request(JOB) == 1.5
    whole: dict[str, Any] = {"requests": {"cpu": "2"}}
    assert cpu_request({"spec": {"template": {"spec": {"containers": [{"resources": whole}]}}}}) == 2.0
