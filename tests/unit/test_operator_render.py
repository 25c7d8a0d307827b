"""No custom resource can ask for a pod outside Pod Security `restricted`, with a foreign image or service account."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ratchet_api.names import STAGE_FILE
from ratchet_api.placement import Placement, Resources
from ratchet_api.rlhf import RlhfStage
from ratchet_api.stage import GRACE_SECONDS, DatasetRef, RlConfig, SnapshotConfig, Stage, StageInput, StageRef
from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_operator.desired.child import NotAllowed, StageRequest
from ratchet_operator.desired.job import render_job
from ratchet_operator.plan.runs import plan_run
from ratchet_operator.plan.world import CreateObject, DatasetSight, Meta, RunWorld
from ratchet_operator.settings import Settings, StoreSettings
from tests.world import builders as b

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STORE = StoreSettings("s3://bucket", secret_name="s3-credentials")
SETTINGS = Settings(stage_image="registry/jobs:1", allowed_priority_classes=("batch",), store=STORE)

names = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?", fullmatch=True)
label_values = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", fullmatch=True)
label_keys = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,30}[A-Za-z0-9])?", fullmatch=True)
resources = st.fixed_dictionaries(
    {
        "cpu": st.floats(0.1, 512),
        "memoryGi": st.floats(0.25, 16_384),
        "gpus": st.integers(0, 16),
        "ephemeralStorageGi": st.floats(0.1, 16_384),
    }
)
effects = st.sampled_from(["NoSchedule", "NoExecute"])
tolerations = st.one_of(
    st.fixed_dictionaries({"key": label_keys, "operator": st.just("Exists")}, optional={"effect": effects}),
    st.fixed_dictionaries({"key": label_keys, "value": label_values}, optional={"effect": effects}),
)
placements = st.fixed_dictionaries(
    {},
    optional={
        "nodeSelector": st.dictionaries(label_keys, label_values, max_size=16),
        "tolerations": st.lists(tolerations, max_size=16),
        "priorityClassName": st.sampled_from(["batch", "system-node-critical"]),
        "queueName": st.from_regex(r"[a-z]{1,20}", fullmatch=True),
    },
)
specs = st.fixed_dictionaries(
    {
        "policyType": st.just("classifier"),
        "baseModel": st.just({"uri": "store://m", "sha256": "a" * 64}),
        "datasetRef": st.fixed_dictionaries({"name": names}),
    },
    optional={
        "seed": st.integers(0, 2**31 - 1),
        "placement": placements,
        "image": st.sampled_from(["registry/jobs:1", "evil/image:1", "registry/jobs:1\n", "a b"]),
        "activeDeadlineSeconds": st.integers(10, 2_592_000),
        "stages": st.fixed_dictionaries({"supervised": st.fixed_dictionaries({"resources": resources})}),
    },
)


def request_for(**changes: Any) -> StageRequest:
    meta = Meta("RLTrainingRun", "rltrainingruns", "team-a", "router", "u" * 36, 1)
    content = StageInput.model_validate(
        {
            "owner": {"kind": meta.kind, "namespace": meta.namespace, "name": meta.name, "uid": meta.uid},
            "attempt": 1,
            "prefix": "team-a/runs/router-uuuuuuuu/resolve",
            "store": {"uri": "s3://bucket"},
            "config": {
                "stage": "resolve",
                "dataset": {"digest": "d" * 64, "prefix": "p"},
                "baseModel": {"uri": "store://m", "sha256": "a" * 64},
                "lookups": [],
            },
        }
    )
    request = StageRequest(
        owner=meta,
        stage=Stage.RESOLVE,
        attempt=1,
        name="router-resolve-1",
        content=content,
        image="registry/jobs:1",
        resources=Resources(),
        placement=Placement(),
        deadline_seconds=60,
        avoid_nodes=(),
        store=STORE,
    )
    return replace(request, **changes)


def restricted(job: dict[str, Any]) -> None:
    """The checks of Pod Security `restricted` that concern what we render, and our own stricter ones."""
    pod = job["spec"]["template"]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostAliases", "initContainers"} & pod.keys()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == SETTINGS.stage_service_account
    assert [list(v)[1] for v in pod["volumes"]] == ["downwardAPI", "emptyDir", "emptyDir"]
    assert all("sizeLimit" in v["emptyDir"] for v in pod["volumes"] if "emptyDir" in v)
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["image"] == SETTINGS.stage_image
    assert container["command"] == ["ratchet-stage"]
    assert "hostPort" not in container["ports"][0]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert pod.get("priorityClassName", "batch") == "batch"


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],
)
@given(spec=specs, name=names)
def test_every_valid_run_renders_a_restricted_pod_or_none(spec: dict[str, Any], name: str) -> None:
    """P20: through the whole plan, from an arbitrary valid spec to the children of its first Job."""
    parsed = RLTrainingRunSpec.model_validate(spec)
    meta = Meta("RLTrainingRun", "rltrainingruns", "team-a", name, "0123456789abcdef", 1)
    snapshot = {"digest": "d" * 64, "uri": "s3://bucket/x", "counts": {"train": 100}}
    dataset = DatasetSight(name="d", ready=True, snapshot=_snapshot(snapshot), type="classification")
    world = RunWorld(
        now=NOW,
        settings=SETTINGS,
        meta=meta,
        spec=parsed,
        spec_error="",
        status=_empty(),
        dataset=dataset,
        store=STORE,
    )
    first = plan_run(world)
    assert first.status is not None
    refused = spec.get("image", SETTINGS.stage_image) != SETTINGS.stage_image
    refused |= spec.get("placement", {}).get("priorityClassName", "batch") != "batch"
    if refused:
        assert first.actions == ()
        assert first.status.state == "Invalid"
        return
    second = plan_run(replace(world, status=first.status))
    (job,) = second.actions
    assert isinstance(job, CreateObject)
    restricted(job.manifest)
    names_fit(job.manifest)
    content = mounted_input(job.manifest)
    assert content.owner.name == name
    assert json.dumps(job.manifest)


def names_fit(job: dict[str, Any]) -> None:
    """The pod's name adds six characters and is a host name; label values end at 63."""
    name = job["metadata"]["name"]
    assert len(name) <= 57
    assert "." not in name
    assert all(len(value) <= 63 for value in job["metadata"]["labels"].values())
    assert all(len(value) <= 63 for value in job["spec"]["template"]["metadata"]["labels"].values())


def _snapshot(wire: dict[str, Any]) -> Any:
    from ratchet_api.snapshot_summary import SnapshotSummary

    return SnapshotSummary.model_validate(wire)


def _empty() -> Any:
    from ratchet_api.training_run import RLTrainingRunStatus

    return RLTrainingRunStatus()


def test_rendering_refuses_an_image_that_acceptance_let_through() -> None:
    """P20: defence in depth."""
    with pytest.raises(NotAllowed, match=r"router.*'evil:1'.*images\.allowed"):
        render_job(request_for(image="evil:1"), SETTINGS)


def test_rendering_refuses_a_priority_class_that_acceptance_let_through() -> None:
    """P20: defence in depth."""
    with pytest.raises(NotAllowed, match=r"'system-node-critical'.*priorityClasses\.allowed"):
        render_job(request_for(placement=Placement(priority_class_name="system-node-critical")), SETTINGS)


def test_requests_equal_limits_in_whole_units() -> None:
    amounts = render_job(request_for(resources=Resources(cpu=1.5, memory_gi=2.5, gpus=2)), SETTINGS)
    container = amounts["spec"]["template"]["spec"]["containers"][0]
    # 1.5 cores = 1500m; 2.5 GiB = 2560 MiB
    want = {"cpu": "1500m", "memory": "2560Mi", "nvidia.com/gpu": "2"}
    assert container["resources"] == {"requests": want, "limits": want}


@pytest.mark.parametrize(("cpu", "want"), [(0.5, "1"), (1.0, "1"), (2.9, "2"), (16.0, "16")])
def test_threads_are_whole_cores_and_at_least_one(cpu: float, want: str) -> None:
    job = render_job(request_for(resources=Resources(cpu=cpu)), SETTINGS)
    environment = {e["name"]: e.get("value") for e in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["OMP_NUM_THREADS"] == want
    assert environment["OMP_WAIT_POLICY"] == "passive", "a pod that spins while it waits burns its own CPU limit"


def test_the_job_fails_on_every_exit_that_counts_and_replaces_the_pod_on_the_others() -> None:
    spec = render_job(request_for(), SETTINGS)["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"], spec["activeDeadlineSeconds"]) == (0, "Failed", 60)
    assert "ttlSecondsAfterFinished" not in spec
    rules = [(r["action"], (r.get("onExitCodes") or {}).get("operator")) for r in spec["podFailurePolicy"]["rules"]]
    assert rules == [("Ignore", None), ("Ignore", "In"), ("FailJob", "NotIn")]
    assert spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [75, 143]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == GRACE_SECONDS
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_a_job_is_suspended_only_when_it_has_a_queue() -> None:
    assert "suspend" not in render_job(request_for(), SETTINGS)["spec"]
    queued = render_job(request_for(placement=Placement(queue_name="q")), SETTINGS)
    assert queued["spec"]["suspend"] is True
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q"
    assert "kueue.x-k8s.io/queue-name" not in queued["spec"]["template"]["metadata"]["labels"]


def test_without_a_secret_the_pod_gets_no_credentials() -> None:
    job = render_job(request_for(store=StoreSettings("s3://bucket")), SETTINGS)
    assert "envFrom" not in job["spec"]["template"]["spec"]["containers"][0]


def test_a_judges_key_is_one_key_of_a_secret_and_no_other() -> None:
    """P20, P21: whatever a spec names, only what was put there for a judge is sent to the judge."""
    asked = {
        "endpoint": "http://j/v1",
        "model": "m",
        "prompt": "Rate {response}",
        "apiKeySecretRef": {"name": "my-keys"},
    }
    rewards = [{"type": "judge", "judge": asked}, {"type": "judge", "judge": {**asked, "maxScore": 5.0}}]
    config = RlConfig(
        policy_type="generator",
        dataset=DatasetRef(digest="d", prefix="p"),
        start=StageRef(stage=Stage.SUPERVISED, prefix="p", input_digest="0" * 64),
        rlhf=RlhfStage.model_validate({"rewards": rewards}),
        seed=0,
    )
    job = render_job(request_for(content=request_for().content.model_copy(update={"config": config})), SETTINGS)
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    [key] = [each for each in env if "secretKeyRef" in each.get("valueFrom", {})]
    assert key["name"] == "RATCHET_JUDGE_KEY_MY_KEYS"
    assert key["valueFrom"]["secretKeyRef"] == {"name": "my-keys", "key": "judge-api-key"}


def test_the_judge_of_a_data_set_gets_its_key_in_the_snapshots_pod() -> None:
    """P20: as every judge does, and no other Secret of the namespace."""
    asked = {"endpoint": "http://j/v1", "model": "m", "prompt": "Rate {response}", "apiKeySecretRef": {"name": "mine"}}
    source = {"inline": [{"text": "a", "response": "b"}]}
    whole = {"type": "demonstrations", "source": source, "columns": {}, "filters": {}, "split": {}, "scoring": asked}
    config = SnapshotConfig.model_validate(whole)
    job = render_job(request_for(content=request_for().content.model_copy(update={"config": config})), SETTINGS)
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [each["name"] for each in env if "secretKeyRef" in each.get("valueFrom", {})] == ["RATCHET_JUDGE_KEY_MINE"]


def test_equal_requests_render_equal_manifests_and_any_change_another_hash() -> None:
    def hash_of(request: StageRequest) -> str:
        return str(render_job(request, SETTINGS)["metadata"]["annotations"]["ratchet.dev/spec-hash"])

    assert render_job(request_for(), SETTINGS) == render_job(request_for(), SETTINGS)
    changes: list[dict[str, Any]] = [
        {"attempt": 2},
        {"deadline_seconds": 61},
        {"avoid_nodes": ("n1",)},
        {"resources": Resources(gpus=1)},
        {"placement": Placement(node_selector={"a": "b"})},
    ]
    hashes = {hash_of(request_for(**change)) for change in [{}, *changes]}
    assert len(hashes) == len(changes) + 1


def test_the_pod_mounts_its_stage_file_from_its_own_annotation() -> None:
    job = render_job(request_for(), SETTINGS)
    assert mounted_input(job) == request_for().content
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "stage", "mountPath": "/etc/ratchet", "readOnly": True} in container["volumeMounts"]
    assert job["metadata"]["namespace"] == b.NAMESPACE


def mounted_input(job: dict[str, Any]) -> StageInput:
    """Follow the volume as the kubelet does: the file's field path names the annotation."""
    template = job["spec"]["template"]
    (volume,) = (each for each in template["spec"]["volumes"] if each["name"] == "stage")
    (item,) = volume["downwardAPI"]["items"]
    assert item["path"] == STAGE_FILE
    found = re.fullmatch(r"metadata\.annotations\['([^']+)'\]", item["fieldRef"]["fieldPath"])
    assert found is not None
    return StageInput.model_validate_json(template["metadata"]["annotations"][found[1]])
