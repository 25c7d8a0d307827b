"""Each right taken away alone: whoever the pass is about says which one is missing, and goes on when it is back.

Promise P19, T13. Which rights there are is recorded in tests/contract/test_chart_rbac.py, which also sees to it that
each of them is taken away here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ratchet_api.stage import StageInput
from ratchet_operator.cluster.memory import Call, NoFault
from ratchet_operator.cluster.memory_jobs import Act, golden
from ratchet_operator.cluster.protocol import Forbidden
from tests.world import builders as b
from tests.world.harness import World
from tests.world.serving import Served


class Lacks(NoFault):
    """The operator's role lacks a verb."""

    def __init__(self, verb: str, resource: str) -> None:
        self.lacking: tuple[str, str] | None = (verb, resource)
        self.refused = 0

    def before(self, call: Call) -> None:
        if (call.verb, call.resource) == self.lacking:
            self.refused += 1
            raise Forbidden(f'User "sa" cannot {call.verb} resource "{call.resource}"', status=403)


def refused_by_quota(stage: StageInput, pod: int) -> Act:
    """The Job controller gets no pod of a run admitted and says so in an event."""
    if stage.config.stage == "snapshot":
        return golden(stage, pod)
    return Act(refused='pods "x" is forbidden: exceeded quota: gpus')


def trains(world: World) -> None:
    world.submit(b.policy(), b.run(publishTo={"name": "support"}))


def is_stamped(world: World) -> None:
    world.submit(b.policy(training={"template": b.template()}))


SAID: dict[tuple[str, str], Callable[[World], None]] = {
    ("get", "feedbackdatasets"): trains,
    ("get", "configmaps"): trains,
    ("get", "jobs"): trains,
    ("list", "pods"): trains,
    ("create", "jobs"): trains,
    ("get", "rlpolicies"): trains,
    ("list", "events"): trains,
    ("list", "rltrainingruns"): is_stamped,
    ("create", "rltrainingruns"): is_stamped,
}
"""What is missed while an object wants something: it stands in that object's status."""
UNSAID = (("get", "rltrainingruns"), ("patch_status", "rltrainingruns"), ("emit", "events"))
"""What is missed before or after there is a status to say it in."""

HELD = ("deployments", "services", "configmaps", "poddisruptionbudgets")
SERVED: dict[tuple[str, str], Callable[[Served], None]] = {
    **dict.fromkeys(
        [
            *((verb, kind) for verb in ("list", "get", "apply") for kind in HELD),
            ("list", "pods"),
            ("apply", "pods"),
        ],
        lambda world: None,
    ),
    ("create", "configmaps"): lambda world: world.remember(20),
    ("delete", "deployments"): lambda world: None,
    ("delete", "services"): lambda world: None,
    ("delete", "poddisruptionbudgets"): lambda world: world.edit(
        "RLPolicy", "support", {"spec": {"serving": {"replicas": 2}}}
    ),
}
"""What is missed while a policy is served, and what is done for it to be asked for."""


async def ready() -> World:
    world = World()
    world.submit(b.dataset())
    await world.settle(20)
    return world


def complaints(world: World) -> list[str]:
    rows = [row for _, obj in world.ours() for row in (obj.get("status") or {}).get("conditions", [])]
    return [row["message"] for row in rows if row["reason"] == "Forbidden" and row["status"] == "True"]


@pytest.mark.parametrize(("verb", "resource"), SAID, ids=lambda text: text)
async def test_a_missing_right_is_a_condition_that_names_the_verb_and_heals(verb: str, resource: str) -> None:
    """P19, T13."""
    world, fault = await ready(), Lacks(verb, resource)
    if resource == "events":
        world.script.play = refused_by_quota
    world.cluster.fault = fault
    SAID[verb, resource](world)
    await world.run_until(lambda: bool(complaints(world)))
    assert f'cannot {verb} resource "{resource}"' in complaints(world)[0]
    fault.lacking = None
    world.script.play = golden
    await world.run_until(lambda: any(world.over(run["metadata"]["name"]) for run in runs(world)))
    await world.settle(4)
    assert [run["status"]["state"] for run in runs(world)] == ["Complete"]
    assert not complaints(world)


def runs(world: World) -> list[dict[str, Any]]:
    return [obj for _, obj in world.ours() if obj["kind"] == "RLTrainingRun"]


async def test_a_run_that_cannot_be_stopped_says_so_and_stops_when_the_right_is_back() -> None:
    """P19, T13: delete jobs."""
    world, fault = await ready(), Lacks("delete", "jobs")
    world.submit(b.run())
    await world.run_until(lambda: "router-supervised-1" in world.jobs())
    world.cluster.fault = fault
    world.edit("RLTrainingRun", "router", {"spec": {"suspend": True}})
    await world.run_until(lambda: bool(complaints(world)))
    assert 'cannot delete resource "jobs"' in complaints(world)[0]
    fault.lacking = None
    await world.run_until(lambda: world.status()["state"] == "Suspended")
    assert not complaints(world)
    assert "router-supervised-1" not in world.jobs()


async def test_a_finished_run_that_cannot_be_removed_stays_complete_and_goes_when_the_right_is_back() -> None:
    """P19, T13: delete rltrainingruns."""
    world, fault = await ready(), Lacks("delete", "rltrainingruns")
    world.cluster.fault = fault
    world.submit(b.run(ttlSecondsAfterFinished=30))
    await world.finish()
    await world.run_until(lambda: fault.refused > 0)
    told = [each.message for each in world.cluster.emitted if each.reason == "Forbidden"]
    assert 'cannot delete resource "rltrainingruns"' in told[0]
    assert not complaints(world)
    assert world.condition("Complete")["status"] == "True"
    before = fault.refused
    await world.settle(120)
    assert fault.refused - before <= 10, "ten minutes, and it is tried every two"
    fault.lacking = None
    await world.run_until(lambda: not runs(world))


@pytest.mark.parametrize(("verb", "resource"), UNSAID, ids=lambda text: text)
async def test_what_cannot_be_said_in_a_status_is_tried_again_until_the_right_is_back(verb: str, resource: str) -> None:
    """P19, T13: the queue logs the refusal, which names verb and resource (tests/unit/test_operator_shell.py)."""
    world, fault = await ready(), Lacks(verb, resource)
    world.cluster.fault = fault
    world.submit(b.run())
    await world.run_until(lambda: fault.refused >= 3)
    fault.lacking = None
    assert (await world.finish())["state"] == "Complete"


@pytest.mark.parametrize(("verb", "resource"), SERVED, ids=lambda text: text)
async def test_a_right_that_serving_misses_is_a_condition_and_the_rollout_goes_on_when_it_is_back(
    verb: str, resource: str
) -> None:
    """P19, T13."""
    world, fault = Served(), Lacks(verb, resource)
    world.policy()
    SERVED[verb, resource](world)
    world.cluster.fault = fault
    await world.run_until(lambda: bool(complaints(world)))
    assert f'cannot {verb} resource "{resource}"' in complaints(world)[0]
    fault.lacking = None
    await world.run_until(lambda: world.status("RLPolicy", "support")["champion"] == 2)
    await world.run_until(lambda: not complaints(world))
    await world.run_until(lambda: world.children("deployments") == ["support-router", "support-v2"])


async def test_routers_that_cannot_be_ended_say_so_and_end_when_the_right_is_back() -> None:
    """P19, T13: delete configmaps."""
    world, fault = Served(), Lacks("delete", "configmaps")
    world.policy()
    await world.run_until(lambda: world.rollout().get("serving") == 1)
    world.cluster.fault = fault
    world.edit("RLPolicy", "support", {"spec": {"serving": None, "rollout": None}})
    await world.run_until(lambda: bool(complaints(world)))
    fault.lacking = None
    await world.run_until(lambda: not world.children("configmaps"))
    await world.settle(4)
    assert not complaints(world)
