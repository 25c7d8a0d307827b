"""What the review page shows of data sets: those of the policy's feedback, as their status tells, and why if none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ratchet_gateway.datasets import MAX_SHOWN, Datasets, LocalDatasets, by_policy
from tests.gateway_app import dataset_of_feedback, running


def asked(folder: Path, datasets: Datasets | None, policy: str = "router") -> Any:
    with running(folder, datasets=datasets) as gateway:
        answer = gateway.get(f"/v1/review/{policy}/datasets", token="reader")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_data_set_is_shown_with_what_its_snapshot_kept_and_what_each_rule_removed(tmp_path: Path) -> None:
    body = dataset_of_feedback("votes", taken="2026-11-21T10:00:00Z")
    (shown,) = asked(tmp_path, LocalDatasets(lambda: [body]))["datasets"]
    assert (shown["name"], shown["type"], shown["state"]) == ("votes", "classification", "Ready")
    assert shown["taken"] == "2026-11-21T10:00:00Z"
    snapshot = body["status"]["snapshot"]
    for part in ("counts", "removed", "smallestLabels", "classes"):
        assert shown["snapshot"][part] == snapshot[part]


def test_only_data_sets_of_the_policys_feedback_are_shown_the_newest_snapshot_first(tmp_path: Path) -> None:
    bodies = [
        dataset_of_feedback("old", taken="2026-11-20T10:00:00Z"),
        dataset_of_feedback("never", taken=None),
        dataset_of_feedback("new", taken="2026-11-21T10:00:00Z"),
        dataset_of_feedback("of-another", policy="bare"),
        {"metadata": {"name": "of-files"}, "spec": {"type": "classification", "source": {"objects": []}}},
    ]
    shown = asked(tmp_path, LocalDatasets(lambda: bodies))["datasets"]
    assert [each["name"] for each in shown] == ["new", "old", "never"]
    assert shown[2].get("snapshot") is None


def test_of_many_data_sets_the_newest_are_shown() -> None:
    bodies = [dataset_of_feedback(f"d{n:02}", taken=f"2026-11-21T10:{n:02}:00Z") for n in range(MAX_SHOWN + 5)]
    shown = by_policy(bodies)["router"]
    assert [each.name for each in shown] == [f"d{n:02}" for n in range(MAX_SHOWN + 4, 4, -1)]


def test_a_status_that_this_version_cannot_read_leaves_the_name() -> None:
    body = dataset_of_feedback("odd")
    body["status"]["snapshot"]["counts"]["kept"] = "many"
    (shown,) = by_policy([body])["router"]
    assert (shown.name, shown.type, shown.snapshot) == ("odd", "classification", None)


def test_a_gateway_that_sees_no_data_sets_says_so_and_what_to_do(tmp_path: Path) -> None:
    found = asked(tmp_path, None)
    assert found["datasets"] == []
    assert "RATCHET_GATEWAY_POLICIES" in found["problem"]


def test_of_a_policy_that_is_not_there_nothing_is_shown(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        answer = gateway.get("/v1/review/nobody/datasets")
    assert answer.status_code == 404
    assert "'nobody'" in answer.json()["detail"]
