"""A version is its files and its generation config: each change of the config is a version of its own, and is tried."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ratchet_api.base import digest_of
from ratchet_api.generation import OF_CLASSIFIERS, OF_GENERATORS, KeptGeneration, config_digest
from ratchet_api.policy import RLPolicyStatus
from ratchet_operator.plan.sights import policy_sight
from ratchet_operator.plan.versions import VERSIONS_LIMIT
from tests.world import builders as b
from tests.world.harness import CrashAt
from tests.world.serving import ROLLOUT, Served

COOL, WARM = {"temperature": 0.2}, {"temperature": 0.9}


def rows(world: Served) -> dict[int, tuple[int | None, dict[str, Any] | None]]:
    """Of each version: with whose files it answers, and by which config."""
    status = RLPolicyStatus.model_validate(world.status("RLPolicy", "support"))
    return {
        row.version: (row.variant_of, None if row.generation is None else row.generation.to_wire())
        for row in status.versions
    }


def told(world: Served) -> dict[str, dict[str, Any] | None]:
    """The config that each Deployment of servers is told."""
    found: dict[str, dict[str, Any] | None] = {}
    for deployment in world.cluster.objects.select("deployments"):
        environ = {
            e["name"]: e["value"] for e in deployment["spec"]["template"]["spec"]["containers"][0].get("env", ())
        }
        if "RATCHET_SERVING_VERSION" in environ:
            text = environ.get("RATCHET_SERVING_GENERATION")
            found[deployment["metadata"]["name"]] = None if text is None else json.loads(text)
    return found


def champion(world: Served) -> int | None:
    found: int | None = world.status("RLPolicy", "support").get("champion")
    return found


def generator(**fields: Any) -> Served:
    world = Served()
    world.policy(**({"versions": 1, "type": "generator"} | fields))
    return world


def configure(world: Served, config: dict[str, Any] | None) -> None:
    world.edit("RLPolicy", "support", {"spec": {"serving": {"generation": config}}})


def events(world: Served, reason: str) -> list[str]:
    return [event.message for event in world.cluster.emitted if event.reason == reason]


async def test_a_changed_config_goes_on_trial_against_the_version_whose_files_it_has() -> None:
    """P31: a variant is version and generation config, and reaches people by a trial as any other."""
    world = generator()
    world.people.likes = {1: 0.5, 2: 0.8}
    await world.settle(12)
    assert (rows(world), champion(world)) == ({1: (None, None)}, 1)
    configure(world, COOL)
    await world.settle(8)
    assert rows(world) == {1: (None, None), 2: (1, COOL)}
    assert world.rollout()["candidate"] == 2
    assert told(world) == {"support-v1": None, "support-v2": COOL}
    await world.settle(60)
    assert (champion(world), told(world)) == (2, {"support-v2": COOL}), "a promotion keeps the config"
    ledger = world.status("RLPolicy", "support")["ledger"][-1]
    assert (ledger["version"], ledger["generation"]) == (2, COOL)
    digest = config_digest(KeptGeneration(temperature=0.2))
    configs = [row.get("configs", []) for row in world.rollout()["history"]]
    assert configs == [[], *[[{"version": 2, "config": "temperature 0.2", "digest": digest}]] * 3]


async def test_a_changed_threshold_is_asked_beside_the_champion_first_where_there_is_a_shadow() -> None:
    world = Served()
    shadow = {"percent": 50, "seconds": 10, "minPairs": 300, "maxFlipRate": 0.2}
    world.policy(1, rollout=ROLLOUT | {"shadow": shadow})
    world.people.flips = {2: 0.3}
    await world.settle(12)
    configure(world, {"abstainThreshold": 0.99})
    await world.run_until(lambda: world.rollout().get("settledUpTo") == 2)
    assert world.rollout()["shadow"]["pairs"] >= 300
    assert "Version 2 is taken out, and nobody got it" in world.rollout()["history"][-1]["why"]
    assert champion(world) == 1


async def test_a_changed_threshold_is_a_version_where_gateways_deal_too() -> None:
    world = Served()
    world.policy(1, serving={"httpRoute": {"parentRefs": [{"name": "edge"}]}})
    world.people.likes = {1: 0.3, 2: 0.9}
    await world.settle(12)
    configure(world, {"abstainThreshold": 0.5})
    await world.run_until(lambda: champion(world) == 2)
    assert rows(world)[2] == (1, {"abstainThreshold": 0.5})


async def test_a_config_that_people_like_less_is_taken_out_and_the_champion_stays_as_it_was() -> None:
    """P34."""
    world = generator()
    world.people.likes = {1: 0.7, 2: 0.1}
    await world.settle(12)
    configure(world, WARM)
    await world.settle(40)
    assert (champion(world), told(world)) == (1, {"support-v1": None})
    assert world.rollout()["settledUpTo"] == 2
    await world.settle(20)
    assert set(rows(world)) == {1, 2}, "what was tried is not made again"


async def test_a_config_changed_during_its_trial_is_a_new_experiment() -> None:
    world = generator()
    world.people.likes = {}  # nobody likes anything: the trial stays open
    await world.settle(12)
    configure(world, COOL)
    await world.settle(14)
    before = world.rollout()
    assert (before["candidate"], before["percent"] > 0) == (2, True)
    configure(world, WARM)
    await world.settle(14)
    after = world.rollout()
    assert rows(world)[3] == (2, WARM)
    assert (after["candidate"], after["settledUpTo"]) == (3, 2)
    assert after["experiment"] != before["experiment"]
    assert after["candidateDigest"] == digest_of({"artifact": f"{1:064d}", "generation": WARM})
    assert any("spec.serving.generation was changed, and version 3 is tried" in row["why"] for row in after["history"])


async def test_a_config_taken_back_before_it_was_seen_changes_nothing() -> None:
    world = generator(versions=2)
    world.people.likes = {}
    await world.settle(14)
    configure(world, COOL)
    configure(world, None)
    await world.settle(10)
    assert (set(rows(world)), world.rollout()["candidate"]) == ({1, 2}, 2)


async def test_without_a_trial_a_changed_config_is_champions_at_once_and_can_be_undone() -> None:
    world = generator(rollout=None)
    await world.settle(12)
    configure(world, COOL)
    await world.settle(20)
    assert (champion(world), told(world)) == (2, {"support-v2": COOL})
    world.tell("undo")
    await world.settle(20)
    assert (champion(world), told(world)) == (1, {"support-v1": None}), "and it is not followed again"


async def test_without_a_trial_only_the_champions_files_get_the_config() -> None:
    """Version 2 was on trial: nobody showed that its files are any good."""
    world = generator(versions=2)
    world.people.likes = {}
    await world.settle(14)
    assert world.rollout()["candidate"] == 2
    world.edit("RLPolicy", "support", {"spec": {"rollout": None, "serving": {"generation": COOL}}})
    await world.settle(20)
    assert (rows(world)[3], champion(world)) == ((1, COOL), 3)


async def test_a_config_removed_is_the_same_files_as_they_were_trained() -> None:
    world = generator(rollout=None, serving={"generation": COOL})
    await world.settle(20)
    assert (rows(world)[2], champion(world)) == ((1, COOL), 2)
    configure(world, None)
    await world.settle(20)
    assert (rows(world)[3], champion(world), told(world)) == ((2, None), 3, {"support-v3": None})


async def test_a_waiting_version_gets_the_new_config_and_is_not_passed_over() -> None:
    world = generator(versions=1)
    world.people.likes = {}
    await world.settle(12)
    world.tell("pause")
    await world.settle(2)
    world.publish(2)
    configure(world, COOL)
    await world.settle(12)
    assert rows(world)[3] == (2, COOL)
    assert world.rollout()["candidate"] == 3


async def test_a_published_run_gets_the_config_that_is_asked_for_and_reads_its_own_number() -> None:
    world = Served()
    serving = {"generation": {"abstainThreshold": 0.8}}
    world.submit(b.dataset(), b.policy(serving=serving), b.run(publishTo={"name": "support"}))
    await world.finish()
    await world.settle(40)
    assert rows(world) == {1: (None, {"abstainThreshold": 0.8})}
    configure(world, {"abstainThreshold": 0.9})
    await world.settle(20)
    assert rows(world)[2] == (1, {"abstainThreshold": 0.9})
    assert policy_sight(world.object("RLPolicy", "support")).versions == {
        world.object("RLTrainingRun", "router")["metadata"]["uid"]: 1
    }


ARMS = [
    {"version": 1, "percent": 10, "generation": COOL},
    {"version": 1, "percent": 10, "generation": WARM},
    {"version": 2, "percent": 10},
]


def trying(arms: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return ROLLOUT | {"abTest": {"arms": arms, "seconds": 60} | more}


async def test_two_arms_may_be_the_same_version_with_different_configs() -> None:
    """P31: each has servers, a share, a control group and an experiment of its own; the best keeps its config."""
    world = generator(versions=2, rollout=trying(ARMS, promoteBest=True, seconds=240))
    world.people.likes = {1: 0.4, 2: 0.4, 3: 0.45, 4: 0.95}
    await world.settle(12)
    assert rows(world) == {1: (None, None), 2: (None, None), 3: (1, COOL), 4: (1, WARM)}
    assert told(world) == {"support-v1": None, "support-v2": None, "support-v3": COOL, "support-v4": WARM}
    assert len(world.people.counts) == 3, "each is counted by itself"
    assert events(world, "VersionRegistered")[-2:] == [
        "Version 3 is version 1 with temperature 0.2 (an arm of rollout.abTest).",
        "Version 4 is version 1 with temperature 0.9 (an arm of rollout.abTest).",
    ]
    await world.settle(60)
    assert (champion(world), told(world)) == (4, {"support-v4": WARM})
    assert [arm["version"] for arm in world.rollout()["history"][1]["arms"]] == [3, 4, 2]


@pytest.mark.parametrize("name", [*OF_GENERATORS, *OF_CLASSIFIERS])
async def test_a_setting_of_an_arm_is_told_to_the_arms_servers_alone(name: str) -> None:
    """P16."""
    kind, value = "generator" if name in OF_GENERATORS else "classifier", b.GENERATION[name]
    arms = [{"version": 2, "percent": 10}, {"version": 2, "percent": 10, "generation": {name: value}}]
    world = generator(versions=2, type=kind, rollout=trying(arms, seconds=6000))
    await world.settle(20)
    assert told(world) == {"support-v1": None, "support-v2": None, "support-v3": {name: value}}
    assert [arm["version"] for arm in world.rollout()["abTest"]["arms"]] == [2, 3]


async def test_a_changed_config_of_an_arm_ends_the_test_and_begins_another() -> None:
    world = generator(versions=2, rollout=trying(ARMS[:1], seconds=6000))
    await world.settle(14)
    before = world.rollout()
    world.edit("RLPolicy", "support", {"spec": {"rollout": trying(ARMS[1:2], seconds=6000)}})
    await world.settle(20)
    after = world.rollout()
    assert [arm["version"] for arm in after["abTest"]["arms"]] == [4]
    assert (rows(world)[4], after["experiment"] != before["experiment"]) == ((1, WARM), True)


async def test_an_arms_config_is_put_over_the_versions_own() -> None:
    world = generator(serving={"generation": COOL | {"maxTokens": 50}}, rollout=None)
    await world.settle(14)
    arm = {"version": 2, "percent": 10, "generation": {"maxTokens": 9, "systemPrompt": "Be brief: $(HOME)."}}
    world.edit("RLPolicy", "support", {"spec": {"rollout": trying([arm])}})
    await world.settle(10)
    want = COOL | {"maxTokens": 9, "systemPrompt": "Be brief: $(HOME)."}
    assert told(world)["support-v3"] == want
    texts = json.dumps([obj["spec"] for obj in world.cluster.objects.select("deployments")])
    assert "$(" not in texts, "a kubelet would put a variable there"


async def test_versions_made_for_a_test_are_not_tried_by_themselves() -> None:
    """The test was removed before it began: nobody asked for its arms any more."""
    world = generator(rollout=trying(ARMS[:2]), versions=2)
    world.broken = {1}
    await world.run_until(lambda: 4 in rows(world))
    world.broken.clear()
    world.edit("RLPolicy", "support", {"spec": {"rollout": ROLLOUT | {"abTest": None}}})
    await world.settle(14)
    assert world.rollout()["candidate"] == 2


@pytest.mark.parametrize(
    ("arms", "want"),
    [
        pytest.param([{"version": 9, "percent": 5, "generation": COOL}], "names version 9; there are 1, 2", id="gone"),
        pytest.param([{"version": 1, "percent": 5}], "names version 1, which is champion", id="the champion"),
        pytest.param(
            [{"version": 1, "percent": 5, "generation": {"temperature": 0.5}}],
            "names version 1 with temperature 0.5, which is champion",
            id="the champion by its own config",
        ),
        pytest.param(
            [{"version": 2, "percent": 5}, {"version": 2, "percent": 5, "generation": {"temperature": 0.5}}],
            "names version 2, which is version 2 and named twice",
            id="a version by its own config",
        ),
    ],
)
async def test_arms_that_cannot_be_told_apart_are_held_with_the_reason(arms: list[dict[str, Any]], want: str) -> None:
    world = generator(versions=2)
    obj = world.object("RLPolicy", "support")
    status = {
        **obj["status"],
        "versions": [row | {"generation": {"temperature": 0.5}} for row in obj["status"]["versions"]],
    }
    world.cluster.objects.set_status("rlpolicies", obj, status)
    world.edit("RLPolicy", "support", {"spec": {"rollout": trying(arms)}})
    await world.settle(12)
    assert want in world.says("RolledOut")["message"]
    assert set(rows(world)) == {1, 2}


async def test_the_list_keeps_its_limit_and_what_a_test_needs() -> None:
    """Version 1 would be the first to go, then 2, then 3."""
    arms = [
        {"version": 2, "percent": 5},
        {"version": 1, "percent": 5},
        {"version": 1, "percent": 5, "generation": COOL},
    ]
    world = generator(versions=VERSIONS_LIMIT, champion=VERSIONS_LIMIT, rollout=trying(arms))
    await world.settle(14)
    assert list(rows(world)) == [1, 2, *range(4, VERSIONS_LIMIT + 2)]
    assert [arm["version"] for arm in world.rollout()["abTest"]["arms"]] == [2, 1, VERSIONS_LIMIT + 1]


async def test_a_status_of_before_has_the_same_digests() -> None:
    """An operator that is brought up to date finds the trial that it left."""
    world = generator(versions=2)
    await world.settle(14)
    assert world.rollout()["candidateDigest"] == f"{2:064d}"


async def life(world: Served) -> dict[str, Any]:
    """A config is tried and promoted, then two arms of a test; what is left at the end."""
    world.policy(1, type="generator")
    world.people.likes = {1: 0.3, 2: 0.6, 3: 0.6, 4: 0.9}
    await world.settle(14)
    configure(world, COOL)
    await world.run_until(lambda: champion(world) == 2)
    configs: list[tuple[int, dict[str, Any]]] = [(2, WARM), (1, {"topP": 0.5})]
    arms = [{"version": version, "percent": 20, "generation": config} for version, config in configs]
    world.edit("RLPolicy", "support", {"spec": {"rollout": trying(arms, seconds=100, promoteBest=True)}})
    await world.run_until(lambda: champion(world) == 4)
    await world.settle(20)
    return {
        "rows": rows(world),
        "told": told(world),
        "champion": champion(world),
        "rollout": world.rollout()["serving"],
    }


async def test_a_crash_at_any_write_of_the_status_gives_no_number_twice() -> None:
    """P4: killed before one write and after the next. Writes of children are tried with every rollout."""
    world = Served()
    want = await life(world)
    assert want["rows"] == {1: (None, None), 2: (1, COOL), 3: (2, WARM), 4: (1, {"topP": 0.5})}
    assert want["told"] == {"support-v4": {"topP": 0.5}}
    writes = [call.number for call in world.cluster.log if call.writes and call.resource == "rlpolicies"]
    assert len(writes) > 15
    for place, number in enumerate(writes[::2]):
        world = Served(fault=CrashAt(number, after=bool(place % 2)))
        assert await life(world) == want, number
        assert world.crashes == 1, number


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_asked_numbers_rise_and_each_keeps_its_files_and_config(seed: int) -> None:
    """Random lives: configs, tests, commands and broken servers in any order."""
    dice, world, seen = random.Random(seed), generator(versions=2), dict[int, tuple[Any, Any]]()
    configs: list[dict[str, Any] | None] = [None, COOL, WARM, {"systemPrompt": "Be brief."}]
    for _ in range(25):
        match dice.randrange(5):
            case 0:
                configure(world, dice.choice(configs))
            case 1:
                some = [{"version": dice.choice(sorted(rows(world))), "percent": 10} for _ in range(2)]
                config = dice.choice(configs)
                some = [arm | ({"generation": config} if config else {}) for arm in some[: 1 + dice.randrange(2)]]
                some = some if len({arm["version"] for arm in some}) == len(some) else some[:1]
                test = None if dice.random() < 0.4 else {"arms": some, "seconds": dice.choice([20, 200])}
                world.edit("RLPolicy", "support", {"spec": {"rollout": ROLLOUT | {"abTest": test}}})
            case 2:
                world.tell(f"{dice.choice(['pause', 'resume', 'abort', 'promote', 'undo'])}:{dice.random()}")
            case 3:
                world.broken = set(dice.sample(sorted(rows(world)), k=dice.randrange(2)))
            case _:
                number = world.status("RLPolicy", "support")["nextVersion"]
                world.publish(number)
        await world.settle(dice.choice([1, 4, 12]))
        for number, row in rows(world).items():
            assert seen.setdefault(number, row) == row, f"version {number} is another one now"
        served = told(world)
        for number, (_, config) in rows(world).items():
            assert served.get(f"support-v{number}", config) == config
    world.broken = set()
    world.edit("RLPolicy", "support", {"spec": {"rollout": None}})
    await world.settle(30)
    assert world.rollout()["serving"] == champion(world)
    assert list(told(world)) == [f"support-v{champion(world)}"]
