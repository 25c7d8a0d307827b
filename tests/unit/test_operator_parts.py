"""The operator's small pure parts: settings, sights, wakes, gates, and the object rules of the in-memory cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet_api.environment import SettingsError
from ratchet_api.gates import judge_gate
from ratchet_api.kinds import KINDS
from ratchet_api.training_run import Gate
from ratchet_operator.cluster.objects import ObjectStore, merge
from ratchet_operator.cluster.protocol import Conflict, Denied, Rejected
from ratchet_operator.plan.pending import refusal_reason
from ratchet_operator.plan.runs import RULES
from ratchet_operator.plan.runs.state import short_time
from ratchet_operator.plan.sights import dataset_sight, job_sight, meta_of, pod_sight, policy_sight, publishable_run
from ratchet_operator.settings import Platform, Settings
from ratchet_operator.wakes import Key, dependents, keys_to_wake, references
from tests.world import builders as b

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()


def test_every_setting_is_read_from_its_variable() -> None:
    environ = {
        "RATCHET_STAGE_IMAGE": "r/jobs@sha256:1",
        "RATCHET_ALLOWED_IMAGES": "a:1, b:* ,",
        "RATCHET_ALLOWED_PRIORITY_CLASSES": "batch,low",
        "RATCHET_WATCH_NAMESPACES": "x,y",
        "RATCHET_STAGE_SERVICE_ACCOUNT": "ratchet-stage",
        "RATCHET_STORE_URI": "s3://b/p",
        "RATCHET_STORE_ENDPOINT": "http://s3",
        "RATCHET_STORE_REGION": "eu",
        "RATCHET_STORE_SECRET": "key",
        "RATCHET_WORKERS": "3",
        "RATCHET_RESYNC_SECONDS": "60",
        "RATCHET_TIME_SCALE": "0.05",
        "RATCHET_HTTP_PORT": "0",
        "RATCHET_LOG_LEVEL": "debug",
        "RATCHET_IMAGE_PULL_SECRETS": "pull",
        "RATCHET_IMAGE_PULL_POLICY": "Never",
        "RATCHET_STAGE_UID": "1000",
        "RATCHET_GATEWAY_URL": "http://gw.{namespace}:8000/",
        "RATCHET_GATEWAY_TOKEN_FILE": "/var/run/token",
        "RATCHET_OPERATOR_ANALYST_URL": "http://analyst.{namespace}:8090",
        "RATCHET_OPERATOR_PROMETHEUS_URL": "http://prometheus.{namespace}:9090",
        "RATCHET_OPERATOR_PROMETHEUS_SECONDS": "2",
        "RATCHET_SERVING": "on",
        "RATCHET_SERVING_IMAGE": "r/serving:1",
        "RATCHET_ROUTER_IMAGE": "r/router:1",
        "RATCHET_SERVING_SERVICE_ACCOUNT": "server",
        "RATCHET_SIGNING_SECRET": "keys",
        "RATCHET_VLLM_IMAGE": "r/vllm:1",
    }
    read, default = Settings.from_env(environ), Settings()
    assert all(getattr(read, name) != getattr(default, name) for name in Settings.__dataclass_fields__)
    assert read.store is not None
    assert (read.store.uri, read.store.endpoint, read.store.region, read.store.secret_name) == (
        "s3://b/p",
        "http://s3",
        "eu",
        "key",
    )
    assert read.allowed_images == ("a:1", "b:*")
    gateway = "http://gw.{namespace}:8000"
    assert read.serving == Platform(
        "r/serving:1", "r/router:1", "server", 1000, "Never", ("pull",), "keys", gateway, "debug", "r/vllm:1"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATCHET_WORKERS", "many"),
        ("RATCHET_WORKERS", "0"),
        ("RATCHET_TIME_SCALE", "nan"),
        ("RATCHET_LOG_LEVEL", "loud"),
        ("RATCHET_IMAGE_PULL_POLICY", "Sometimes"),
        ("RATCHET_STAGE_UID", "0"),
        ("RATCHET_GATEWAY_URL", "gateway:8000"),
        ("RATCHET_OPERATOR_ANALYST_URL", "analyst"),
        ("RATCHET_SERVING", "yes"),
    ],
)
def test_an_unusable_setting_is_named_with_its_value_and_what_is_wanted(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name}='{value}'.*set (a number|one)"):
        Settings.from_env({name: value})


@pytest.mark.parametrize(
    ("image", "allowed"),
    [("own:1", True), ("team/x:1", True), ("team/x", False), ("evil/team/x:1", False), ("own:1 ", False), ("", False)],
)
def test_an_image_is_allowed_as_the_default_or_by_a_whole_pattern(image: str, allowed: bool) -> None:
    assert Settings(stage_image="own:1", allowed_images=("team/*:1",)).image_allowed(image) is allowed


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "metadata",
                    "spec",
                    "status",
                    "conditions",
                    "containerStatuses",
                    "state",
                    "terminated",
                    "type",
                    "name",
                    "exitCode",
                    "message",
                    "startTime",
                    "ownerReferences",
                    "snapshot",
                    "versions",
                    "labels",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(obj=st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), junk, max_size=3))
def test_no_object_of_any_shape_crashes_a_sight(obj: dict[str, Any]) -> None:
    """P15: somebody else may have written anything."""
    job_sight(obj)
    pod_sight(obj)
    dataset_sight(obj)
    policy_sight(obj)
    publishable_run(obj, frozenset({"WaitingForPolicy"}))
    meta_of("RLTrainingRun", "rltrainingruns", obj)
    for resource in ("jobs", "pods", "rltrainingruns", "rlpolicies", "feedbackdatasets"):
        keys_to_wake(resource, obj)
        references(resource, obj)


def test_a_job_wakes_its_owner_by_its_whole_name() -> None:
    name = "x" * 200
    metadata = {
        "namespace": "n",
        "labels": {"ratchet.dev/owner-kind": "RLTrainingRun", "ratchet.dev/owner": name[:63]},
        "annotations": {"ratchet.dev/owner-name": name},
    }
    assert keys_to_wake("pods", {"metadata": metadata}) == [Key("rltrainingruns", "n", name)]
    assert keys_to_wake("jobs", {"metadata": {"namespace": "n", "labels": {}}}) == []


def test_a_run_wakes_its_policy_only_while_it_waits_for_it() -> None:
    run = b.run(publishTo={"name": "support"})
    assert keys_to_wake("rltrainingruns", run) == [Key("rltrainingruns", b.NAMESPACE, "router")]
    run["status"] = {"conditions": [{"type": "Published", "status": "Unknown", "reason": "WaitingForPolicy"}]}
    assert Key("rlpolicies", b.NAMESPACE, "support") in keys_to_wake("rltrainingruns", run)


def test_a_dataset_concerns_the_runs_and_policies_of_its_namespace_that_name_it() -> None:
    foreign = b.run("foreign")
    foreign["metadata"]["namespace"] = "team-b"
    known = [
        ("rltrainingruns", b.run()),
        ("rltrainingruns", foreign),
        ("rltrainingruns", b.run("another", datasetRef={"name": "other"})),
        ("rlpolicies", b.policy(training={"template": b.template()})),
    ]
    found = dependents(Key("feedbackdatasets", b.NAMESPACE, "complaints"), known)
    assert [key.name for key in found] == ["router", "support"]


@pytest.mark.parametrize(
    ("gate", "metrics", "passed"),
    [
        ({"metric": "accuracy", "minimum": 0.8}, {"accuracy": 0.8}, True),
        ({"metric": "accuracy", "minimum": 0.8}, {"accuracy": 0.7999}, False),
        ({"metric": "ece", "maximum": 0.05}, {"ece": 0.05}, True),
        ({"metric": "ece", "maximum": 0.05}, {"ece": 0.0501}, False),
        ({"metric": "ece", "minimum": 0.01, "maximum": 0.05}, {"ece": 0.0}, False),
        ({"metric": "accuracy", "minimum": 0.0}, {}, False),
        ({"metric": "accuracy", "minimum": 0.0}, {"accuracy": float("nan")}, False),
        ({"metric": "accuracy", "maximum": 1.0}, {"accuracy": float("inf")}, False),
        ({"metric": "macro_f1", "label": "spam", "minimum": 0.5}, {"macro_f1": 0.9, "f1/spam": 0.4}, False),
        ({"metric": "macro_f1", "label": "spam", "minimum": 0.5}, {"macro_f1": 0.1, "f1/spam": 0.6}, True),
    ],
)
def test_a_gate_holds_only_on_a_measured_number_inside_its_bounds(
    gate: dict[str, Any], metrics: dict[str, float], passed: bool
) -> None:
    assert judge_gate(Gate.model_validate(gate), metrics).passed is passed


@pytest.mark.parametrize(
    ("seconds", "want"), [(0, "0s"), (59, "59s"), (60, "1m00s"), (200, "3m20s"), (3599, "59m59s"), (7500, "2h05m")]
)
def test_durations_read_as_people_say_them(seconds: int, want: str) -> None:
    assert short_time(seconds) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('pods "x" is forbidden: exceeded quota: gpus, requested: 1', "QuotaExceeded"),
        ('pods "x" is forbidden: failed quota: q: must specify limits.cpu', "QuotaExceeded"),
        ('User "sa" cannot create resource "jobs" in API group "batch"', "Forbidden"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "AdmissionDenied"),
        ('Job.batch "x" is invalid: spec.template', "AdmissionDenied"),
    ],
)
def test_the_servers_text_tells_the_reason_of_a_refusal(text: str, want: str) -> None:
    assert refusal_reason(text) == want


def test_no_field_of_any_kind_names_a_namespace_a_service_account_or_a_volume() -> None:
    """P21 and P20: schema scan of everything that a user may write.

    But of one: an HTTPRoute may ask a Gateway of another namespace, whose listener says which namespaces it lets in.
    """
    banned = {"namespace", "serviceaccountname", "serviceaccount", "volumes", "hostpath", "secretname", "command"}
    seen = 0
    for kind in KINDS.values():
        schema = kind.spec_model.model_json_schema(by_alias=True)
        if kind.kind == "RLPolicy":
            del schema["$defs"]["ParentRef"]["properties"]["namespace"]
        for name in field_names(schema):
            seen += 1
            assert name.lower() not in banned, f"{kind.kind}: {name}"
    assert seen > 80


def field_names(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from field_names(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from field_names(value)


def test_the_explanation_lists_the_rules_in_their_order() -> None:
    page = Path(__file__).parents[2] / "docs/explanation/run-states.md"
    _, table = page.read_text().split("| rule | speaks when | what it does |\n", 1)
    rows = [line.split("`")[1] for line in table.split("\n\n", 1)[0].splitlines() if line.startswith("| `")]
    assert rows == [*(rule.__name__ for rule in RULES), "conclude"]


def made(store: ObjectStore, resource: str = "jobs", name: str = "a", **metadata: Any) -> dict[str, Any]:
    return store.create(resource, {"metadata": {"name": name, "namespace": "n", **metadata}, "spec": {"x": 1}})


def owned(by: dict[str, Any]) -> list[dict[str, str]]:
    return [{"kind": "x", "name": by["metadata"]["name"], "uid": by["metadata"]["uid"]}]


def test_a_name_is_taken_once_and_a_recreated_object_has_another_uid() -> None:
    store = ObjectStore(lambda: NOW)
    first = made(store)
    with pytest.raises(Conflict, match="'a' already exists"):
        made(store)
    store.delete("jobs", "n", "a", uid=first["metadata"]["uid"])
    assert made(store)["metadata"]["uid"] != first["metadata"]["uid"]
    store.delete("jobs", "n", "a", uid=first["metadata"]["uid"])
    assert store.get("jobs", "n", "a") is not None, "a delete names the uid"


def test_a_status_write_needs_the_version_that_was_read_and_leaves_the_generation() -> None:
    store = ObjectStore(lambda: NOW)
    old = made(store)
    new = store.set_status("jobs", old, {"active": 1})
    assert new["metadata"]["generation"] == 1
    with pytest.raises(Conflict):
        store.set_status("jobs", old, {"active": 2})
    with pytest.raises(Rejected) as gone:
        store.set_status("jobs", {"metadata": {**old["metadata"], "name": "b"}}, {})
    assert gone.value.status == 404


def test_the_generation_rises_with_the_spec_alone() -> None:
    store = ObjectStore(lambda: NOW)
    made(store)
    assert store.update("jobs", "n", "a", {"metadata": {"labels": {"k": "v"}}})["metadata"]["generation"] == 1
    assert store.update("jobs", "n", "a", {"spec": {"x": 2}})["metadata"]["generation"] == 2
    assert store.update("jobs", "n", "a", {"spec": {"x": 2}})["metadata"]["generation"] == 2


def test_children_go_with_their_owner_and_a_foreground_deletion_waits_for_them() -> None:
    store = ObjectStore(lambda: NOW)
    job = made(store)
    made(store, "pods", "p", ownerReferences=owned(job))
    pod = store.get("pods", "n", "p")
    assert pod is not None
    store.set_status("pods", pod, {"phase": "Running"})
    store.delete("jobs", "n", "a", foreground=True)
    store.collect()
    waiting, marked = store.get("jobs", "n", "a"), store.get("pods", "n", "p")
    assert waiting is not None
    assert marked is not None
    assert "deletionTimestamp" in marked["metadata"], "the kubelet must stop it first"
    store.remove("pods", "n", "p")
    store.collect()
    assert store.get("jobs", "n", "a") is None


def test_a_child_of_an_owner_that_never_existed_is_collected() -> None:
    store = ObjectStore(lambda: NOW)
    made(store, ownerReferences=[{"kind": "x", "name": "gone", "uid": "gone"}])
    store.collect()
    assert store.select("jobs") == []


def test_an_object_without_a_name_is_denied() -> None:
    with pytest.raises(Denied, match=r"metadata\.name"):
        ObjectStore(lambda: NOW).create("jobs", {"metadata": {"namespace": "n"}})


def test_what_is_handed_out_is_a_copy() -> None:
    store = ObjectStore(lambda: NOW)
    made(store)["spec"]["x"] = 99
    found = store.get("jobs", "n", "a")
    assert found is not None
    found["spec"]["x"] = 99
    assert store.select("jobs")[0]["spec"] == {"x": 1}


def test_a_restored_store_goes_on_with_higher_versions_and_uids() -> None:
    store = ObjectStore(lambda: NOW)
    first = made(store)
    again = ObjectStore(lambda: NOW)
    again.restore([("jobs", json.loads(json.dumps(first)))])
    second = made(again, name="b")
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    assert second["metadata"]["uid"] != first["metadata"]["uid"]


def test_merge_patch_follows_rfc_7386() -> None:
    # the example of the RFC's section 3, shortened
    old = {"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"}, "tags": ["a", "b"]}
    patch = {"title": "Hello!", "author": {"familyName": None}, "tags": ["a"], "phone": "1"}
    want = {"title": "Hello!", "author": {"givenName": "John"}, "tags": ["a"], "phone": "1"}
    assert merge(old, patch) == want
