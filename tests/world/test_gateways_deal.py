"""Policies whose requests Gateways of the cluster deal, by an HTTPRoute in place of routers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ratchet_operator.cluster.memory import Call, NoFault
from ratchet_operator.cluster.protocol import Forbidden, Unavailable
from tests.world import builders as b
from tests.world.harness import CrashAt, masked
from tests.world.serving import Served

ROUTE = "support-route"
GATEWAYS: dict[str, Any] = {"httpRoute": {"parentRefs": [{"name": "edge", "namespace": "infra"}]}}


class NoRoutes(NoFault):
    """The cluster has no Gateway API, or the operator no right to a verb of its routes."""

    def __init__(self, error: type[Exception] = Unavailable, verb: str = "list") -> None:
        self.error: type[Exception] | None = error
        self.verb = verb

    def before(self, call: Call) -> None:
        if self.error is None or (call.verb, call.resource) != (self.verb, "httproutes"):
            return
        if self.error is Forbidden:
            raise Forbidden(f'User "sa" cannot {call.verb} resource "httproutes"', status=403)
        raise Unavailable("the API server does not know them; are the CRDs installed?", status=404)


def promoted(world: Served) -> Callable[[], bool]:
    return lambda: world.rollout().get("serving") == 2 and world.says("RolledOut").get("status") == "True"


def route(world: Served) -> dict[str, Any]:
    found = world.cluster.objects.get("httproutes", b.NAMESPACE, ROUTE)
    assert found is not None
    return found


def weights(world: Served) -> dict[str, int]:
    found: dict[str, int] = {}
    for backend in route(world)["spec"]["rules"][-1]["backendRefs"]:
        found[backend["name"]] = found.get(backend["name"], 0) + backend.get("weight", 1)
    return found


async def test_gateways_deal_step_by_step_and_no_router_is_started() -> None:
    world = Served()
    world.policy(serving=GATEWAYS)
    await world.run_until(lambda: world.rollout().get("percent") == 10)
    assert weights(world) == {"support-v1": 9000, "support-v2": 1000}
    assert world.children("configmaps") == []
    await world.run_until(promoted(world))
    await world.settle(4)
    assert weights(world) == {"support-v2": 1}
    assert (world.children("deployments"), world.children("services")) == (["support-v2"], ["support-v2"])
    assert [row["percent"] for row in world.rollout()["history"]] == [0, 10, 50, 0]


async def test_it_is_said_that_a_subject_does_not_keep_its_version() -> None:
    world = Served()
    world.policy(serving=GATEWAYS)
    await world.run_until(lambda: bool(world.children("httproutes")))
    said = world.says("Sticky")
    assert (said["status"], said["reason"]) == ("False", "DealtByGateways")
    assert "may get both versions" in said["message"]
    assert "remove serving.httpRoute" in said["message"]


async def test_a_step_counts_when_every_gateway_took_the_route() -> None:
    """P32."""
    world = Served()
    world.policy(serving=GATEWAYS)
    await world.run_until(lambda: world.rollout().get("serving") == 1)
    world.hanging.add(ROUTE)
    await world.run_until(lambda: world.rollout().get("percent") == 10)
    await world.settle(30)
    assert world.rollout().get("stepSince") is None
    assert "has not seen its last change" in world.says("RolledOut")["message"]
    world.hanging.clear()
    world.refused = "UnsupportedValue"
    await world.settle(4)
    assert "Gateway infra/edge does not say Accepted: UnsupportedValue" in world.says("RolledOut")["message"]
    world.refused = ""
    await world.run_until(promoted(world))


async def test_weights_that_somebody_edits_are_set_right() -> None:
    world = Served()
    world.policy(serving=GATEWAYS, rollout=None)
    await world.run_until(lambda: world.says("RolledOut").get("status") == "True")
    spec = {**route(world)["spec"], "rules": []}
    world.cluster.objects.update("httproutes", b.NAMESPACE, ROUTE, {"spec": spec})
    world.edit("RLPolicy", "support", {"metadata": {"annotations": {"look": "again"}}})
    await world.settle(4)
    assert weights(world) == {"support-v1": 1}


async def test_without_the_gateway_api_it_says_what_to_install_and_goes_on_when_it_is_there() -> None:
    world, fault = Served(), NoRoutes()
    world.cluster.fault = fault
    world.policy(serving=GATEWAYS)
    await world.settle(6)
    said = world.says("Stalled")
    assert (said["status"], said["reason"]) == ("True", "GatewayAPIMissing")
    assert "Install the Gateway API's CustomResourceDefinitions" in said["message"]
    fault.error = None
    await world.run_until(promoted(world))
    assert world.says("Stalled")["status"] == "False"


@pytest.mark.parametrize("verb", ["list", "get", "apply"])
async def test_a_missing_right_to_routes_is_a_condition_and_heals(verb: str) -> None:
    """P19, T13."""
    world, fault = Served(), NoRoutes(Forbidden, verb)
    world.cluster.fault = fault
    world.policy(serving=GATEWAYS)
    await world.run_until(lambda: world.says("Stalled").get("reason") == "Forbidden")
    assert f'cannot {verb} resource "httproutes"' in world.says("Stalled")["message"]
    fault.error = None
    await world.run_until(promoted(world))


async def test_routers_take_over_from_gateways_and_back_without_a_gap() -> None:
    world = Served()
    world.policy(serving=GATEWAYS, rollout=None)
    await world.run_until(lambda: world.says("RolledOut").get("status") == "True")
    world.hanging.add("support-router-0")
    world.edit("RLPolicy", "support", {"spec": {"serving": {"httpRoute": None}}})
    await world.settle(10)
    assert world.children("httproutes") == [ROUTE], "it deals until every router does"
    world.hanging.clear()
    await world.run_until(lambda: not world.children("httproutes"))
    await world.run_until(lambda: world.says("Sticky")["status"] == "True")
    assert "support-router" in world.children("services")

    world.hanging.add(ROUTE)
    world.edit("RLPolicy", "support", {"spec": {"serving": GATEWAYS}})
    await world.settle(10)
    assert "support-router" in world.children("services"), "they deal until every Gateway does"
    world.hanging.clear()
    await world.run_until(lambda: "support-router" not in world.children("services"))
    assert world.children("configmaps") == []
    assert world.says("Sticky")["status"] == "False"


async def test_a_policy_that_is_served_no_more_leaves_no_route() -> None:
    world, fault = Served(), NoRoutes(Forbidden, "delete")
    world.policy(serving=GATEWAYS)
    await world.run_until(lambda: world.rollout().get("serving") == 1)
    world.cluster.fault = fault
    world.edit("RLPolicy", "support", {"spec": {"serving": None, "rollout": None}})
    await world.run_until(lambda: world.says("Stalled").get("reason") == "Forbidden")
    fault.error = None
    await world.run_until(lambda: not world.children("httproutes"))
    await world.run_until(lambda: world.says("Sticky")["status"] == "True")
    assert world.children("services") == []


async def test_killed_after_any_write_it_ends_alike() -> None:
    """P4: what may be is remembered before it is made, so that no route is left over."""

    async def story(fault: NoFault) -> Served:
        world = Served(fault=fault)
        world.policy(serving=GATEWAYS, rollout=None)
        await world.run_until(lambda: world.says("RolledOut").get("status") == "True")
        world.edit("RLPolicy", "support", {"spec": {"serving": {"httpRoute": None}}})
        await world.run_until(lambda: world.says("Sticky")["status"] == "True")
        await world.settle(2)
        return world

    whole = await story(NoFault())
    numbers = [call.number for call in whole.cluster.log if call.writes and call.verb != "emit"]
    for number in numbers:
        world = await story(CrashAt(number, after=True))
        assert world.children("httproutes") == []
        assert masked(world).keys() == masked(whole).keys()
