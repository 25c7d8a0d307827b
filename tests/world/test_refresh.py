"""A dataset's snapshot is taken anew by schedule and by new events: once for whatever was missed, never in a circle."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from ratchet_api.base import digest_of, format_time
from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory_jobs import Act, committed, golden, snapshot_result
from tests.world import builders as b
from tests.world.harness import START, CrashAt, Operator, World

POLICY = "support"
NIGHTLY = "0 5 * * *"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
KIND, NAME = "FeedbackDataset", "rated"


class LogWorld(World):
    """A world with a log: each snapshot holds what had arrived when its pod ran."""

    def __init__(self, *, broken: bool = False, **more: Any) -> None:
        super().__init__(self._play, **more)
        self.broken = broken
        self.cluster.feedback = {POLICY: []}

    def _play(self, stage: StageInput, pod: int) -> Act:
        if stage.config.stage != "snapshot":
            return golden(stage, pod)
        if self.broken:
            return Act(exit_code=10)
        read = self.arrived
        newest = format_time(max(read) + timedelta(seconds=1)) if read else None
        digest = digest_of([stage.config.to_wire(), len(read)])
        return committed(stage, snapshot={**snapshot_result(digest), "logNewest": newest})

    @property
    def arrived(self) -> list[datetime]:
        assert self.cluster.feedback is not None
        return self.cluster.feedback[POLICY]

    def send(self, events: int) -> None:
        self.arrived.extend([self.now] * events)

    def see(self) -> dict[str, Any]:
        """The dataset's status.refresh."""
        found: dict[str, Any] = self.status(KIND, NAME).get("refresh") or {}
        return found

    @property
    def digest(self) -> str:
        return str(self.status(KIND, NAME)["snapshot"]["digest"])

    @property
    def number(self) -> int:
        """How many snapshots were begun."""
        return int(self.status(KIND, NAME)["attempt"]["number"])

    async def jump(self, by: timedelta, ticks: int = 40) -> None:
        """Let time pass of which the operator sees nothing, then start it anew."""
        self.now += by
        self.operators = [Operator(self)]
        self.operators[0].restart()
        await self.settle(ticks)


def rated(**refresh: Any) -> dict[str, Any]:
    return b.dataset(NAME, source={"feedback": {"policyRef": {"name": POLICY}}}, refresh=refresh)


async def started(*, broken: bool = False, **refresh: Any) -> LogWorld:
    world = LogWorld(broken=broken)
    world.send(20)
    world.submit(rated(**refresh))
    await world.settle(20)
    assert world.number == 1
    return world


async def test_so_many_new_events_make_a_new_snapshot_and_one_fewer_none() -> None:
    world = await started(everyEvents=50)
    first = world.digest
    world.send(49)
    await world.settle(40)
    assert (world.number, world.see()["newEvents"], world.see()["reason"]) == (1, 49, "WaitingForEvents")
    world.send(1)
    await world.settle(40)
    assert world.digest != first
    assert (world.number, world.see()["number"], world.see()["newEvents"]) == (2, 1, 0)
    assert world.condition("Ready", KIND, NAME)["status"] == "True"
    assert [e.reason for e in world.cluster.emitted].count("RefreshDue") == 1
    await world.settle(200)
    assert world.number == 2


async def test_a_time_of_the_schedule_makes_a_new_snapshot_at_that_time_and_status_tells_the_next() -> None:
    world = await started(schedule=NIGHTLY)  # the world starts at midnight
    assert world.see()["nextRefresh"] == "2026-01-01T05:00:00Z"
    assert world.see()["reason"] == "WaitingForSchedule"
    await world.jump(5 * HOUR - timedelta(minutes=10))
    assert world.number == 1
    await world.run_until(lambda: world.number == 2)
    begun = datetime.fromisoformat(world.see()["lastRefresh"])
    assert timedelta(0) <= begun - (START + 5 * HOUR) < timedelta(minutes=1)
    await world.settle(20)
    assert world.see()["nextRefresh"] == "2026-01-02T05:00:00Z"


async def test_whatever_was_missed_while_the_operator_was_away_is_one_snapshot() -> None:
    world = await started(schedule="*/5 * * * *", everyEvents=10)
    world.send(1000)
    await world.jump(30 * DAY, ticks=30)  # less than the five minutes of the schedule
    assert (world.number, world.see()["number"]) == (2, 1)


async def test_a_clock_that_steps_back_neither_repeats_a_snapshot_nor_puts_the_next_one_off() -> None:
    world = await started(schedule=NIGHTLY)
    await world.jump(365 * DAY)
    assert world.number == 2
    await world.jump(-365 * DAY)
    assert world.number == 2
    assert world.see()["nextRefresh"] == "2026-01-01T05:00:00Z"
    await world.jump(6 * HOUR)
    assert world.number == 3


async def test_a_snapshot_that_fails_is_tried_again_only_for_further_events() -> None:
    world = await started(broken=True, everyEvents=10)
    await world.settle(60)
    assert (world.number, world.status(KIND, NAME)["state"]) == (1, "Failed")
    world.send(10)
    await world.settle(60)
    assert (world.number, world.see()["newEvents"]) == (2, 0)
    world.broken = False
    world.send(10)
    await world.settle(60)
    assert (world.number, world.status(KIND, NAME)["state"]) == (3, "Ready")


async def test_where_nobody_counts_the_dataset_says_so_and_keeps_its_snapshot() -> None:
    world = await started(everyEvents=10)
    world.cluster.feedback = None
    await world.settle(30)
    assert world.see()["reason"] == "LogNotCounted"
    assert "no gateway" in world.see()["message"]
    assert "gateway.auth" in world.see()["message"]
    assert "newEvents" not in world.see()
    assert world.condition("Ready", KIND, NAME)["status"] == "True"
    world.cluster.feedback = {POLICY: [world.now] * 10}
    await world.settle(40)
    assert world.number == 2


@pytest.mark.parametrize(
    ("schedule", "wrong"),
    [
        ("0 0 31 FEB *", "bad day-of-month"),
        ("60 5 * * *", "bad minute"),
        ("0 5-2 * * *", "bad hour"),
        ("*/0 * * * *", "bad minute"),
        ("0 0 * NOPE *", "bad month"),
        ("0 0 * * 8", "bad day-of-week"),
    ],
)
async def test_a_schedule_that_never_comes_is_refused_with_its_text_and_an_edit_heals(
    schedule: str, wrong: str
) -> None:
    world = await started(schedule=NIGHTLY)
    world.edit(KIND, NAME, {"spec": {"refresh": {"schedule": schedule}}})
    await world.settle(4)
    stalled = world.condition("Stalled", KIND, NAME)
    assert stalled["reason"] == "InvalidSpec"
    assert f"spec.refresh.schedule {schedule!r} is no time that ever comes: {wrong}" in stalled["message"]
    world.edit(KIND, NAME, {"spec": {"refresh": {"schedule": "0 7 * * *"}}})
    await world.settle(4)
    assert world.see()["nextRefresh"] == "2026-01-01T07:00:00Z"
    assert world.condition("Ready", KIND, NAME)["status"] == "True"


async def test_taking_refresh_away_keeps_the_snapshot_and_looks_no_more() -> None:
    world = await started(everyEvents=10)
    world.send(10)
    await world.settle(40)
    world.edit(KIND, NAME, {"spec": {"refresh": None}})
    world.send(100)
    await world.settle(80)
    assert (world.number, world.see()["number"]) == (2, 1)
    assert "nextRefresh" not in world.see()
    assert not world.see().get("reason")


async def test_a_suspended_dataset_is_not_refreshed_until_it_goes_on() -> None:
    world = await started(everyEvents=10)
    world.edit(KIND, NAME, {"spec": {"suspend": True}})
    world.send(10)
    await world.settle(60)
    assert world.number == 1
    assert world.see()["reason"] == "SuspendedByUser"
    world.edit(KIND, NAME, {"spec": {"suspend": False}})
    await world.settle(60)
    assert world.number == 2


async def test_a_refreshed_dataset_leaves_no_job_but_its_last() -> None:
    world = await started(everyEvents=10)
    for _ in range(4):
        world.send(10)
        await world.settle(40)
    assert world.number == 5
    assert world.jobs() == ["rated-snapshot-5"]


async def test_a_run_keeps_the_snapshot_that_it_started_with() -> None:
    world = await started(everyEvents=10)
    first = world.digest
    world.submit(b.run(datasetRef={"name": NAME}))
    await world.settle(3)
    world.send(10)
    await world.finish()
    await world.settle(40)
    assert world.digest != first
    assert world.status()["resolved"]["datasetDigest"] == first


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("call", range(1, 40, 2))
async def test_an_operator_killed_at_any_moment_of_a_refresh_makes_one_snapshot_for_it(call: int, after: bool) -> None:
    world = await started(everyEvents=10)
    world.send(10)
    world.cluster.fault = CrashAt(len(world.cluster.log) + call, after=after)
    await world.settle(60)
    assert world.crashes == 1
    assert (world.see()["number"], world.see()["newEvents"]) == (1, 0)
    assert world.condition("Ready", KIND, NAME)["status"] == "True"
    snapshots = {attempt for _, stage, attempt, _ in world.script.started if stage == "snapshot"}
    assert len(snapshots) == 2
