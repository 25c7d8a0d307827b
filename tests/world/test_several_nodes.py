"""A stage of several nodes in the operator's eyes: one indexed Job, one state, one attempt for all pods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ratchet_api.names import ANNOTATION_INDEX
from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory_jobs import Act, golden
from tests.world import builders as b
from tests.world.harness import World

NODES: dict[str, Any] = {"stages": {"supervised": {"nodes": 2, "resources": {"gpus": 4}}}}
JOB = "router-supervised-1"


def training(*acts: Act) -> Any:
    """Each start of a node of the first attempt at training does the next of the acts; later ones end well."""

    def play(content: StageInput, pod: int) -> Act:
        tried = content.config.stage == "supervised" and content.attempt == 1 and pod <= len(acts)
        return acts[pod - 1] if tried else golden(content, pod)

    return play


def world_of(play: Any = golden) -> World:
    world = World(play)
    world.submit(b.dataset(), b.run(**NODES))
    return world


def pods(world: World) -> list[tuple[str, str]]:
    """Index and phase of the training's pods, by name."""
    return [
        (pod["metadata"]["annotations"].get(ANNOTATION_INDEX, ""), pod["status"]["phase"])
        for pod in world.cluster.objects.select("pods")
        if "supervised" in pod["metadata"]["name"]
    ]


async def test_a_stage_of_two_nodes_is_one_indexed_job_and_one_state() -> None:
    world = world_of()
    status = await world.finish()
    assert status["state"] == "Complete"
    spec = world.job(JOB)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    addresses = [row for row in spec["template"]["spec"]["containers"][0]["env"] if row["name"] == "RATCHET_POD_IP"]
    assert addresses[0]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
    assert pods(world) == [("0", "Succeeded"), ("1", "Succeeded")]
    assert world.stage("supervised")["attempt"]["number"] == 1
    assert "completionMode" not in world.job("router-evaluate-1")["spec"]


async def test_every_node_counts_in_gpu_hours_and_in_the_estimate() -> None:
    world = world_of(training(replace(golden_act(), steps=20)))
    status = await world.finish()
    seconds = world.stage("supervised")["attempt"]["activeSeconds"]
    assert seconds >= 90
    assert status["gpuHours"] == pytest.approx(8 * seconds / 3600, abs=1e-4)
    dry = World()
    dry.submit(b.dataset(), b.run(dryRun=True, **NODES))
    assert (await dry.finish())["estimate"]["gpus"] == 8


def golden_act() -> Act:
    """What a training that ends well says."""
    said = '{"state":"Committed","artifact":{"uri":"s3://bucket/root/x","digest":"%s"}}' % ("d" * 64)
    return Act(message=said)


async def test_progress_is_that_of_node_zero() -> None:
    world = world_of(training(replace(golden_act(), steps=20)))
    for node, step in ((0, 50), (1, 7)):
        world.cluster.told[f"{JOB}-{node}-00000"] = {"stage": "supervised", "step": step, "steps": 100}
    await world.run_until(lambda: world.status().get("progressPercent") == "50%")
    assert f"pod '{JOB}-0-00000'" in world.condition("Running")["message"]


async def test_a_team_runs_once_all_of_it_does_and_says_who_is_missing() -> None:
    long = replace(golden_act(), steps=500)
    world = world_of(training(replace(long, nodes={1: Act(unschedulable="0/3 nodes are available")})))
    await world.run_until(lambda: world.condition("Running").get("reason") == "Unschedulable")
    assert f"'{JOB}-1-00000'" in world.condition("Running")["message"]
    assert world.condition("Running")["status"] == "False"
    refused = world_of(training(replace(long, nodes={1: Act(refused='pods "x" is forbidden: exceeded quota: gpus')})))
    await refused.run_until(lambda: refused.condition("Running").get("reason") == "QuotaExceeded")
    assert pods(refused) == [("0", "Running")]


@pytest.mark.parametrize(
    "first",
    [
        pytest.param({1: Act(exit_code=137, disrupted=True)}, id="its node was drained"),
        pytest.param({1: Act(exit_code=143)}, id="it was asked to leave"),
    ],
)
async def test_a_preempted_node_takes_all_back_to_the_checkpoint_in_the_same_job(first: dict[int, Act]) -> None:
    """P12: the others notice and end with the code of a preemption; the Job replaces every pod under its index."""
    world = world_of(training(Act(exit_code=75, nodes=first)))
    status = await world.finish()
    assert status["state"] == "Complete"
    assert pods(world) == [("0", "Failed"), ("0", "Succeeded"), ("1", "Failed"), ("1", "Succeeded")]
    attempt = world.stage("supervised")["attempt"]
    assert (attempt["number"], attempt.get("countedFailures", 0)) == (1, 0)


@pytest.mark.parametrize(
    ("code", "want_reason", "want_state"),
    [(20, "StoreUnavailable", "Complete"), (12, "BadLabels", "Failed")],
    ids=["retried as a whole", "failed as a whole"],
)
async def test_a_node_that_fails_fails_the_attempt_of_all_and_is_the_one_blamed(
    code: int, want_reason: str, want_state: str
) -> None:
    """P13: the neighbour that left because of it (75) is not what the retry is decided by."""
    failed = Act(exit_code=code, message='{"state":"Failed","reason":"x","message":"node 1 said so"}')
    world = world_of(training(Act(exit_code=75, nodes={1: failed})))
    status = await world.finish()
    assert status["state"] == want_state
    attempt = world.stage("supervised")["attempt"]
    assert (attempt["lastExit"]["code"], attempt["lastExit"]["reason"]) == (code, want_reason)
    assert "node 1 said so" in attempt["lastExit"]["message"]
    assert attempt["number"] == (2 if want_state == "Complete" else 1)


async def test_a_failed_node_ends_those_that_still_run() -> None:
    world = world_of(training(Act(exit_code=None, nodes={0: Act(exit_code=12)})))
    status = await world.finish()
    assert status["state"] == "Failed"
    assert pods(world) == [("0", "Failed")]


async def test_the_number_of_nodes_does_not_change_what_is_learned() -> None:
    """Equal inputs are found in the cache, however many pods made them."""
    digests = []
    for fields in ({}, NODES):
        world = World()
        world.submit(b.dataset(), b.run(**fields))
        await world.finish()
        digests.append(world.stage("supervised")["inputDigest"])
    assert digests[0] == digests[1]
