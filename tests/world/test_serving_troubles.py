"""Servers that cannot begin, or die again and again: people read why, and a candidate is taken out by it."""

from __future__ import annotations

from typing import Any

import pytest

from ratchet_operator.plan.rollout.trouble import trouble_of
from ratchet_operator.plan.rollout.world import MOST_RESTARTS, Trouble, Turn
from tests.world.rollouts import SPEC, Simulation
from tests.world.serving import ROLLOUT, Served

GONE = (
    "artifact: s3://bucket/root/2/head.safetensors is missing in the store; restore it from a backup or an older "
    "version of the bucket, or publish another version of the policy"
)


def events(world: Served) -> list[str]:
    return [event.message for event in world.cluster.emitted if event.reason == "RolledBack"]


async def test_a_candidate_whose_files_are_gone_is_taken_out_with_the_file_and_the_remedy() -> None:
    world = Served()
    world.broken.add(2)
    world.policy()
    await world.run_until(lambda: "support-v2" in world.children("deployments"))
    world.crash(2, code=13, restarts=0, message=GONE)
    await world.settle(2)
    said = world.says("RolledOut")["message"]
    assert (
        f"Version 2 does not answer every router yet: pod 'support-v2-0' ended with exit code 13 (Error): {GONE}."
        in said
    )
    began = world.now
    world.crash(2, code=13, restarts=2, message=GONE)
    await world.run_until(lambda: world.rollout().get("settledUpTo", 0) == 2)
    assert (world.now - began).total_seconds() < ROLLOUT["canary"]["readySeconds"], "its time is not waited for"
    verdict = world.rollout()["verdict"]
    assert (verdict["outcome"], world.status("RLPolicy", "support")["champion"]) == ("Error", 1)
    assert verdict["message"].startswith("Version 2 is taken out, since it cannot be loaded: pod 'support-v2-0' ended")
    assert [GONE in message for message in events(world)] == [True]
    await world.run_until(lambda: world.says("RolledOut").get("status") == "True")
    assert world.children("deployments") == ["support-router", "support-v1"]


async def test_a_store_that_is_away_takes_no_candidate_out_before_its_time() -> None:
    world = Served()
    world.broken.add(2)
    world.policy()
    await world.run_until(lambda: "support-v2" in world.children("deployments"))
    world.crash(2, code=20, restarts=9, message="store s3://bucket: no answer")
    await world.settle(10)
    assert world.rollout()["candidate"] == 2
    world.broken.clear()
    await world.run_until(lambda: world.rollout().get("percent", 0) > 0)
    assert world.rollout()["restarts"] == 9
    await world.settle(3)
    assert world.rollout()["candidate"] == 2, "what was before anybody asked it does not count"


async def test_a_champion_whose_files_are_gone_is_told_with_the_file_and_the_remedy() -> None:
    world = Served()
    world.policy(1)
    await world.run_until(lambda: world.says("RolledOut").get("status") == "True")
    world.broken.add(1)
    world.crash(1, code=13, restarts=1, message=GONE)
    await world.run_until(lambda: world.says("RolledOut")["status"] == "False")
    said = world.says("RolledOut")["message"]
    assert said.startswith("Version 1 is champion, and none of its servers answers: pod 'support-v1-0' ended with")
    assert GONE in said
    world.broken.clear()
    await world.run_until(lambda: world.says("RolledOut").get("status") == "True")


@pytest.mark.parametrize(("restarts", "stays"), [(MOST_RESTARTS, True), (MOST_RESTARTS + 1, False)])
async def test_a_candidate_that_dies_again_and_again_under_load_is_taken_out(restarts: int, stays: bool) -> None:
    world = Served()
    world.people.likes[2] = 0.5
    world.policy()
    await world.run_until(lambda: world.rollout().get("percent", 0) > 0)
    world.crash(2, code=137, reason="OOMKilled", restarts=restarts)
    await world.settle(4)
    assert (world.rollout().get("candidate") == 2) is stays
    if not stays:
        verdict = world.rollout()["verdict"]
        assert (verdict["outcome"], verdict["reason"]) == ("Failed", "Restarted")
        want = f"a pod of it restarted {restarts} times: pod 'support-v2-0' ended with exit code 137 (OOMKilled)"
        assert want in verdict["message"]
        assert world.rollout()["history"][-1]["why"] == verdict["message"]


async def test_a_candidate_that_stops_answering_is_told_of_by_its_pod() -> None:
    world = Served()
    world.policy()
    await world.run_until(lambda: world.rollout().get("percent", 0) > 0)
    world.broken.add(2)
    world.crash(2, code=1, restarts=1, message="no space left on device")
    await world.run_until(lambda: world.rollout().get("settledUpTo", 0) == 2)
    why = world.rollout()["history"][-1]["why"]
    assert "does not answer: pod 'support-v2-0' ended with exit code 1 (Error): no space left on device" in why


def trial_of_two(**more: Any) -> Simulation:
    arms = [{"version": 2, "percent": 20}, {"version": 3, "percent": 15}]
    spec = SPEC | {"abTest": {"arms": arms, "seconds": 6000}}
    return Simulation({1: 0.5, 2: 0.5, 3: 0.5}, spec=spec, people=20, **more)


def test_a_version_of_a_test_that_dies_again_and_again_is_taken_out_alone() -> None:
    sim = trial_of_two(troubles={2: Trouble(restarts=5)})
    sim.run(5, until=lambda: sim.status.testing is not None and sim.status.testing.exposed is not None)
    sim.troubles = {2: Trouble("pod 'b' ended with exit code 139", 139, 9)}
    sim.run(1)
    assert sim.status.testing is not None
    assert [(arm.version, bool(arm.out)) for arm in sim.status.testing.arms] == [(2, True), (3, False)]
    assert "a pod of it restarted 4 times: pod 'b' ended with exit code 139" in sim.status.testing.arms[0].out


def test_a_version_of_a_test_that_cannot_be_loaded_is_taken_out_before_the_test_begins() -> None:
    sim = trial_of_two(broken={2}, troubles={2: Trouble("pod 'b' ended with exit code 13", 13, 2)})
    sim.run(5, until=lambda: sim.status.testing is not None and sim.status.testing.exposed is not None)
    assert sim.status.testing is not None
    assert "it cannot be loaded: pod 'b' ended" in sim.status.testing.arms[0].out
    assert Turn.EXPOSED in sim.turns


def pod(name: str, *rows: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"containerStatuses": list(rows), **status}}


def end(code: int, at: str = "2026-01-01T00:00:00Z", **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "finishedAt": at, **more}}


READY = {"conditions": [{"type": "Ready", "status": "True"}]}


@pytest.mark.parametrize(
    ("pods", "want"),
    [
        ([], Trouble()),
        ([pod("a", {"state": {"running": {}}, "restartCount": 0}, **READY)], Trouble()),
        ([pod("a", {"state": {"running": {}}, "lastState": end(0)}, **READY)], Trouble()),
        ([pod("a", {"state": {"waiting": {"reason": "ContainerCreating"}}})], Trouble("pod 'a' is not ready")),
        (
            [pod("a", {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such\nimage."}}})],
            Trouble("pod 'a' waits: ImagePullBackOff: no such image"),
        ),
        (
            [pod("a", conditions=[{"type": "PodScheduled", "status": "False", "message": "no GPU"}])],
            Trouble("pod 'a' has no node: no GPU"),
        ),
        (
            [
                pod("a", {"state": end(13, "2026-01-01T00:00:09Z", reason="Error", message="gone"), "restartCount": 1}),
                pod("b", {"lastState": end(1), "restartCount": 4}),
            ],
            Trouble("pod 'a' ended with exit code 13 (Error): gone", 13, 4),
        ),
        (
            [pod("a", initContainerStatuses=[{"state": end(13, message="no generator"), "restartCount": 2}])],
            Trouble("pod 'a' ended with exit code 13: no generator", 13, 2),
        ),
        (
            [pod("a", {"state": end("13"), "restartCount": -4, "lastState": []}), {"metadata": None, "status": "x"}],  # type: ignore[arg-type]
            Trouble("pod 'a' is not ready"),
        ),
    ],
)
def test_of_pods_the_last_end_is_told_else_what_they_wait_for(pods: list[dict[str, Any]], want: Trouble) -> None:
    assert trouble_of(pods) == want
