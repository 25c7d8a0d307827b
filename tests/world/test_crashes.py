"""P4: the operator may die before or after any call; the end is the one of a history without crashes."""

from __future__ import annotations

import random

import pytest

from ratchet_api.names import LABEL_OWNER_UID
from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory import Call, Fault
from ratchet_operator.cluster.memory_jobs import Act, golden
from tests.world import builders as b
from tests.world.harness import CrashAt, HalfConflicts, NoFault, StaleReads, World, masked


def rough(stage: StageInput, pod: int) -> Act:
    """A history with something in it: the training is preempted once and fails once for want of the store."""
    if stage.config.stage == "supervised" and stage.attempt == 1:
        return Act(exit_code=75, message="") if pod == 1 else Act(exit_code=20, message="store is away")
    return golden(stage, pod)


def history(fault: Fault, *, operators: int = 1, lossy: random.Random | None = None) -> World:
    world = World(rough, fault=fault, operators=operators, lossy=lossy)
    world.submit(b.dataset(), b.policy(training={"template": b.template()}))
    return world


async def end_of(world: World) -> dict[str, object]:
    def done() -> bool:
        runs = world.cluster.objects.select("rltrainingruns")
        return len(runs) == 1 and world.over(runs[0]["metadata"]["name"])

    await world.run_until(done, ticks=600)
    for operator in world.operators:
        operator.restart()  # a resync: nothing may happen any more
    await world.settle(3)
    return masked(world)


def stamped(world: World) -> str:
    return str(world.status("RLPolicy", "support")["latestRun"])


async def test_the_reference_history_has_a_stamped_run_a_retry_and_a_published_version() -> None:
    world = history(NoFault())
    await end_of(world)
    assert world.stage("supervised", stamped(world))["attempt"]["number"] == 2
    assert [v["version"] for v in world.status("RLPolicy", "support")["versions"]] == [1]
    assert len(world.script.started) == 6  # snapshot, resolve, supervised preempted and failed, again, evaluate


CHUNKS = 6


@pytest.mark.parametrize("chunk", range(CHUNKS))
async def test_a_crash_before_any_call_ends_as_if_there_had_been_none(chunk: int) -> None:
    """P4: the masked difference of the end states is empty, and no attempt ever has a second Job.

    A crash after a read is a crash before the next call: the process has no other memory.
    """
    want, calls = await reference()
    numbers = [call.number for call in calls][chunk::CHUNKS]
    assert len(numbers) >= 30
    for number in numbers:
        await crash_and_compare(CrashAt(number, after=False), want, f"before call {number}")


@pytest.mark.parametrize("chunk", range(2))
async def test_a_crash_after_any_write_ends_as_if_there_had_been_none(chunk: int) -> None:
    """P4: the write was carried out, its answer and all that was planned after it are lost."""
    want, calls = await reference()
    numbers = [call.number for call in calls if call.writes and call.verb != "emit"][chunk::2]
    assert len(numbers) >= 15
    for number in numbers:
        await crash_and_compare(CrashAt(number, after=True), want, f"after call {number}")


async def reference() -> tuple[dict[str, object], list[Call]]:
    world = history(NoFault())
    end = await end_of(world)
    return end, list(world.cluster.log)


async def crash_and_compare(fault: CrashAt, want: dict[str, object], what: str) -> None:
    world = history(fault)
    end = await end_of(world)
    assert world.crashes == 1, f"{what}: it was never made"
    assert end == want, f"a crash {what} changed the end"
    assert len(world.script.started) == 6, f"{what}: pods {world.script.started}"


@pytest.mark.parametrize("seed", range(8))
async def test_conflicts_on_half_of_all_writes_and_lost_answers_change_nothing(seed: int) -> None:
    """P9: no status update is lost on conflict (T6)."""
    want, _ = await reference()
    fault = HalfConflicts(random.Random(seed))
    assert await end_of(history(fault)) == want
    assert fault.hits > 10


@pytest.mark.parametrize("seed", range(8))
async def test_reads_that_are_one_revision_old_never_start_a_second_job(seed: int) -> None:
    """P5 with T2: checked after every step by `World.check`; the run still ends well."""
    fault = StaleReads(random.Random(seed))
    world = history(fault)
    await end_of(world)
    assert fault.hits > 10
    assert world.status(name=stamped(world))["state"] == "Complete"


@pytest.mark.parametrize("seed", range(8))
async def test_two_operators_at_once_end_like_one(seed: int) -> None:
    """P5 and T17: two operators over the same objects, with conflicts between them."""
    want, _ = await reference()
    world = history(HalfConflicts(random.Random(seed)), operators=2)
    assert await end_of(world) == want


@pytest.mark.parametrize("seed", range(4))
async def test_half_of_all_events_lost_ends_the_same_within_the_resync(seed: int) -> None:
    """T3: a watch is only an alarm clock."""
    want, _ = await reference()
    assert await end_of(history(NoFault(), lossy=random.Random(seed))) == want


async def test_a_recreated_run_never_takes_the_job_of_the_deleted_one() -> None:
    """T2: children are told apart by uid, not by name."""
    world = World()
    world.submit(b.dataset(), b.run())
    await world.run_until(lambda: world.condition("Running").get("status") == "True")
    first = world.object("RLTrainingRun", "router")["metadata"]["uid"]
    world.delete("RLTrainingRun", "router")
    world.submit(b.run())
    for operator in world.operators:
        await operator.work()
    second = world.object("RLTrainingRun", "router")["metadata"]["uid"]
    assert first != second
    await world.finish()
    assert world.job("router-resolve-1")["metadata"]["labels"][LABEL_OWNER_UID] == second
    assert world.status()["state"] == "Complete"
    assert {uid for uid, stage, _, _ in world.script.started if stage == "supervised"} == {second}
