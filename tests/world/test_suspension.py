"""spec.suspend, deletion and the clock: stopping and going on without losing or counting anything."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory_jobs import Act, golden
from tests.world import builders as b
from tests.world.harness import Crash, CrashAt, World


def slow(stage: StageInput, pod: int) -> Act:
    act = golden(stage, pod)
    return Act(message=act.message, steps=6) if stage.config.stage == "supervised" else act


async def training(world: World) -> None:
    world.submit(b.dataset(), b.run(backoffLimit=0))
    await until_training(world)


async def until_training(world: World) -> None:
    await world.run_until(lambda: world.status().get("stage") == "supervised" and world.status()["state"] == "Running")


async def test_suspending_stops_the_job_and_resuming_goes_on_uncounted() -> None:
    world = World(slow)
    await training(world)
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": True}})
    await world.run_until(lambda: "router-supervised-1" not in world.jobs())
    await world.settle(40)
    status = world.status()
    assert status["state"] == "Suspended"
    assert world.condition("Suspended")["status"] == "True"
    assert world.condition("Running")["status"] == "False"
    assert status["progressPercent"] == ""
    assert not [name for name in world.jobs() if "supervised" in name]
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": False}})
    status = await world.finish()
    assert status["state"] == "Complete"
    assert world.stage("supervised")["attempt"]["number"] == 2
    assert world.stage("supervised")["attempt"]["countedFailures"] == 0
    assert world.condition("Suspended")["status"] == "False"


async def test_a_resumed_run_waits_until_the_stopped_pod_has_left() -> None:
    """P5: the pod that writes its checkpoint and the one that reads it never run together."""
    world = World(slow)
    world.script.grace_steps = 10
    await training(world)
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": True}})
    await world.settle(2)
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": False}})
    await world.settle(4)
    assert [name for name in world.jobs() if "supervised" in name] == ["router-supervised-1"]
    assert world.stage("supervised")["attempt"]["number"] == 2
    assert (await world.finish())["state"] == "Complete"
    assert world.stage("supervised")["attempt"]["countedFailures"] == 0


async def test_suspended_time_does_not_count_against_the_deadline() -> None:
    world = World(slow)
    world.submit(b.dataset(), b.run(activeDeadlineSeconds=200))
    await until_training(world)
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": True}})
    await world.settle(100)  # 500 s
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": False}})
    assert (await world.finish())["state"] == "Complete"


async def test_a_run_created_suspended_fixes_nothing_until_it_is_resumed() -> None:
    world = World()
    world.submit(b.dataset(), b.run(suspend=True))
    await world.settle(20)
    assert world.status()["state"] == "Suspended"
    assert "resolved" not in world.status()
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": False}})
    assert (await world.finish())["state"] == "Complete"


async def test_a_result_that_arrives_while_suspending_is_recorded_not_repeated() -> None:
    """P6."""
    world = World()
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: _complete(world, "router-supervised-1"))
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": True}})
    await world.settle(20)
    assert world.stage("supervised")["state"] == "Succeeded"
    assert world.status()["state"] == "Suspended"
    assert "router-evaluate-1" not in world.jobs()
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": False}})
    assert (await world.finish())["state"] == "Complete"
    assert len([row for row in world.script.started if row[1] == "supervised"]) == 1


def _complete(world: World, name: str) -> bool:
    found = world.cluster.objects.get("jobs", b.NAMESPACE, name)
    return found is not None and bool((found.get("status") or {}).get("succeeded"))


@pytest.mark.parametrize("flips", range(1, 12))
async def test_toggling_suspend_at_any_moment_never_makes_two_jobs_and_counts_nothing(flips: int) -> None:
    """P5: `World.check` looks after every step."""
    world = World(slow)
    world.script.grace_steps = 3
    world.submit(b.dataset(), b.run(backoffLimit=0))
    for _ in range(flips):
        for value in (True, False):
            await world.settle(flips)
            world.edit("RLTrainingRun", "router", {"spec": {"suspend": value}})
            await world.settle(1)
    status = await world.finish()
    assert status["state"] == "Complete"


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_any_call_while_suspending_and_resuming_counts_nothing(after: bool) -> None:
    """P4 for the suspend path."""

    async def story(fault: CrashAt | None) -> World:
        world = World(slow)
        await training(world)
        world.cluster.log.clear()
        if fault is not None:
            world.cluster.fault = fault
        world.edit("RLTrainingRun", "router", {"spec": {"suspend": True}})
        await world.settle(8)
        world.edit("RLTrainingRun", "router", {"spec": {"suspend": False}})
        await world.finish()
        assert world.status()["state"] == "Complete"
        assert world.stage("supervised")["attempt"]["countedFailures"] == 0
        return world

    calls = [c for c in (await story(None)).cluster.log if c.verb != "progress" and (c.writes or not after)]
    crashed = 0
    for call in calls:
        crashed += (await story(CrashAt(call.number, after=after))).crashes
    assert crashed == len(calls) >= 10


async def test_a_job_deleted_by_a_human_is_a_counted_loss() -> None:
    """T16: never silent."""
    world = World(slow)
    world.submit(b.dataset(), b.run(backoffLimit=1))
    await until_training(world)
    world.cluster.objects.delete("jobs", b.NAMESPACE, "router-supervised-1")
    world.cluster.objects.collect()
    status = await world.finish()
    assert status["state"] == "Complete"
    attempt = world.stage("supervised")["attempt"]
    assert (attempt["number"], attempt["countedFailures"]) == (2, 1)
    assert attempt["lastExit"]["reason"] == "PodLost"
    assert any(e.reason == "PodLost" and e.type == "Warning" for e in world.cluster.emitted)


PHASES = ["WaitingForData", "Starting", "Running", "Queued", "Retrying", "Suspended", "Publishing", "Complete"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("operator_down", [False, True], ids=["operator up", "operator down"])
async def test_deleting_a_run_in_any_phase_leaves_no_job_and_no_pod(phase: str, operator_down: bool) -> None:
    """P10, P11, T14: by owner references alone, hence also while the operator is down."""

    def play(stage: StageInput, pod: int) -> Act:
        if phase == "Retrying" and stage.config.stage == "supervised":
            return Act(exit_code=20)
        return slow(stage, pod)

    world = World(play)
    world.script.queue_admits = phase != "Queued"
    fields = {"placement": {"queueName": "q"}} if phase == "Queued" else {}
    world.submit(b.run(suspend=phase == "Suspended", publishTo={"name": "nobody"}, **fields))
    if phase == "Complete":
        world.submit(b.policy("nobody"))
    if phase != "WaitingForData":
        world.submit(b.dataset())
    await world.run_until(lambda: world.status().get("state") == phase)
    uid = world.object("RLTrainingRun", "router")["metadata"]["uid"]
    world.delete("RLTrainingRun", "router")
    if operator_down:
        world.operators.clear()
    await world.settle(12)  # 60 s
    left = [
        "/".join(key)
        for key, obj in world.cluster.objects.snapshot().items()
        if uid in str(obj["metadata"].get("ownerReferences")) or (key[0] == "pods" and uid in str(obj["metadata"]))
    ]
    assert left == []
    assert all("finalizers" not in obj["metadata"] for obj in world.cluster.objects.snapshot().values())


@pytest.mark.parametrize("error", [-10, 10], ids=["ten minutes slow", "ten minutes fast"])
async def test_a_clock_ten_minutes_off_changes_no_decision(error: int) -> None:
    """P36, T15: active time is the servers' own; pauses compare the operator's clock with itself."""

    def play(stage: StageInput, pod: int) -> Act:
        if stage.config.stage == "supervised" and stage.attempt <= 2:
            return Act(exit_code=20, steps=4)
        return slow(stage, pod)

    ends = []
    for clock_error in (timedelta(0), timedelta(minutes=error)):
        world = World(play, clock_error=clock_error)
        stages = {"supervised": {"resources": {"gpus": 1}}}
        world.submit(
            b.dataset(), b.policy(), b.run(publishTo={"name": "support"}, activeDeadlineSeconds=300, stages=stages)
        )
        status = await world.finish()
        ends.append((status["state"], [s["attempt"]["number"] for s in status["stages"]], status["gpuHours"]))
    assert ends[0] == ends[1]
    assert ends[0][0] == "Complete"


async def test_a_clock_that_steps_back_during_a_pause_does_not_stop_the_retry() -> None:
    def play(stage: StageInput, pod: int) -> Act:
        return Act(exit_code=20) if stage.config.stage == "supervised" and stage.attempt == 1 else golden(stage, pod)

    world = World(play)
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: world.status().get("state") == "Retrying")
    world.now -= timedelta(minutes=10)
    for operator in world.operators:
        operator.restart()
    status = await world.finish(ticks=30)
    assert status["state"] == "Complete"


def test_the_harness_tells_a_crash_from_an_error_of_the_cluster() -> None:
    """A crash must end the operator, not be retried as a failed call."""
    from ratchet_operator.cluster.protocol import ClusterError

    assert not issubclass(Crash, ClusterError)
