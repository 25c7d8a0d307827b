"""Runs with RL: which stages a mode has, what starts what, and that nothing worse than before is ever published."""

from __future__ import annotations

from typing import Any

import pytest

from ratchet_api.names import ANNOTATION_PROMOTE
from ratchet_api.stage import EvaluateConfig, RlConfig, StageInput
from ratchet_operator.cluster.memory import Fault
from ratchet_operator.cluster.memory_jobs import Act, Play, choice_of, committed, golden
from tests.world import builders as b
from tests.world.harness import CrashAt, NoFault, World, masked

WHY = "accuracy 0.8610 against 0.8740: the difference may be -0.0310, must be >= 0"
GATES = {"gates": [{"metric": "accuracy", "minimum": 0.8}]}
PUBLISHED = {"publishTo": {"name": "support"}}
THEN_RL = {"mode": "supervised_then_rl", **PUBLISHED}
FROM_VERSION = {"mode": "rl_only", "startFrom": {"policy": {"name": "support", "version": 1}}, **PUBLISHED}


def rl_ends(code: int, message: str = '{"state": "Failed", "message": "entropy fell to 0.01"}') -> Play:
    """A world in which the rl stage ends with that code and all else goes well."""

    def play(stage: StageInput, pod: int) -> Act:
        return Act(exit_code=code, message=message) if stage.config.stage == "rl" else golden(stage, pod)

    return play


def rl_is_worse(accuracy: float = 0.87) -> Play:
    """A world in which the evaluation keeps what RL started from, which has that accuracy."""

    def play(stage: StageInput, pod: int) -> Act:
        config = stage.config
        if not isinstance(config, EvaluateConfig) or not (chosen := choice_of(config, chosen="rl")):
            return golden(stage, pod)
        baseline = chosen["choice"]["baseline"]
        return committed(stage, metrics={"accuracy": accuracy}, **choice_of(config, chosen=baseline, why=WHY))

    return play


def told(world: World, job: str) -> Any:
    """What a stage's pod was told."""
    return world.script._stage(world.job(job)).config


def judged(world: World, name: str = "router") -> tuple[str, str, str]:
    gate = world.condition("GatePassed", name=name)
    return world.condition("Complete", name=name).get("status", ""), gate["status"], gate["reason"]


def versions(world: World) -> list[tuple[int, str]]:
    return [(v["version"], v["run"]) for v in world.status("RLPolicy", "support")["versions"]]


async def ended(play: Play = golden, **spec: Any) -> World:
    """A finished run with a policy to publish to."""
    world = World(play)
    world.submit(b.dataset(), b.policy(), b.run(**spec))
    await world.finish()
    return world


async def with_a_version(play: Play = golden) -> World:
    """A policy with one version, which a supervised run made."""
    world = World(play)
    world.submit(b.dataset(), b.policy(), b.run("first", **PUBLISHED))
    await world.finish("first")
    return world


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({}, ["resolve", "supervised", "evaluate"]),
        (THEN_RL, ["resolve", "supervised", "rl", "evaluate"]),
        (
            {"mode": "rl_only", "startFrom": {"artifact": {"uri": "store://runs/a", "sha256": b.SHA}}},
            ["resolve", "rl", "evaluate"],
        ),
    ],
    ids=["supervised", "supervised_then_rl", "rl_only"],
)
async def test_a_mode_has_its_stages_in_order(spec: dict[str, Any], want: list[str]) -> None:
    world = await ended(**spec)
    assert [row["name"] for row in world.status()["stages"]] == want
    assert [row[1] for row in world.script.started if row[1] != "snapshot"] == want
    assert judged(world) == ("True", "True", "NoGates")


async def test_what_rl_made_is_published_when_it_is_not_worse() -> None:
    world = await ended(evaluation=GATES, **THEN_RL)
    assert world.status()["state"] == "Complete"
    assert judged(world) == ("True", "True", "GatePassed")
    assert world.stage("evaluate")["choice"]["chosen"] == "rl"
    assert versions(world) == [(1, "router")]


async def test_each_stage_is_told_what_the_one_before_it_made() -> None:
    world = await ended(evaluation=GATES, **THEN_RL)
    rl, evaluate = told(world, "router-rl-1"), told(world, "router-evaluate-1")
    prefix = "team-a/runs/router-"
    assert rl.start.prefix.startswith(prefix)
    assert rl.start.prefix.endswith("/supervised")
    assert rl.start_artifact is None
    assert [ref.stage.value for ref in evaluate.candidates] == ["rl", "supervised"]
    assert (evaluate.start, evaluate.champion) == (None, None)
    lookups = told(world, "router-resolve-1").lookups
    recorded = {row["name"]: row.get("inputDigest") for row in world.status()["stages"]}
    assert {ref.stage.value: ref.input_digest for ref in lookups} == {
        name: digest for name, digest in recorded.items() if name != "resolve"
    }
    assert len(set(recorded.values())) == 4


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"stages": {"rl": {"learningRate": 1e-4}}}, {"supervised"}),
        ({"stages": {"rl": {"checkpointEverySteps": 9}}}, {"supervised", "rl", "evaluate"}),
        ({"stages": {"rl": {"resources": {"cpu": 8}}}}, {"supervised", "rl", "evaluate"}),
        ({"stages": {"supervised": {"epochs": 5.0}}}, set()),
        ({"evaluation": {"gates": [{"metric": "accuracy", "minimum": 0.5}]}}, {"supervised", "rl"}),
        ({"evaluation": {"comparison": {"margin": 0.1}}}, {"supervised", "rl"}),
        ({"evaluation": {"comparison": {"margin": 0.0}}}, {"supervised", "rl", "evaluate"}),
    ],
    ids=["rl setting", "checkpoints", "resources", "supervised setting", "gate", "comparison", "spelt-out default"],
)
async def test_a_change_makes_new_what_it_touches_and_nothing_else(change: dict[str, Any], same: set[str]) -> None:
    """P6: what is committed for equal inputs is found again."""
    digests = []
    for spec in ({**THEN_RL, "evaluation": GATES}, {**THEN_RL, "evaluation": GATES, **change}):
        world = World()
        evaluation = {**GATES, **spec["evaluation"]}
        world.submit(b.dataset(), b.run(**{**spec, "evaluation": evaluation}))
        await world.run_until(lambda w=world: bool(w.status().get("stages")))
        digests.append({row["name"]: row["inputDigest"] for row in world.status()["stages"] if "inputDigest" in row})
    assert {name for name in digests[0] if digests[0][name] == digests[1][name]} == same


async def test_a_supervised_run_finds_what_a_run_with_rl_trained_before() -> None:
    digests = []
    for spec in ({}, THEN_RL):
        world = await ended(**spec)
        digests.append(world.stage("supervised")["inputDigest"])
    assert digests[0] == digests[1]


# what RL may do wrong


@pytest.mark.parametrize("code", [30, 31, 35])
async def test_numbers_that_go_wrong_in_rl_publish_the_supervised_policy(code: int) -> None:
    world = await ended(rl_ends(code), evaluation=GATES, **THEN_RL)
    assert world.status()["state"] == "Complete"
    assert judged(world) == ("True", "False", "RLFailed")
    message = world.condition("GatePassed")["message"]
    assert "entropy fell to 0.01" in message
    assert "the supervised policy is kept" in message
    assert "stages.rl.learningRate" in message
    assert world.condition("Complete")["message"].startswith("Every stage but rl is committed.")
    assert [row["state"] for row in world.status()["stages"]] == ["Succeeded", "Succeeded", "Failed", "Succeeded"]
    assert world.stage("rl")["attempt"]["number"] == 1
    assert [ref.stage.value for ref in told(world, "router-evaluate-1").candidates] == ["supervised"]
    assert versions(world) == [(1, "router")]
    warnings = [event.reason for event in world.cluster.emitted if event.type == "Warning"]
    assert warnings == ["NotANumber" if code == 30 else "Diverged"]


async def test_an_evaluation_without_rl_is_never_taken_for_one_with_it() -> None:
    """P6: the index must not give the next run of the same spec an answer in which RL had no part."""
    good, failed = await ended(**THEN_RL), await ended(rl_ends(31), **THEN_RL)
    rows = [world.stage("evaluate") for world in (good, failed)]
    assert rows[0]["inputDigest"] != rows[1]["inputDigest"]
    assert told(failed, "router-resolve-1").lookups[-1].input_digest == rows[0]["inputDigest"]
    assert failed.script._stage(failed.job("router-evaluate-1")).input_digest == rows[1]["inputDigest"]


@pytest.mark.parametrize(("code", "reason"), [(11, "BadConfig"), (1, "StageCrashed"), (13, "BadModel")])
async def test_any_other_failure_of_rl_fails_the_run(code: int, reason: str) -> None:
    """P13: only numbers that went wrong say nothing against the data and the settings."""
    world = await ended(rl_ends(code), **THEN_RL)
    assert world.status()["state"] == "Failed"
    assert world.condition("Failed")["reason"] == reason
    assert versions(world) == []
    assert "router-evaluate-1" not in world.jobs()


async def test_a_store_that_is_away_is_waited_for_in_rl_too() -> None:
    def play(stage: StageInput, pod: int) -> Act:
        away = stage.config.stage == "rl" and stage.attempt == 1
        return Act(exit_code=20, message="away") if away else golden(stage, pod)

    world = await ended(play, **THEN_RL)
    assert world.stage("rl")["attempt"]["number"] == 2
    assert judged(world) == ("True", "True", "NoGates")


async def test_rl_that_lost_publishes_the_supervised_policy_with_the_numbers() -> None:
    world = await ended(rl_is_worse(), evaluation=GATES, **THEN_RL)
    assert world.status()["state"] == "Complete"
    assert judged(world) == ("True", "False", "CandidateWorse")
    assert WHY in world.condition("GatePassed")["message"]
    assert "comparison.margin" in world.condition("GatePassed")["message"]
    assert versions(world) == [(1, "router")]
    assert world.status()["metrics"] == {"accuracy": 0.87}


@pytest.mark.parametrize("play", [rl_is_worse(accuracy=0.5), rl_ends(31)], ids=["worse", "failed"])
async def test_a_baseline_that_breaks_a_gate_is_not_published_either(play: Play) -> None:
    gates = {"gates": [{"metric": "accuracy", "minimum": 0.95}]}
    world = await ended(play, evaluation=gates, **THEN_RL)
    assert world.status()["state"] == "GateFailed"
    assert judged(world) == ("True", "False", "GateFailed")
    assert "the supervised policy is kept" in world.condition("GatePassed")["message"].lower()
    assert versions(world) == []


async def test_a_cached_choice_decides_like_a_new_one() -> None:
    """P6: a run whose stages are all committed starts the resolve pod alone and comes to the same end."""

    def play(stage: StageInput, pod: int) -> Act:
        if stage.config.stage != "resolve":
            return golden(stage, pod)
        hit = {"artifact": {"uri": "s3://bucket/root/earlier", "digest": "d" * 64}, "metrics": {"accuracy": 0.87}}
        choice = {"candidate": "rl", "baseline": "supervised", "chosen": "supervised", "why": WHY}
        return committed(stage, hits={"supervised": hit, "rl": hit, "evaluate": {**hit, "choice": choice}})

    world = await ended(play, **THEN_RL)
    assert world.jobs() == ["complaints-snapshot-1", "router-resolve-1"]
    assert judged(world) == ("True", "False", "CandidateWorse")
    assert versions(world) == [(1, "router")]


# where RL starts, and who is champion


async def test_rl_only_starts_from_the_version_as_it_was_at_the_start() -> None:
    world = await with_a_version()
    first = world.status("RLPolicy", "support")["versions"][0]
    world.submit(b.run(**FROM_VERSION))
    await world.finish()
    start = world.status()["resolved"]["start"]
    assert start == {"policy": "support", "version": 1, "uri": first["uri"], "digest": first["digest"]}
    rl, evaluate = told(world, "router-rl-1"), told(world, "router-evaluate-1")
    assert isinstance(rl, RlConfig)
    assert (rl.start, rl.start_artifact.uri, rl.start_artifact.digest) == (None, first["uri"], first["digest"])
    assert [ref.stage.value for ref in evaluate.candidates] == ["rl"]
    assert evaluate.start == rl.start_artifact == told(world, "router-resolve-1").start
    assert evaluate.max_tokens is None
    assert versions(world) == [(1, "first"), (2, "router")]


async def test_rl_only_starts_from_an_artifact_by_digest() -> None:
    artifact = {"uri": "store://runs/it/evaluate/1-x", "sha256": "e" * 64}
    world = await ended(mode="rl_only", startFrom={"artifact": artifact})
    assert told(world, "router-rl-1").start_artifact.to_wire() == {"uri": artifact["uri"], "digest": "e" * 64}
    assert world.status()["resolved"]["start"] == {"policy": "", "uri": artifact["uri"], "digest": "e" * 64}


async def test_a_version_that_is_missing_is_waited_for_with_its_name() -> None:
    """P39: it is said what is wanted and what there is; publishing it lets the run go on."""
    world = World()
    world.submit(b.dataset(), b.run(**FROM_VERSION))
    await world.settle(8)
    stalled = world.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "StartNotFound")
    assert "'support': no such RLPolicy in namespace 'team-a'" in stalled["message"]
    world.submit(b.policy())
    await world.settle(2)
    assert "version 1: RLPolicy 'support' has none yet" in world.condition("Stalled")["message"]
    assert "resolved" not in world.status()
    world.submit(b.run("first", **PUBLISHED))
    await world.finish("first")
    await world.finish()
    assert world.status()["state"] == "Complete"
    assert versions(world) == [(1, "first"), (2, "router")]


@pytest.mark.parametrize("dry", [False, True])
async def test_a_dry_run_counts_rollouts_and_needs_the_start_policy_too(dry: bool) -> None:
    world = await with_a_version() if dry else World()
    if not dry:
        world.submit(b.dataset(), b.policy())
    world.submit(b.run(dryRun=True, stages={"rl": {"interactions": 1000, "rolloutSize": 256}}, **FROM_VERSION))
    await world.settle(8)
    if not dry:
        assert world.condition("Stalled")["reason"] == "StartNotFound"
        return
    # 1000 queries in rollouts of 256: three whole ones and one of 232
    assert world.status()["estimate"] == {
        "stages": ["resolve", "rl", "evaluate"],
        "trainRows": 80,
        "steps": 4,
        "gpus": 0,
    }


async def test_rl_only_that_lost_publishes_nothing_again() -> None:
    world = await with_a_version(rl_is_worse())
    world.submit(b.run(**FROM_VERSION))
    await world.finish()
    assert world.status()["state"] == "GateFailed"
    assert judged(world) == ("True", "False", "CandidateWorse")
    assert world.condition("Published")["reason"] == "CandidateWorse"
    assert versions(world) == [(1, "first")]


async def test_rl_only_whose_numbers_go_wrong_fails() -> None:
    """There is nothing else that the run could publish."""
    world = await with_a_version(rl_ends(31))
    world.submit(b.run(**FROM_VERSION))
    await world.finish()
    assert world.status()["state"] == "Failed"
    assert world.condition("Failed")["reason"] == "Diverged"


async def test_the_champion_at_the_start_is_measured_whatever_is_promoted_later() -> None:
    world = await with_a_version()
    world.submit(b.run("second", seed=2, **PUBLISHED))
    await world.finish("second")
    world.edit("RLPolicy", "support", {"metadata": {"annotations": {ANNOTATION_PROMOTE: "1"}}})
    await world.settle(2)
    world.submit(b.run(**THEN_RL))
    await world.run_until(lambda: "router-resolve-1" in world.jobs())
    world.edit("RLPolicy", "support", {"metadata": {"annotations": {ANNOTATION_PROMOTE: "2"}}})
    await world.finish()
    champion = world.status()["resolved"]["champion"]
    first = world.status("RLPolicy", "support")["versions"][0]
    assert (champion["policy"], champion["version"], champion["digest"]) == ("support", 1, first["digest"])
    assert told(world, "router-evaluate-1").champion.uri == first["uri"]


async def test_a_supervised_run_is_measured_without_the_champion_and_stays_cached_after_a_promotion() -> None:
    world = await with_a_version()
    world.edit("RLPolicy", "support", {"metadata": {"annotations": {ANNOTATION_PROMOTE: "1"}}})
    await world.settle(2)
    world.submit(b.run(**PUBLISHED))
    await world.finish()
    assert "champion" not in world.status()["resolved"]
    assert world.stage("evaluate")["inputDigest"] == world.stage("evaluate", "first")["inputDigest"]


# P4: the operator may die anywhere


def failing_history(fault: Fault) -> World:
    world = World(rl_ends(31), fault=fault)
    world.submit(b.dataset(), b.policy(), b.run(evaluation=GATES, **THEN_RL))
    return world


async def end_of(world: World) -> dict[str, Any]:
    await world.run_until(lambda: world.over(), ticks=600)
    world.operators[0].restart()
    await world.settle(3)
    return masked(world)


@pytest.mark.parametrize("chunk", range(3))
async def test_a_crash_around_a_failed_rl_stage_ends_as_if_there_had_been_none(chunk: int) -> None:
    """P4: before any call and after any write, from the rl stage's Job on; test_crashes has what comes before."""
    world = failing_history(NoFault())
    want = await end_of(world)
    first = next(place for place, call in enumerate(world.cluster.log) if call.name == "router-rl-1")
    calls = world.cluster.log[first:]
    assert len(calls) > 40
    faults = [CrashAt(call.number, after=False) for call in calls]
    faults += [CrashAt(call.number, after=True) for call in calls if call.writes and call.verb != "emit"]
    for fault in faults[chunk::3]:
        again = failing_history(fault)
        end = await end_of(again)
        assert again.crashes == 1, f"call {fault.number} was never made"
        assert end == want, f"a crash at call {fault.number} changed the end"
        assert [row[1] for row in again.script.started].count("rl") == 1
