"""What stands in a run's way and how it says so: missing objects, quotas, images, conflicts, bad specs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ratchet_api.conditions import REASONS, Reason
from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory import Call
from ratchet_operator.cluster.memory_jobs import Act, golden
from ratchet_operator.cluster.protocol import Denied, Forbidden
from ratchet_operator.settings import Settings
from tests.world import builders as b
from tests.world.harness import SETTINGS, NoFault, World

QUOTA = 'pods "router-supervised-1-x" is forbidden: exceeded quota: gpus, requested: 8, used: 8, limited: 8'
PSS = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true'


def stuck(**act: Any) -> Callable[[StageInput, int], Act]:
    def play(content: StageInput, pod: int) -> Act:
        return Act(**act) if content.config.stage == "supervised" else golden(content, pod)

    return play


WAITING: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "no node has room": (
        {"unschedulable": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."},
        Reason.UNSCHEDULABLE,
        "3 Insufficient nvidia.com/gpu",
    ),
    "the image does not exist": (
        {"waiting": ("ImagePullBackOff", 'Back-off pulling image "registry/jobs:1"')},
        Reason.IMAGE_PULL_FAILED,
        "registry/jobs:1",
    ),
    "the Secret does not exist": (
        {"waiting": ("CreateContainerConfigError", 'secret "s3-credentials" not found')},
        Reason.POD_CONFIG_ERROR,
        "s3-credentials",
    ),
    "a quota refuses the pod": ({"refused": QUOTA}, Reason.QUOTA_EXCEEDED, "exceeded quota: gpus"),
    "admission refuses the pod": ({"refused": PSS}, Reason.ADMISSION_DENIED, "violates PodSecurity"),
}


@pytest.mark.parametrize(("act", "reason", "part"), WAITING.values(), ids=WAITING.keys())
async def test_a_pod_that_cannot_start_is_diagnosed_without_a_hot_loop_and_heals(
    act: dict[str, Any], reason: Reason, part: str
) -> None:
    """P14 and P39: reason, cause and remedy in the condition; at most six calls a minute; heals by itself."""
    world = World(stuck(**act))
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: world.condition("Running").get("reason") == reason)
    running = world.condition("Running")
    assert running["status"] == "False"
    assert part in running["message"]
    assert "router-supervised-1" in running["message"]
    assert running["message"].endswith(REASONS[reason].remedy)
    assert world.condition("Reconciling")["reason"] == reason
    await world.settle(12)
    before, start = len(world.cluster.log), world.now
    await world.settle(120)
    minutes = (world.now - start) / timedelta(minutes=1)
    ours = [c for c in world.cluster.log[before:] if c.verb != "progress"]
    assert len(ours) / minutes <= 6 * len(world.ours())
    runs = [c for c in ours if c.name.startswith("router") or c.verb == "list"]
    assert len(runs) / minutes <= 6
    assert world.stage("supervised")["attempt"]["number"] == 1
    world.script.play = golden
    world.cluster.event_objects.clear()
    assert (await world.finish())["state"] == "Complete"


class Refuses(NoFault):
    """The API server refuses to create Jobs for a while."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error

    def before(self, call: Call) -> None:
        if self.error is not None and call.verb == "create" and call.resource == "jobs" and "router" in call.name:
            raise self.error


REFUSED = {
    "by quota": (
        Denied('jobs.batch "router-resolve-1" is forbidden: exceeded quota: jobs', status=403),
        "QuotaExceeded",
    ),
    "by admission": (Denied('admission webhook "policy" denied the request: no', status=403), "AdmissionDenied"),
    "by RBAC": (Forbidden("jobs.batch is forbidden: cannot create resource jobs", status=403), "Forbidden"),
}


@pytest.mark.parametrize(("error", "reason"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_job_that_the_server_refuses_becomes_a_condition_without_a_hot_loop_and_heals(
    error: Exception, reason: str
) -> None:
    """P14, T8, T9."""
    fault = Refuses(error)
    world = World(fault=fault)
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: world.condition("Running").get("reason") == reason)
    assert str(error) in world.condition("Running")["message"]
    assert "'resolve'" in world.condition("Running")["message"]
    before, start = len(world.cluster.log), world.now
    await world.settle(120)
    minutes = (world.now - start) / timedelta(minutes=1)
    assert len([c for c in world.cluster.log[before:] if c.name.startswith("router")]) / minutes <= 6
    fault.error = None
    assert (await world.finish())["state"] == "Complete"
    assert world.condition("Stalled").get("status", "False") == "False"


async def test_a_missing_dataset_is_named_and_the_run_starts_when_it_appears() -> None:
    world = World()
    world.submit(b.run())
    await world.settle(3)
    ready = world.condition("DataReady")
    assert (ready["status"], ready["reason"]) == ("False", "DatasetNotFound")
    assert "spec.datasetRef.name 'complaints'" in ready["message"]
    assert b.NAMESPACE in ready["message"]
    world.submit(b.dataset())
    assert (await world.finish())["state"] == "Complete"


async def test_a_dataset_in_another_namespace_is_not_found() -> None:
    """P21: references never cross namespaces."""
    world = World()
    foreign = b.dataset()
    foreign["metadata"]["namespace"] = "team-b"
    world.submit(foreign, b.run())
    await world.settle(30)
    assert world.condition("DataReady")["reason"] == "DatasetNotFound"
    assert world.jobs() == ["complaints-snapshot-1"]


async def test_a_missing_policy_delays_publishing_until_it_appears() -> None:
    world = World()
    world.submit(b.dataset(), b.run(publishTo={"name": "support"}))
    await world.run_until(lambda: world.status().get("state") == "Publishing")
    assert world.condition("Published")["reason"] == "PolicyNotFound"
    assert "spec.publishTo.name 'support'" in world.condition("Published")["message"]
    world.submit(b.policy())
    status = await world.finish()
    assert (status["state"], status["version"]) == ("Complete", 1)


async def test_publishing_to_a_policy_of_another_type_is_refused() -> None:
    world = World()
    world.submit(b.dataset(), b.policy(type="generator"), b.run(publishTo={"name": "support"}))
    await world.run_until(lambda: world.condition("Published").get("reason") == "PolicyTypeMismatch")
    message = world.condition("Published")["message"]
    assert "'classifier'" in message
    assert "'generator'" in message


async def test_a_namespace_without_a_store_says_so_and_starts_when_it_gets_one() -> None:
    world = World(settings=Settings(stage_image="i"))
    world.submit(b.dataset(), b.run())
    await world.settle(3)
    for kind, name in (("FeedbackDataset", "complaints"), ("RLTrainingRun", "router")):
        stalled = world.condition("Stalled", kind, name)
        assert (stalled["status"], stalled["reason"]) == ("True", "StoreNotConfigured")
        assert "ratchet-store" in stalled["message"]
    store = {"kind": "ConfigMap", "metadata": {"name": "ratchet-store", "namespace": b.NAMESPACE}}
    world.cluster.objects.create("configmaps", {**store, "data": {"uri": "s3://tenant"}})
    assert (await world.finish())["state"] == "Complete"


async def test_a_run_whose_namespace_moved_to_another_store_waits_for_the_one_that_it_began_in() -> None:
    """A store's endpoint and Secret are its own: those of another would look for the run's files in a foreign place."""
    world = World(settings=Settings(stage_image="i"))
    meta = {"name": "ratchet-store", "namespace": b.NAMESPACE}
    body = {"kind": "ConfigMap", "metadata": meta, "data": {"uri": "s3://first", "endpoint": "http://a"}}
    world.cluster.objects.create("configmaps", body)
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: world.status().get("stage") == "resolve")
    move = {"data": {"uri": "s3://second", "endpoint": "http://b"}}
    world.cluster.objects.update("configmaps", b.NAMESPACE, "ratchet-store", move)
    await world.run_until(lambda: world.condition("Stalled").get("reason") == "StoreNotConfigured")
    assert "the store is s3://second now, but the run began in s3://first" in world.condition("Stalled")["message"]
    assert "router-supervised-1" not in world.jobs()
    world.cluster.objects.update("configmaps", b.NAMESPACE, "ratchet-store", {"data": {"uri": "s3://first"}})
    assert (await world.finish())["state"] == "Complete"


NOT_ALLOWED = {
    "an image": ({"image": "evil/image:1"}, "ImageNotAllowed", "spec.image 'evil/image:1'"),
    "a priority class": (
        {"placement": {"priorityClassName": "system-node-critical"}},
        "PriorityClassNotAllowed",
        "spec.placement.priorityClassName 'system-node-critical'",
    ),
}


@pytest.mark.parametrize(("fields", "reason", "part"), NOT_ALLOWED.values(), ids=NOT_ALLOWED.keys())
async def test_what_is_on_no_allow_list_starts_nothing(fields: dict[str, Any], reason: str, part: str) -> None:
    """P20."""
    world = World()
    world.submit(b.dataset(**fields), b.dataset("other"), b.run(datasetRef={"name": "other"}, **fields))
    await world.settle(30)
    for kind, name in (("FeedbackDataset", "complaints"), ("RLTrainingRun", "router")):
        stalled = world.condition("Stalled", kind, name)
        assert (stalled["status"], stalled["reason"]) == ("True", reason)
        assert part in stalled["message"]
    assert world.jobs() == ["other-snapshot-1"]


async def test_an_allowed_image_is_used_and_is_its_own_code_version() -> None:
    world = World()
    world.submit(b.dataset(), b.run(image="registry/custom:7"))
    await world.finish()
    container = world.job("router-supervised-1")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry/custom:7"
    assert world.status()["resolved"]["codeVersion"] == "registry/custom:7"


async def test_an_image_taken_off_the_allow_list_stops_a_started_run() -> None:
    world = World()
    world.submit(b.dataset(), b.run(image="registry/custom:7"))
    await world.run_until(lambda: world.condition("Running").get("status") == "True")
    stricter = World(settings=replace(SETTINGS, allowed_images=()))
    stricter.now = world.now
    stricter.cluster.objects.restore((key[0], obj) for key, obj in world.cluster.objects.snapshot().items())
    for operator in stricter.operators:
        operator.restart()
    await stricter.settle(20)
    assert stricter.condition("Stalled")["reason"] == "ImageNotAllowed"
    assert not [name for name in stricter.jobs() if "supervised" in name]


async def test_a_foreign_job_of_the_childs_name_is_a_conflict_that_heals_when_it_goes() -> None:
    world = World()
    foreign = {"kind": "Job", "metadata": {"name": "router-resolve-1", "namespace": b.NAMESPACE, "labels": {}}}
    world.cluster.objects.create("jobs", {**foreign, "spec": {"suspend": True}})
    world.script.queue_admits = False
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: world.condition("Stalled").get("reason") == "ChildConflict")
    assert "'router-resolve-1'" in world.condition("Stalled")["message"]
    assert "nobody" in world.condition("Stalled")["message"]
    await world.settle(10)
    assert world.job("router-resolve-1")["spec"] == {"suspend": True}
    world.cluster.objects.delete("jobs", b.NAMESPACE, "router-resolve-1")
    world.script.queue_admits = True
    assert (await world.finish())["state"] == "Complete"


POISON: dict[str, dict[str, Any]] = {
    "a spec of the wrong shape": {"spec": ["not", "a", "mapping"]},
    "no spec at all": {"spec": None},
    "an unknown enum": {"spec": b.run_spec(mode="telepathy")},
    "an unknown field": {"spec": b.run_spec(serviceAccountName="admin")},
    "a number as text": {"spec": b.run_spec(seed="7")},
    "not a number": {"spec": b.run_spec(activeDeadlineSeconds=float("nan"))},
    "a negative number": {"spec": b.run_spec(backoffLimit=-1)},
    "huge": {"spec": b.run_spec(seed=10**30)},
    "surrogates and nulls": {"spec": b.run_spec(image="\ud800\x00")},
}


@pytest.mark.parametrize("patch", POISON.values(), ids=POISON.keys())
async def test_a_poison_object_becomes_a_condition_and_stops_no_other(patch: dict[str, Any]) -> None:
    """P15, T12, T19: stored before an upgrade, or with validation off."""
    world = World()
    bad = {**b.run("poison"), **patch}
    if patch["spec"] is None:
        del bad["spec"]
    world.submit(b.dataset(), bad, b.run())
    status = await world.finish()
    assert status["state"] == "Complete"
    stalled = world.condition("Stalled", name="poison")
    assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
    assert "RLTrainingRun 'poison'" in stalled["message"]
    assert "spec" in stalled["message"]
    assert not [name for name in world.jobs() if name.startswith("poison")]


async def test_an_unreadable_status_counts_as_empty() -> None:
    """T19: a status of an old version."""
    world = World()
    world.submit(b.dataset(), b.run())
    obj = world.object("RLTrainingRun", "router")
    world.cluster.watchers.clear()
    world.cluster.objects.set_status("rltrainingruns", obj, {"stages": "three", "conditions": [{"type": "Running"}]})
    world.operators[0].restart()
    world.cluster.watchers.append(world._watch)
    assert (await world.finish())["state"] == "Complete"


@pytest.mark.parametrize("ending", ["Complete", "Failed"])
async def test_an_unreadable_status_that_says_the_run_ended_is_never_left(ending: str) -> None:
    """P8, T19."""
    world = World()
    world.submit(b.dataset(), b.run())
    obj = world.object("RLTrainingRun", "router")
    old = {"stages": "three", "conditions": [{"type": ending, "status": "True"}]}
    world.cluster.objects.set_status("rltrainingruns", obj, old)
    await world.settle(30)
    assert world.status() == old
    assert world.jobs() == ["complaints-snapshot-1"]
