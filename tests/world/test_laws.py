"""Laws that hold for every decision: over random histories and over worlds that no history would make."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory_jobs import Act, golden
from ratchet_operator.observe import Observer
from ratchet_operator.plan.datasets import plan_dataset
from ratchet_operator.plan.policies import plan_policy
from ratchet_operator.plan.runs import plan_run
from ratchet_operator.plan.runs.finished import ended
from ratchet_operator.plan.world import JobSight, Plan, PodSight, RunWorld, StageSight
from tests.world import builders as b
from tests.world.harness import START, World, masked

EXITS = [0, 0, 0, 0, 0, 0, 1, 10, 20, 22, 40, 75, 99, 137, 143]


def chaotic(seed: int) -> World:
    """A world where pods end as the dice fall, equally for equal seeds."""

    def play(stage: StageInput, pod: int) -> Act:
        dice = random.Random(f"{seed}/{stage.config.stage}/{stage.attempt}/{pod}")
        code = dice.choice(EXITS)
        act = golden(stage, pod) if code == 0 else Act(exit_code=code)
        return replace(act, steps=dice.randint(1, 4), disrupted=code != 0 and dice.random() < 0.2)

    return World(play)


async def decide(world: World) -> list[tuple[Any, Plan[Any]]]:
    """What would be decided for every object right now; each decision is made twice and must be the same."""
    observer = Observer(world.cluster, world.settings, lambda: world.now)
    made: list[tuple[Any, Plan[Any]]] = []
    for resource, obj in world.ours():
        if resource == "rltrainingruns":
            seen, plan = await observer.run(obj), plan_run
            made.append((seen, plan(seen)))
            assert plan(seen) == made[-1][1]
        elif resource == "feedbackdatasets":
            data = await observer.dataset(obj)
            made.append((data, plan_dataset(data)))
            assert plan_dataset(data) == made[-1][1]
        else:
            policy = await observer.policy(obj)
            made.append((policy, plan_policy(policy)))
            assert plan_policy(policy) == made[-1][1]
    return made


@pytest.mark.parametrize("seed", range(25))
async def test_random_histories_end_settled_with_equal_plans_for_equal_worlds(seed: int) -> None:
    """R24: the same world gives the same plan; a settled world wants nothing; progress or stop, never a loop."""
    world = chaotic(seed)
    world.submit(b.dataset(backoffLimit=6), b.policy(), b.run(publishTo={"name": "support"}))
    dice = random.Random(seed)
    for _ in range(150):
        await world.tick()
        await decide(world)
        if dice.random() < 0.03:
            world.edit("RLTrainingRun", "router", {"spec": {"suspend": dice.random() < 0.5}})
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": False}})
    await world.settle(300)
    before = masked(world)
    for seen, plan in await decide(world):
        assert plan.actions == (), seen.meta.title
        assert plan.events == ()
        assert plan.status is None or plan.status == seen.status
    await world.settle(70)
    assert masked(world) == before


async def recorded_worlds() -> list[RunWorld]:
    """Every world that a rough history shows to a run."""
    found: list[RunWorld] = []
    for seed in range(4):
        world = chaotic(seed)
        world.submit(b.dataset(), b.policy(), b.run(publishTo={"name": "support"}))
        for _ in range(40):
            await world.tick()
            observer = Observer(world.cluster, world.settings, lambda: world.now)  # noqa: B023
            found.append(await observer.run(world.object("RLTrainingRun", "router")))
    return found


@pytest.fixture(scope="module")
def worlds() -> list[RunWorld]:
    import asyncio

    return asyncio.run(recorded_worlds())


times = st.none() | st.integers(-2000, 2000).map(lambda s: START + timedelta(seconds=s))
pods = st.builds(
    PodSight,
    name=st.just("p"),
    uid=st.just("u"),
    created=st.integers(0, 100).map(lambda s: START + timedelta(seconds=s)),
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    node=st.sampled_from(["", "n1"]),
    deleting=st.booleans(),
    started=st.booleans(),
    exit_code=st.none() | st.integers(-1, 300),
    exit_reason=st.sampled_from(["", "OOMKilled", "Evicted"]),
    raw_message=st.text(max_size=20),
    waiting_reason=st.sampled_from(["", "ErrImagePull", "CreateContainerConfigError"]),
    unschedulable=st.sampled_from(["", "no room"]),
    disrupted=st.booleans(),
)
jobs = st.builds(
    JobSight,
    name=st.just("j"),
    uid=st.just("u"),
    owner_uid=st.sampled_from(["", "mine", "other"]),
    created=times,
    deleted_at=times,
    suspended=st.booleans(),
    started=times,
    ended=times,
    complete=st.booleans(),
    failed_reason=st.sampled_from(["", "DeadlineExceeded", "PodFailurePolicy", "BackoffLimitExceeded"]),
    active=st.integers(0, 2),
)
sights = st.builds(
    StageSight,
    job=st.none() | jobs,
    pods=st.lists(pods, max_size=3).map(tuple),
    previous=st.none() | jobs,
    refused_pods=st.sampled_from(["", "exceeded quota: x"]),
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(sight=sights, pick=st.integers(0, 10**6), suspend=st.booleans(), late=times)
def test_any_reading_of_the_world_has_a_plan_that_keeps_the_laws(
    worlds: list[RunWorld], sight: StageSight, pick: int, suspend: bool, late: datetime | None
) -> None:
    """R24, P5, P8: rules are total; terminal is never left; at most one Job is created, for the recorded attempt."""
    seen = worlds[pick % len(worlds)]
    mine = {"owner_uid": seen.meta.uid}
    job = sight.job and (replace(sight.job, **mine) if sight.job.owner_uid == "mine" else sight.job)
    before = sight.previous and replace(sight.previous, **mine)
    spec = seen.spec and seen.spec.model_copy(update={"suspend": suspend})
    world = replace(
        seen, sight=replace(sight, job=job, previous=before), spec=spec, now=late or seen.now, store=seen.settings.store
    )
    plan = plan_run(world)
    assert plan == plan_run(world)
    creates = [a for a in plan.actions if type(a).__name__ == "CreateObject"]
    if ended(world.status):
        assert creates == []
        assert plan.status is None
        return
    assert plan.status is not None
    assert len(plan.status.model_dump_json(by_alias=True)) <= 32 * 1024
    names = {a.manifest["metadata"]["name"] for a in creates}
    attempts = {s.attempt.job for s in world.status.stages if s.attempt is not None}
    assert names <= attempts, "a child was created before its name stood in status"
    if creates:
        assert len(names) == 1
        assert not suspend
        assert [s.attempt for s in plan.status.stages] == [s.attempt for s in world.status.stages], "R6: either, or"
        assert world.sight.job is None
        assert before is None or before.over
    if plan.requeue_after is not None:
        assert plan.requeue_after >= timedelta(0)
