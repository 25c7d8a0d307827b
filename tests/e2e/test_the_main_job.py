"""The title of the project on a real cluster: apply a run, Jobs train, the artifact is in S3, the run is Complete.

One lab, one installation, one fault-free run as the reference; every later test compares with it. Training is real:
the example's manifests, unchanged, on real complaints (fewer of them) with the real encoder.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.inputs import untimed
from tests.e2e.platform import EXAMPLE, Platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]  # training on one core; the fixture trains too

STAGES = ("resolve", "supervised", "evaluate")


def _manifest(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((EXAMPLE / name).read_text())
    # PyYAML reads 1e-3 as a string, kubectl as a number; the manifest goes to kubectl as a file where that matters
    supervised = document["spec"].get("stages", {}).get("supervised", {})
    if "learningRate" in supervised:
        supervised["learningRate"] = float(supervised["learningRate"])
    return document


def _run_manifest(name: str, **spec: Any) -> dict[str, Any]:
    document = _manifest("run.yaml")
    document["metadata"]["name"] = name
    document["spec"] |= spec
    return document


def _stage(run: dict[str, Any], stage: str) -> dict[str, Any]:
    found: dict[str, Any] = next(s for s in run["status"]["stages"] if s["name"] == stage)
    return found


def _commit(platform: Platform, run: dict[str, Any], stage: str) -> dict[str, Any]:
    uid = run["metadata"]["uid"][:8]
    key = f"{platform.namespace}/runs/{run['metadata']['name']}-{uid}/{stage}/COMMIT.json"
    commit: dict[str, Any] = json.loads(platform.read_object(key))
    return commit


def _forget_cached(platform: Platform, run: dict[str, Any]) -> None:
    """Make the next identical run train again: the cache's index is what a hit is found by."""
    for stage in ("supervised", "evaluate"):
        platform.delete_object(f"{platform.namespace}/index/{_stage(run, stage)['inputDigest']}.json")


def test_example_applied_with_kubectl_trains_and_ends_complete(platform: Platform, reference: dict[str, Any]) -> None:
    status = reference["status"]
    assert [s["name"] for s in status["stages"]] == list(STAGES)
    assert {s["state"] for s in status["stages"]} == {"Succeeded"}
    assert status["metrics"]["accuracy"] > 0.3
    assert {"accuracy", "macro_f1", "ece"} <= set(status["metrics"])
    assert re.fullmatch(r"[0-9a-f]{64}", status["artifact"]["digest"])
    assert status["observedGeneration"] == reference["metadata"]["generation"]
    jobs = sorted(j["metadata"]["labels"]["ratchet.dev/stage"] for j in platform.jobs_of(reference["metadata"]["name"]))
    assert jobs == sorted(STAGES)


def test_every_committed_file_in_s3_has_the_checksum_that_the_commit_names(
    platform: Platform, reference: dict[str, Any]
) -> None:
    for stage in ("supervised", "evaluate"):
        commit = _commit(platform, reference, stage)
        assert commit["digest"] == _stage(reference, stage)["artifact"]["digest"]
        assert commit["files"]
        for file in commit["files"]:
            data = platform.read_object(f"{commit['directory']}/{file['path']}")
            assert len(data) == file["size"]
            assert hashlib.sha256(data).hexdigest() == file["sha256"], file["path"]


def test_snapshot_in_s3_is_named_by_its_digest(platform: Platform, reference: dict[str, Any]) -> None:
    digest = reference["status"]["resolved"]["datasetDigest"]
    keys = platform.keys(f"{platform.namespace}/snapshots/{digest}/")
    names = {Path(key).name for key in keys}
    assert "MANIFEST.json" in names
    assert any(name.startswith("train") and name.endswith(".parquet") for name in names)


def test_kubectl_get_showed_a_moving_percentage(platform: Platform, reference: dict[str, Any]) -> None:
    shown = {m.group(1) for line in platform.seen_progress if (m := re.search(r"supervised\s+(\d+)%", line))}
    assert len(shown) >= 3, platform.seen_progress


def test_failed_gate_is_said_with_its_numbers_and_nothing_is_published(
    platform: Platform, reference: dict[str, Any]
) -> None:
    """So few rows cannot reach the example's 75 % accuracy: the run is Complete, the version is withheld."""
    gate = platform.condition("rltr", reference["metadata"]["name"], "GatePassed")
    assert (gate["status"], gate["reason"]) == ("False", "GateFailed")
    assert "0.75" in gate["message"]
    assert f"{reference['status']['metrics']['accuracy']:.4g}" in gate["message"]
    assert "version" not in reference["status"]


def test_version_that_passes_its_gate_is_published_and_promote_makes_it_champion(
    platform: Platform, reference: dict[str, Any]
) -> None:
    evaluation = reference["spec"]["evaluation"] | {"gates": [{"metric": "accuracy", "minimum": 0.3}]}
    platform.apply(_run_manifest("published", evaluation=evaluation))
    run = platform.finish("published", 300)
    assert _stage(run, "supervised")["state"] == "Cached"
    assert run["status"]["version"] == 1
    policy = reference["spec"]["publishTo"]["name"]
    versions = platform.get("rlp", policy)["status"]["versions"]
    assert [(v["version"], v["runUid"]) for v in versions] == [(1, run["metadata"]["uid"])]
    platform.kubectl("annotate", "rlp", policy, "ratchet.dev/promote=1", "--overwrite")
    platform.wait("version 1 to be champion", lambda: platform.get("rlp", policy)["status"].get("champion") == 1, 60)


def test_prometheus_answers_for_the_run(platform: Platform, reference: dict[str, Any]) -> None:
    name = reference["metadata"]["name"]
    # the pods are gone by now: their samples are asked for over the time that they lived
    loss = platform.lab.prometheus(f'max_over_time(ratchet_stage_loss{{run="{name}"}}[30m])')
    assert loss, "no sample of the stage pod's loss"
    operator = platform.lab.prometheus("sum(max_over_time(ratchet_reconcile_total[30m]))")
    assert float(operator[0]["value"][1]) > 0  # type: ignore[index]


def test_second_identical_run_finishes_from_the_cache_without_a_training_job(
    platform: Platform, reference: dict[str, Any]
) -> None:
    """P6."""
    platform.apply(_run_manifest("again"))
    again = platform.finish("again", 180)
    assert {_stage(again, s)["state"] for s in ("supervised", "evaluate")} == {"Cached"}
    assert again["status"]["artifact"] == reference["status"]["artifact"]
    assert [j["metadata"]["labels"]["ratchet.dev/stage"] for j in platform.jobs_of("again")] == ["resolve"]


def test_operator_killed_twice_mid_stage_changes_nothing_in_the_end_state(
    platform: Platform, reference: dict[str, Any]
) -> None:
    """P4, P5 on a real cluster."""
    _forget_cached(platform, reference)
    rng = random.Random(20261121)
    platform.apply(_run_manifest("operator-killed"))
    for _ in range(2):
        platform.wait_training("operator-killed")
        time.sleep(rng.uniform(0.5, 4))
        platform.kill_operator()
    run = platform.finish("operator-killed")
    assert run["status"]["artifact"]["digest"] == reference["status"]["artifact"]["digest"]
    assert untimed(run["status"]) == untimed(reference["status"])
    assert {_stage(run, s)["attempt"]["number"] for s in STAGES} == {1}
    assert len(platform.jobs_of("operator-killed")) == len(STAGES)


def test_s3_away_for_a_minute_mid_stage_loses_nothing(
    platform: Platform, reference: dict[str, Any], time_scale: float
) -> None:
    _forget_cached(platform, reference)
    platform.apply(_run_manifest("store-away"))
    platform.wait_training("store-away")
    with platform.without_s3():
        time.sleep(max(60 * time_scale, 3))
    run = platform.finish("store-away")
    assert run["status"]["artifact"]["digest"] == reference["status"]["artifact"]["digest"]


def test_suspended_run_frees_its_pod_and_goes_on_from_its_checkpoint(
    platform: Platform, reference: dict[str, Any]
) -> None:
    """P12 on a real cluster: SIGTERM, checkpoint, a new attempt, the same bits."""
    _forget_cached(platform, reference)
    platform.apply(_run_manifest("pausing"))
    platform.wait_training("pausing", step=3)
    platform.kubectl("patch", "rltr", "pausing", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    platform.wait("the suspended run to hold no pod", lambda: not _live_pods(platform, "pausing"), 180)
    platform.wait(
        "the run to say Suspended",
        lambda: platform.condition("rltr", "pausing", "Suspended").get("status") == "True",
        60,
    )
    platform.kubectl("patch", "rltr", "pausing", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    run = platform.finish("pausing")
    assert _stage(run, "supervised")["attempt"]["number"] == 2
    assert run["status"]["artifact"]["digest"] == reference["status"]["artifact"]["digest"]


def test_deleting_a_run_mid_stage_frees_its_pods(platform: Platform, reference: dict[str, Any]) -> None:
    """P10."""
    _forget_cached(platform, reference)
    platform.apply(_run_manifest("deleted"))
    platform.wait_training("deleted")
    platform.kubectl("delete", "rltr", "deleted", "--wait=false")
    platform.wait("the deleted run's pods to be gone", lambda: not platform.pods_of("deleted"), 180)
    platform.wait("the deleted run's Jobs to be gone", lambda: not platform.jobs_of("deleted"), 60)
    assert not platform.items("configmaps", "ratchet.dev/owner=deleted")


def test_gpus_that_a_stage_asks_for_are_accounted_by_the_scheduler(
    platform: Platform, reference: dict[str, Any]
) -> None:
    platform.lab.set_node_capacity({"nvidia.com/gpu": 1})
    stages = {"supervised": {"resources": {"cpu": 0.5, "memoryGi": 2, "gpus": 2}}}
    platform.apply(_run_manifest("two-gpus", stages=stages, seed=99))
    platform.wait(
        "the run to say that no node has two GPUs",
        lambda: "Unschedulable" in json.dumps(platform.get("rltr", "two-gpus").get("status", {})),
        180,
    )
    pod = next(p for p in platform.pods_of("two-gpus") if p["metadata"]["labels"]["ratchet.dev/stage"] == "supervised")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    platform.lab.set_node_capacity({"nvidia.com/gpu": 2})
    platform.wait_training("two-gpus")
    platform.kubectl("delete", "rltr", "two-gpus", "--wait=false")


def test_missing_dataset_is_said_with_its_name_and_heals_when_it_appears(platform: Platform) -> None:
    platform.apply(_run_manifest("no-data", datasetRef={"name": "not-there"}, dryRun=True))
    platform.wait(
        "the run to name the missing dataset",
        lambda: platform.condition("rltr", "no-data", "DataReady").get("reason") == "DatasetNotFound",
        60,
    )
    assert "not-there" in platform.condition("rltr", "no-data", "DataReady")["message"]
    dataset = _manifest("dataset.yaml")
    dataset["metadata"]["name"] = "not-there"
    platform.apply(dataset)
    platform.wait(
        "the dry run to show its estimate",
        lambda: platform.get("rltr", "no-data").get("status", {}).get("estimate", {}).get("steps", 0) > 0,
        120,
    )
    assert not platform.jobs_of("no-data")


def test_started_run_refuses_a_changed_spec(platform: Platform, reference: dict[str, Any]) -> None:
    """T11."""
    name = reference["metadata"]["name"]
    with pytest.raises(Exception, match="cannot change once the run has started"):
        platform.kubectl("patch", "rltr", name, "--type=merge", "-p", '{"spec":{"seed":7}}')


def test_wrong_checksum_of_the_model_fails_fast_and_names_both(platform: Platform, reference: dict[str, Any]) -> None:
    """P13, P39."""
    base = dict(reference["spec"]["baseModel"], sha256="f" * 64)
    platform.apply(_run_manifest("wrong-model", baseModel=base))
    platform.wait(
        "the run to fail for its model",
        lambda: platform.condition("rltr", "wrong-model", "Failed").get("status") == "True",
        240,
    )
    failed = platform.condition("rltr", "wrong-model", "Failed")
    assert failed["reason"] == "BadModel"
    assert "f" * 8 in failed["message"]
    assert reference["spec"]["baseModel"]["sha256"][:8] in failed["message"]


def _live_pods(platform: Platform, owner: str) -> list[dict[str, Any]]:
    return [p for p in platform.pods_of(owner) if p["status"].get("phase") in {"Pending", "Running"}]
