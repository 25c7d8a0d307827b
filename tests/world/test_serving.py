"""Policies that are served: a version gets its servers, its share, its verdict, and all of the people or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ratchet_api.names import ANNOTATION_ASKED_BY, ANNOTATION_PROMOTE, LABEL_COMPONENT, server_name
from ratchet_operator.cluster.memory import Call, NoFault
from tests.world import builders as b
from tests.world.harness import CrashAt, World, masked
from tests.world.serving import ROLLOUT, SERVING, Served


def events(world: World) -> list[str]:
    return [event.reason for event in world.cluster.emitted if event.about == "RLPolicy/support"]


def ended(world: Served) -> Callable[[], bool]:
    return lambda: world.rollout().get("settledUpTo", 0) >= 2 and world.says("RolledOut").get("status") == "True"


async def through(world: Served) -> Served:
    world.policy()
    return await through_its_end(world)


async def through_its_end(world: Served) -> Served:
    await world.run_until(ended(world))
    await world.settle(4)
    return world


async def test_a_version_that_people_like_better_is_promoted_step_by_step() -> None:
    """P6."""
    world = await through(Served())
    status = world.status("RLPolicy", "support")
    assert (status["champion"], status["rollout"]["serving"], status["state"]) == (2, 2, "Ready")
    assert status["championDigest"] == f"{2:064d}"
    assert [(row.get("candidate"), row["percent"]) for row in world.rollout()["history"]] == [
        (None, 0), (2, 10), (2, 50), (None, 0),
    ]  # fmt: skip
    assert [row["version"] for row in status["ledger"]] == [2]
    assert world.rollout()["verdict"]["outcome"] == "Successful"
    assert world.children("deployments") == ["support-router", "support-v2"]
    assert world.children("services") == ["support-router", "support-v2"]
    assert events(world) == [
        "ServingChanged", "CandidateChosen", "CandidateExposed", "ShareRaised", "Promoted", "TableApplied",
    ]  # fmt: skip


async def test_a_version_that_people_like_less_is_taken_out_and_not_tried_again() -> None:
    """P34."""
    world = Served()
    world.people.likes[2] = 0.2
    await through(world)
    status = world.status("RLPolicy", "support")
    assert (status["champion"], status["rollout"]["serving"]) == (1, 1)
    assert status["rollout"]["verdict"]["outcome"] == "Failed"
    assert world.children("deployments") == ["support-router", "support-v1"]
    assert events(world)[-2:] == ["RolledBack", "TableApplied"]
    await world.settle(40)
    assert "candidate" not in world.rollout()
    world.publish(3)
    await world.run_until(lambda: world.status("RLPolicy", "support")["champion"] == 3)


SHADOW = ROLLOUT | {"shadow": {"percent": 50, "seconds": 10, "minPairs": 500, "maxFlipRate": 0.3}}


async def test_a_version_is_asked_beside_the_champion_before_anybody_gets_it() -> None:
    world = Served()
    world.policy(rollout=SHADOW)
    await world.run_until(lambda: world.rollout().get("shadow", {}).get("pairs", 0) > 0)
    assert world.rollout()["percent"] == 0
    assert world.says("RolledOut")["reason"] == "Shadowing"
    assert "were answered otherwise" in world.says("RolledOut")["message"]
    assert world.status("RLPolicy", "support")["state"] == "Shadowing"
    await through_its_end(world)
    assert world.status("RLPolicy", "support")["champion"] == 2
    assert world.rollout()["shadow"]["pairs"] >= 500
    assert events(world)[:4] == ["ServingChanged", "CandidateChosen", "CandidateShadowed", "CandidateExposed"]


async def test_a_version_that_answers_too_much_otherwise_beside_the_champion_is_taken_out() -> None:
    """P34: nobody got it."""
    world = Served()
    world.people.flips[2] = 0.4
    world.policy(rollout=SHADOW)
    await through_its_end(world)
    assert (world.status("RLPolicy", "support")["champion"], world.children("deployments")) == (
        1,
        ["support-router", "support-v1"],
    )
    assert [row["percent"] for row in world.rollout()["history"]] == [0, 0]
    assert "answered otherwise" in world.rollout()["history"][-1]["why"]
    assert world.rollout()["verdict"]["outcome"] == "Failed"
    assert world.people.counts == {}


LATENCY = ROLLOUT | {"judged": ROLLOUT["judged"] | {"latency": {"p99Milliseconds": 100}}}


async def test_a_slower_version_is_taken_out_however_well_it_is_liked() -> None:
    """P34."""
    world = Served()
    world.people.slow = {1: 0.02, 2: 0.2}
    world.policy(rollout=LATENCY)
    await through_its_end(world)
    assert world.status("RLPolicy", "support")["champion"] == 1
    assert world.rollout()["verdict"]["outcome"] == "Failed"
    assert "slow" in world.rollout()["verdict"]["message"]


@pytest.mark.parametrize(
    ("p99", "slow"),
    [(100, {1: 0.002, 2: 0.002}), (100, {1: 0.3, 2: 0.3}), (1000, {1: 0.0, 2: 0.9})],
    ids=["fast enough", "as slow as the champion", "within what is asked"],
)
async def test_a_version_that_is_no_slower_is_promoted(p99: float, slow: dict[int, float]) -> None:
    world = Served()
    world.people.slow = slow
    world.policy(rollout=ROLLOUT | {"judged": ROLLOUT["judged"] | {"latency": {"p99Milliseconds": p99}}})
    await through_its_end(world)
    assert world.status("RLPolicy", "support")["champion"] == 2


async def test_without_a_time_of_any_answer_a_version_is_not_promoted() -> None:
    """P33: servers or an analyst of an earlier release tell none."""
    world = Served()
    asked = world.people.told

    def told(policy: str, experiment: str) -> Any:
        said = asked(policy, experiment)
        return said if isinstance(said, str) else {**said, "paces": {}}

    world.cluster.counts = told
    world.policy(rollout=LATENCY)
    await world.settle(60)
    assert world.rollout()["candidate"] == 2
    assert world.status("RLPolicy", "support")["champion"] == 1


async def test_a_published_run_goes_on_trial_by_itself() -> None:
    world = Served()
    world.submit(b.dataset(), b.policy(serving={}, rollout=ROLLOUT), b.run("first", publishTo={"name": "support"}))
    await world.finish("first")
    await world.settle(4)
    assert world.says("Ready")["reason"] == "NoVersion"
    assert world.children("deployments") == []
    world.edit("RLPolicy", "support", {"metadata": {"annotations": {ANNOTATION_PROMOTE: "1"}}})
    await world.run_until(lambda: world.rollout().get("serving") == 1)
    world.submit(b.run("second", publishTo={"name": "support"}, seed=2))
    await world.run_until(lambda: world.status("RLPolicy", "support").get("champion") == 2)
    assert world.says("Ready")["status"] == "True"


@pytest.mark.parametrize("break_at", ["start", "exposed"])
async def test_a_version_whose_servers_do_not_answer_is_taken_out(break_at: str) -> None:
    """P34."""
    world = Served()
    world.policy()
    if break_at == "exposed":
        await world.run_until(lambda: world.rollout().get("percent", 0) > 0)
    world.broken.add(2)
    await world.run_until(lambda: world.rollout().get("settledUpTo", 0) == 2)
    assert world.status("RLPolicy", "support")["champion"] == 1
    assert [row["percent"] for row in world.rollout()["history"]] == ([0, 0] if break_at == "start" else [0, 10, 0])
    assert world.rollout()["history"][-1]["why"].startswith("Version 2 ")
    assert world.rollout()["verdict"]["reason"] == "NotReady"


async def test_without_an_analyst_nobody_beyond_the_first_share_gets_the_version() -> None:
    """P35."""
    world = Served()
    world.people.away = True
    world.policy()
    await world.settle(150)
    assert world.rollout()["percent"] == 10
    assert world.status("RLPolicy", "support")["state"] == "Holding"
    assert "the analyst does not answer" in world.says("RolledOut")["message"]
    assert world.says("Ready")["status"] == "True"
    world.people.away = False
    await world.run_until(ended(world))


async def test_a_problem_that_the_analyst_names_holds_and_is_shown() -> None:
    """P35."""
    world = Served()
    world.people.problem = "3 of 90 subjects met both arms"
    world.policy()
    await world.settle(60)
    assert world.rollout()["percent"] == 10
    assert "met both arms" in world.says("RolledOut")["message"]


async def test_nothing_goes_on_while_a_router_is_silent_or_has_another_table() -> None:
    world = Served()
    world.policy()
    await world.run_until(lambda: world.rollout().get("percent") == 10)
    world.hanging.add("support-router-1")
    await world.settle(60)
    assert world.rollout()["percent"] == 10
    assert world.status("RLPolicy", "support")["state"] == "Applying"
    world.hanging.clear()
    await world.run_until(ended(world))


async def test_routers_are_made_to_look_at_a_new_table_at_once() -> None:
    world = Served()
    world.policy()
    await world.run_until(lambda: world.rollout().get("percent") == 10)
    told = world.now
    await world.run_until(lambda: "stepSince" in world.rollout())
    assert (world.now - told).total_seconds() <= 30  # a kubelet by itself looks after a minute


COMMANDS: dict[str, tuple[str, int, str]] = {
    "pause": ("Version 2 stays at 10 %.", 1, "Paused"),
    "abort": ("Version 2 was taken out on request; version 1 stays.", 1, "Ready"),
    "promote": ("Version 2 is promoted on request.", 2, "Ready"),
    "undo": ("undo: no earlier version that served is still there", 2, "Ready"),
    "dance": ("'dance:1' is no command; there are abort, pause, promote, resume, undo", 2, "Ready"),
}


@pytest.mark.parametrize("verb", COMMANDS)
async def test_a_command_is_obeyed_once_and_answered(verb: str) -> None:
    world = Served()
    world.policy()
    await world.run_until(lambda: "stepSince" in world.rollout() and world.rollout()["percent"] == 10)
    world.tell(f"{verb}:1")
    await world.run_until(lambda: world.rollout()["observedCommand"] == f"{verb}:1")
    answer, champion, state = COMMANDS[verb]
    assert world.rollout()["answer"] == answer
    await world.run_until(lambda: world.status("RLPolicy", "support")["state"] == state, ticks=60)
    await world.settle(30)
    assert world.status("RLPolicy", "support")["champion"] == champion
    assert ("CommandNotObeyed" in events(world)) == (verb in ("undo", "dance"))
    if verb == "pause":
        world.tell("resume:2")
        await world.run_until(ended(world))


@pytest.mark.parametrize(
    ("said", "want"),
    [
        pytest.param("abort:1 ann@example.org", "on request of ann@example.org", id="as the client wrote it"),
        pytest.param("pause:9 bob", "on request", id="of an earlier command"),
        pytest.param("abort:1", "on request", id="nobody"),
        pytest.param("abort:1 " + "x\u202e\n" * 200, f"on request of {'x' * 80}", id="of what is no name"),
    ],
)
async def test_the_history_says_who_decided(said: str, want: str) -> None:
    world = Served()
    world.policy()
    await world.run_until(lambda: "stepSince" in world.rollout() and world.rollout()["percent"] == 10)
    world.edit("RLPolicy", "support", {"metadata": {"annotations": {ANNOTATION_ASKED_BY: said}}})
    world.tell("abort:1")
    await world.run_until(lambda: world.rollout()["observedCommand"] == "abort:1")
    row = world.rollout()["history"][-1]
    assert (row["by"], row["why"]) == ("user", f"Version 2 was taken out {want}; version 1 stays.")


async def test_the_ledger_says_who_made_a_version_champion() -> None:
    world = await through(Served())
    said = {ANNOTATION_PROMOTE: "1", ANNOTATION_ASKED_BY: "1 ann@example.org"}
    world.edit("RLPolicy", "support", {"metadata": {"annotations": said}})
    await world.run_until(lambda: world.status("RLPolicy", "support")["champion"] == 1)
    assert world.status("RLPolicy", "support")["ledger"][-1]["why"] == "asked for by ann@example.org"


async def test_an_undone_promotion_brings_the_version_before_back() -> None:
    world = await through(Served())
    world.tell("undo:1")
    await world.run_until(lambda: world.rollout()["serving"] == 1)
    await world.settle(10)
    assert world.status("RLPolicy", "support")["champion"] == 1
    assert world.children("deployments") == ["support-router", "support-v1"]
    assert "candidate" not in world.rollout()


async def test_the_annotation_of_an_earlier_promotion_does_not_outlive_a_rollout() -> None:
    world = Served()
    world.policy(champion=None)
    world.edit("RLPolicy", "support", {"metadata": {"annotations": {ANNOTATION_PROMOTE: "1"}}})
    await world.run_until(ended(world))
    await world.settle(4)
    assert world.status("RLPolicy", "support")["champion"] == 2
    assert (world.says("Ready")["status"], world.says("Ready")["reason"]) == ("True", "ChampionSet")


async def test_what_was_edited_by_hand_is_put_back() -> None:
    world = await through(Served())
    table = world.cluster.objects.get("configmaps", b.NAMESPACE, "support-router")
    assert table is not None
    edited = {name: text.replace("v2", "v1") for name, text in table["data"].items()}
    world.cluster.objects.update("configmaps", b.NAMESPACE, "support-router", {"data": edited})
    world.cluster.objects.update("deployments", b.NAMESPACE, "support-v2", {"spec": {"replicas": 0}})
    await world.settle(61)
    mended = world.cluster.objects.get("configmaps", b.NAMESPACE, "support-router")
    servers = world.cluster.objects.get("deployments", b.NAMESPACE, "support-v2")
    assert mended is not None
    assert servers is not None
    assert mended["data"] == table["data"]
    assert servers["spec"]["replicas"] == 1


async def test_a_changed_size_is_applied_to_every_version_that_is_served() -> None:
    world = Served()
    world.policy()
    await world.run_until(lambda: world.rollout().get("percent") == 10)
    world.edit("RLPolicy", "support", {"spec": {"serving": {"replicas": 3, "routers": {"replicas": 4}}}})
    await world.run_until(ended(world))
    sizes = {d["metadata"]["name"]: d["spec"]["replicas"] for d in world.cluster.objects.select("deployments")}
    assert sizes == {"support-router": 4, "support-v2": 3}


async def test_of_several_pods_a_drain_takes_one_at_a_time() -> None:
    world = Served()
    world.policy(serving={"replicas": 2, "routers": {"replicas": 1}})
    await world.run_until(lambda: world.rollout().get("percent") == 10)
    assert world.children("poddisruptionbudgets") == ["support-v1", "support-v2"]
    world.cluster.objects.update(
        "poddisruptionbudgets", b.NAMESPACE, "support-v1", {"spec": {"maxUnavailable": "100%"}}
    )
    world.edit("RLPolicy", "support", {"spec": {"serving": {"routers": {"replicas": 3}}}})
    await world.settle(3)
    assert world.children("poddisruptionbudgets") == ["support-router", "support-v1", "support-v2"]
    budgets = {each["metadata"]["name"]: each["spec"] for each in world.cluster.objects.select("poddisruptionbudgets")}
    for deployment in world.cluster.objects.select("deployments"):
        spec = budgets[deployment["metadata"]["name"]]
        assert (spec["maxUnavailable"], spec["selector"]) == (1, deployment["spec"]["selector"])
    world.edit("RLPolicy", "support", {"spec": {"serving": {"replicas": 1}}})
    await world.run_until(ended(world))
    await world.settle(4)
    assert world.children("poddisruptionbudgets") == ["support-router"]


async def test_without_spec_serving_every_child_ends_and_the_history_stays() -> None:
    world = Served()
    world.policy()
    await world.run_until(lambda: world.rollout().get("percent") == 10)
    world.edit("RLPolicy", "support", {"spec": {"serving": None, "rollout": None}})
    await world.settle(10)
    held = ("deployments", "services", "configmaps", "poddisruptionbudgets", "pods")
    assert not any(world.children(resource) for resource in held)
    assert "candidate" not in world.rollout()
    assert len(world.rollout()["history"]) == 2
    assert world.says("Ready")["status"] == "True"
    experiments = world.rollout()["experiments"]
    world.edit("RLPolicy", "support", {"spec": {"serving": {}, "rollout": ROLLOUT}})
    await world.run_until(ended(world))
    assert world.rollout()["experiments"] == experiments + 1


async def test_without_spec_rollout_no_version_goes_on_trial_and_a_running_trial_ends() -> None:
    world = Served()
    world.policy(rollout=None)
    await world.settle(30)
    assert (world.rollout()["serving"], world.rollout()["experiments"]) == (1, 0)
    world.edit("RLPolicy", "support", {"spec": {"rollout": ROLLOUT}})
    await world.run_until(lambda: world.rollout()["percent"] == 10)
    world.edit("RLPolicy", "support", {"spec": {"rollout": None}})
    await world.settle(10)
    assert "candidate" not in world.rollout()
    assert world.children("deployments") == ["support-router", "support-v1"]


async def test_an_operator_that_serves_nothing_says_so() -> None:
    world = Served(settings=replace(SERVING, serving=None))
    world.policy()
    await world.settle(5)
    assert world.says("Ready")["reason"] == "ServingNotConfigured"
    assert world.children("deployments") == []


async def test_a_policy_without_a_store_says_so_and_goes_on_when_there_is_one() -> None:
    world = Served(settings=replace(SERVING, store=None))
    world.policy()
    await world.settle(5)
    assert world.says("Ready")["reason"] == "StoreNotConfigured"
    store = {"metadata": {"name": "ratchet-store", "namespace": b.NAMESPACE}, "data": {"uri": "s3://own"}}
    world.cluster.objects.create("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", **store})
    await world.run_until(ended(world))


@pytest.mark.parametrize(("resource", "kind"), [("deployments", "Deployment"), ("services", "Service")])
async def test_a_foreign_object_of_a_childs_name_is_a_conflict_and_stays_as_it_is(resource: str, kind: str) -> None:
    world = Served()
    meta = {"name": "support-v1", "namespace": b.NAMESPACE, "labels": {LABEL_COMPONENT: "somebody's"}}
    foreign = {"kind": kind, "metadata": meta, "spec": {"mine": True}}
    world.cluster.objects.create(resource, foreign)
    world.policy()
    await world.settle(5)
    assert world.says("Ready")["reason"] == "ChildConflict"
    assert "'support-v1'" in world.says("Ready")["message"]
    found = world.cluster.objects.get(resource, b.NAMESPACE, "support-v1")
    assert found is not None
    assert found["spec"] == {"mine": True}
    world.cluster.objects.remove(resource, b.NAMESPACE, "support-v1")
    await world.run_until(ended(world))


async def test_no_row_of_the_history_is_lost() -> None:
    world = Served()
    world.policy()
    world.remember(20)
    await through_its_end(world)
    kept = world.cluster.objects.select("configmaps", labels={LABEL_COMPONENT: "history"})
    archived = [row["number"] for obj in kept for row in json.loads(obj["data"]["rows.json"])]
    assert archived + [row["number"] for row in world.rollout()["history"]] == list(range(1, 24))
    assert [obj["metadata"]["name"] for obj in kept] == ["support-history-1"]
    assert kept[0]["immutable"]


async def test_the_list_of_versions_keeps_those_that_are_served() -> None:
    world = Served()
    world.people.away = True
    world.submit(b.dataset())
    world.policy()
    await world.run_until(lambda: world.rollout().get("percent") == 10)
    for number in range(3, 21):
        world.publish(number)
    world.submit(b.run("more", publishTo={"name": "support"}))
    await world.run_until(lambda: world.status("RLPolicy", "support")["nextVersion"] == 22)
    numbers = [row["version"] for row in world.status("RLPolicy", "support")["versions"]]
    assert numbers == [1, 2, *range(4, 22)]
    assert world.rollout()["candidate"] == 2


async def test_an_unreadable_status_leaves_the_servers_alone_and_its_numbers_rise() -> None:
    world = await through(Served())
    obj = world.object("RLPolicy", "support")
    world.cluster.watchers.clear()
    broken = {**obj["status"], "ledger": "gone", "conditions": []}
    world.cluster.objects.set_status("rlpolicies", obj, broken)
    world.cluster.watchers.append(world._watch)
    for operator in world.operators:
        operator.restart()
    await world.settle(5)
    assert world.children("deployments") == ["support-router", "support-v2"]
    rollout = world.rollout()
    assert (rollout["rows"], rollout["settledUpTo"], rollout["experiments"]) == (4, 2, 1)


async def end_of(world: Served) -> dict[str, Any]:
    await through(world)
    state = masked(world)
    for obj in state.values():
        # who was annotated how often, and how many people had come, is time, too
        obj["metadata"].get("annotations", {}).pop("ratchet.dev/table", None)
        if obj["kind"] == "RLPolicy":
            obj["status"]["rollout"].pop("verdict")
            obj["status"]["rollout"]["history"] = [{**row, "why": ""} for row in obj["status"]["rollout"]["history"]]
            obj["status"]["ledger"] = [row["version"] for row in obj["status"]["ledger"]]
    return state


async def writes() -> list[Call]:
    world = Served()
    await end_of(world)
    return [call for call in world.cluster.log if call.writes and call.verb != "emit"]


async def test_a_crash_at_any_write_of_a_rollout_ends_as_if_there_had_been_none() -> None:
    """P4: killed before one write and after the next, and each is made once more or found to be there.

    Between two writes there is nothing to lose: the process has no other memory.
    """
    want, numbers = await end_of(Served()), [call.number for call in await writes()]
    assert len(numbers) >= 25
    for place, number in enumerate(numbers):
        world = Served(fault=CrashAt(number, after=bool(place % 2)))
        assert await end_of(world) == want, number
        assert world.crashes == 1, number


async def test_two_operators_at_once_roll_out_like_one() -> None:
    want = await end_of(Served())
    assert await end_of(Served(fault=NoFault(), operators=2)) == want


async def test_a_settled_policy_is_left_alone() -> None:
    world = await through(Served())
    before = len([call for call in world.cluster.log if call.writes])
    await world.settle(70)  # a resync among them
    assert len([call for call in world.cluster.log if call.writes]) == before


async def test_a_deleted_policy_takes_its_children_along() -> None:
    world = await through(Served())
    world.delete("RLPolicy", "support")
    await world.settle(3)
    held = ("deployments", "services", "configmaps", "poddisruptionbudgets")
    assert not any(world.children(resource) for resource in held)


async def test_a_long_name_fits_every_child() -> None:
    world = Served()
    name = f"{'long.' * 40}name"
    world.policy(name=name)
    await world.run_until(lambda: world.status("RLPolicy", name).get("champion") == 2)
    assert all(len(child) <= 63 for child in world.children("deployments"))
    assert server_name(name, 2) in world.children("services")


async def test_a_users_own_number_is_asked_of_the_version_on_trial_and_takes_it_out() -> None:
    """P34."""
    world, asked = Served(), set()

    def prometheus(query: str) -> float:
        asked.add(query)
        return 0.9 if query.startswith("lost") else float(len(world.cluster.log))

    world.cluster.gauges = prometheus
    places = 'lost{v="{{version}}",c="{{champion}}",p="{{policy}}",n="{{namespace}}"}'
    query = {"name": "lost carts", "query": places, "alive": "asked{{version}}", "most": 0.5, "seconds": 20}
    world.policy(rollout=ROLLOUT | {"judged": ROLLOUT["judged"] | {"queries": [query]}})
    await world.settle(30)
    assert asked == {f'lost{{v="2",c="1",p="support",n="{b.NAMESPACE}"}}', "asked2"}
    assert world.status("RLPolicy", "support")["champion"] == 1
    assert "lost carts is 0.9, above 0.5 for" in world.rollout()["history"][-1]["why"]


async def test_a_test_of_several_versions_is_counted_by_version_and_its_best_is_promoted() -> None:
    world = Served()
    arms = [{"version": 2, "percent": 20}, {"version": 3, "percent": 25}]
    world.policy(3, rollout=ROLLOUT | {"abTest": {"arms": arms, "seconds": 120, "promoteBest": True}})
    await world.run_until(lambda: world.status("RLPolicy", "support").get("champion") == 3)
    await world.settle(4)
    test = world.rollout()["abTest"]
    assert [(arm["version"], arm["verdict"]["outcome"]) for arm in test["arms"]] == [
        (2, "Successful"),
        (3, "Successful"),
    ]
    assert "Version 3 is the best of versions 2 and 3" in test["result"]
    assert world.children("deployments") == ["support-router", server_name("support", 3)]
    assert events(world).count("CandidateExposed") == 1


async def test_a_version_with_other_labels_is_refused_with_the_labels_and_the_remedy() -> None:
    world = Served()
    world.labels = {1: ["billing", "login"], 2: ["billing", "refund"]}
    world.policy()
    await world.settle(20)
    said = world.says("RolledOut")
    assert (said["status"], said["reason"]) == ("False", "OtherLabels")
    assert "Version 2 is not tried: its labels are not those of version 1" in said["message"]
    assert "added 'refund', removed 'login'" in said["message"]
    assert "spec.rollout.allowOtherLabels: true" in said["message"]
    assert (world.status("RLPolicy", "support")["state"], world.says("Ready")["status"]) == ("OtherLabels", "True")
    assert events(world).count("OtherLabels") == 1
    assert world.children("deployments") == ["support-router", "support-v1"]
    world.edit("RLPolicy", "support", {"spec": {"rollout": {"allowOtherLabels": True}}})
    await through_its_end(world)
    assert world.status("RLPolicy", "support")["champion"] == 2
