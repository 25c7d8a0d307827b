"""Runs and policies of generators: the same pipeline as a classifier's, told what they are, on demonstrations only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.attempts import Artifact
from ratchet_api.names import ANNOTATION_PROMOTE
from ratchet_api.stage import EvaluateConfig, ResolveConfig, RewardModelConfig, RlConfig, StageInput
from ratchet_gateway.policies import FixedPolicies, PolicyView
from ratchet_gateway.training import LocalTraining
from ratchet_operator.cluster.memory_jobs import Act, golden
from tests.gateway_app import TEMPLATE, running
from tests.world import builders as b
from tests.world.harness import NAMESPACE, World

SHOWN = b.dataset(type="demonstrations")


def remembering(told: list[StageInput]) -> Any:
    def play(stage: StageInput, pod: int) -> Act:
        told.append(stage)
        return golden(stage, pod)

    return play


async def test_a_generators_run_goes_through_its_stages_and_each_is_told_what_it_trains() -> None:
    told: list[StageInput] = []
    world = World(remembering(told))
    world.submit(SHOWN, b.policy(type="generator"), b.run(policyType="generator", publishTo={"name": "support"}))
    status = await world.finish()
    assert status["version"] == 1
    stages = {stage.config.stage: stage.config.to_wire().get("policyType") for stage in told}
    assert stages == {
        "snapshot": None,
        "resolve": "generator",
        "supervised": "generator",
        "evaluate": "generator",
    }


async def test_a_generator_and_a_classifier_of_equal_settings_never_share_a_result() -> None:
    digests = []
    for kind, dataset in (("generator", SHOWN), ("classifier", b.dataset())):
        world = World()
        world.submit(dataset, b.run(policyType=kind))
        await world.finish()
        digests.append({row["name"]: row.get("inputDigest") for row in world.status()["stages"]})
    for stage in ("supervised", "evaluate"):
        assert digests[0][stage] != digests[1][stage]


@pytest.mark.parametrize(
    ("kind", "dataset", "want"),
    [
        ("generator", b.dataset(), "has type 'classification', 'demonstrations' is needed here"),
        ("classifier", SHOWN, "has type 'demonstrations', 'classification' is needed here"),
    ],
)
async def test_a_dataset_of_the_other_type_stalls_the_run(kind: str, dataset: dict[str, Any], want: str) -> None:
    """P14."""
    world = World()
    world.submit(dataset, b.run(policyType=kind))
    await world.run_until(lambda: world.condition("Stalled").get("reason") == "DatasetTypeMismatch")
    assert want in world.condition("Stalled")["message"]
    assert "router-resolve-1" not in world.jobs()


async def test_a_generator_is_not_published_to_a_classifiers_policy() -> None:
    world = World()
    world.submit(SHOWN, b.policy(), b.run(policyType="generator", publishTo={"name": "support"}))
    await world.run_until(lambda: world.condition("Stalled").get("reason") == "PolicyTypeMismatch")
    assert (
        "spec.policyType is 'generator', but RLPolicy 'support' has spec.type 'classifier'"
        in (world.condition("Stalled")["message"])
    )


async def test_a_generators_policy_stamps_runs_of_generators() -> None:
    world = World()
    world.submit(SHOWN, b.policy(type="generator", training={"template": b.template()}))
    await world.settle(80)
    run = next(iter(world.cluster.objects.select("rltrainingruns")))
    assert run["spec"]["policyType"] == "generator"
    assert world.status("RLPolicy", "support")["versions"][0]["run"] == run["metadata"]["name"]


def test_asking_to_train_a_generator_makes_demonstrations_of_the_feedback(tmp_path: Path) -> None:
    world, submitted = World(), []
    world.submit(b.policy("helper", type="generator", training={"template": TEMPLATE.to_wire(), "suspend": True}))

    def submit(body: dict[str, Any]) -> None:
        submitted.append(body)
        world.submit(body)

    training = LocalTraining(submit, lambda plural, name: world.cluster.objects.get(plural, NAMESPACE, name))
    policies = FixedPolicies({"helper": PolicyView("helper", (), TEMPLATE, "generator")})
    with running(tmp_path, policies=policies, training=training, namespace=NAMESPACE) as gateway:
        events = [{"type": "score", "score": n % 2, "policy": "helper", "idempotencyKey": f"k{n}"} for n in range(12)]
        gateway.post("/v1/feedback", {"events": events})
        name = gateway.post("/api/policies/train_policy/helper", {}).json()["runName"]
        asyncio.run(world.finish(name))
    dataset, run = submitted
    assert (dataset["spec"]["type"], run["spec"]["policyType"]) == ("demonstrations", "generator")
    assert world.status(name=name)["version"] == 1


# learning from rewards

LIKED = {
    "policyType": "generator",
    "mode": "supervised_then_rl",
    "stages": {"rewardModel": {"datasetRef": {"name": "liked"}}},
    "publishTo": {"name": "support"},
}
FORMULA = {"rlhf": {"rewards": [{"type": "expression", "expression": "ended"}]}}


def liked(kind: str = "ratings") -> dict[str, Any]:
    return b.dataset("liked", type=kind, split={"salt": "liked"})


async def test_a_run_with_a_reward_model_trains_it_on_the_supervised_policy_and_tells_rl_and_evaluate_of_it() -> None:
    told: list[StageInput] = []
    world = World(remembering(told))
    world.submit(SHOWN, liked(), b.policy(type="generator"), b.run(**LIKED))
    assert (await world.finish())["version"] == 1
    by_stage = {stage.config.stage: stage.config for stage in told if stage.owner.kind == "RLTrainingRun"}
    assert list(by_stage) == ["resolve", "supervised", "reward-model", "rl", "evaluate"]
    judge, rl, evaluate = by_stage["reward-model"], by_stage["rl"], by_stage["evaluate"]
    assert isinstance(judge, RewardModelConfig)
    assert isinstance(rl, RlConfig)
    assert isinstance(evaluate, EvaluateConfig)
    assert judge.dataset.digest == world.status()["resolved"]["log"]["digest"] != rl.dataset.digest
    assert judge.start == rl.start
    assert judge.start is not None
    assert judge.start.stage == "supervised"
    assert rl.log is None
    assert rl.reward_model == evaluate.reward_model
    assert evaluate.reward_model is not None
    assert [ref.stage for ref in evaluate.candidates] == ["rl", "supervised"]
    assert evaluate.rlhf == rl.rlhf


@pytest.mark.parametrize("asked", [True, False])
async def test_the_champions_answers_are_compared_where_a_judge_is_named(asked: bool) -> None:
    """Without one nothing would say whose are better, and a promotion would measure everything anew."""
    told: list[StageInput] = []
    world = World(remembering(told))
    published = {"publishTo": {"name": "support"}}
    world.submit(SHOWN, b.policy(type="generator"), b.run("first", policyType="generator", **published))
    await world.finish("first")
    world.edit("RLPolicy", "support", {"metadata": {"annotations": {ANNOTATION_PROMOTE: "1"}}})
    await world.settle(2)
    judge = {"evaluate": {"judge": b.PAIR_JUDGE}} if asked else {}
    world.submit(b.run(**LIKED | published | {"stages": FORMULA | judge}))
    await world.finish()
    *_, evaluate = [each.config for each in told if each.config.stage == "evaluate" and each.owner.name == "router"]
    assert isinstance(evaluate, EvaluateConfig)
    first = world.status("RLPolicy", "support")["versions"][0]
    want = Artifact(uri=first["uri"], digest=first["digest"]) if asked else None
    assert evaluate.champion == want


async def test_rewards_by_formula_alone_need_no_reward_model() -> None:
    told: list[StageInput] = []
    world = World(remembering(told))
    world.submit(SHOWN, b.policy(type="generator"), b.run(**LIKED | {"stages": FORMULA}))
    await world.finish()
    assert [row["name"] for row in world.status()["stages"]] == ["resolve", "supervised", "rl", "evaluate"]
    resolve = next(each.config for each in told if each.config.stage == "resolve")
    assert isinstance(resolve, ResolveConfig)
    assert [each.type for each in resolve.rewards["spec.stages.rlhf.rewards"]] == ["expression"], "looked at first"


async def test_other_judged_answers_change_the_reward_model_and_all_after_it_and_nothing_before() -> None:
    digests = []
    for salt in ("liked", "more"):
        world = World()
        world.submit(SHOWN, b.dataset("liked", type="ratings", split={"salt": salt}), b.run(**LIKED))
        world.submit(b.policy(type="generator"))
        await world.finish()
        digests.append({row["name"]: row.get("inputDigest") for row in world.status()["stages"]})
    same = {name for name in digests[0] if digests[0][name] == digests[1][name]}
    assert same == {"resolve", "supervised"}


@pytest.mark.parametrize("code", [30, 31])
async def test_rl_that_had_to_stop_publishes_the_supervised_generator(code: int) -> None:
    """P13."""

    def play(stage: StageInput, pod: int) -> Act:
        return Act(exit_code=code) if stage.config.stage == "rl" else golden(stage, pod)

    world = World(play)
    world.submit(SHOWN, liked(), b.policy(type="generator"), b.run(**LIKED))
    status = await world.finish()
    assert (status["state"], status["version"]) == ("Complete", 1)
    assert world.condition("GatePassed")["reason"] == "RLFailed"
    assert "stages.rlhf" in world.condition("GatePassed")["message"]


async def test_judged_answers_of_a_type_that_judges_nothing_stall_the_run() -> None:
    """P14."""
    world = World()
    world.submit(SHOWN, liked("demonstrations"), b.run(**LIKED))
    await world.run_until(lambda: world.condition("Stalled").get("reason") == "DatasetTypeMismatch")
    said = world.condition("Stalled")["message"]
    assert "spec.stages.rewardModel.datasetRef.name 'liked'" in said
    assert "has type 'demonstrations', 'preferences' or 'ratings' is needed here" in said


async def test_judged_answers_that_become_ready_wake_the_run() -> None:
    world = World()
    world.submit(SHOWN, b.policy(type="generator"), b.run(**LIKED))
    await world.run_until(lambda: world.condition("DataReady").get("reason") == "DatasetNotFound")
    world.submit(liked())
    assert (await world.finish())["version"] == 1


# learning from judged answers

PAIRS: dict[str, Any] = {"type": "preferences", "source": {"feedback": {"policyRef": {"name": "support"}}}}


def preferring(**settings: Any) -> dict[str, Any]:
    return LIKED | {"stages": {"preference": {"datasetRef": {"name": "liked"}} | settings}}


async def test_a_run_that_learns_from_pairs_has_no_reward_model_and_tells_rl_and_evaluate_the_same_pairs() -> None:
    told: list[StageInput] = []
    world = World(remembering(told))
    world.submit(SHOWN, b.dataset("liked", **PAIRS), b.policy(type="generator"), b.run(**preferring()))
    assert (await world.finish())["version"] == 1
    by_stage = {stage.config.stage: stage.config for stage in told if stage.owner.kind == "RLTrainingRun"}
    assert list(by_stage) == ["resolve", "supervised", "rl", "evaluate"]
    rl, evaluate = by_stage["rl"], by_stage["evaluate"]
    assert isinstance(rl, RlConfig)
    assert isinstance(evaluate, EvaluateConfig)
    assert by_stage["resolve"].to_wire().get("rewards", {}) == {}, "no answer of its own is rewarded"
    assert rl.log is not None
    assert rl.log == evaluate.log
    assert rl.preference == evaluate.preference
    assert rl.rlhf is evaluate.rlhf is None
    assert [ref.stage for ref in evaluate.candidates] == ["rl", "supervised"]


async def test_other_pairs_change_what_learns_from_them_and_nothing_before() -> None:
    digests = []
    for salt in ("liked", "more"):
        world = World()
        world.submit(SHOWN, b.dataset("liked", **PAIRS, split={"salt": salt}), b.run(**preferring()))
        world.submit(b.policy(type="generator"))
        await world.finish()
        digests.append({row["name"]: row.get("inputDigest") for row in world.status()["stages"]})
    assert {name for name in digests[0] if digests[0][name] == digests[1][name]} == {"resolve", "supervised"}


async def test_pairs_are_what_dpo_needs_and_ratings_do_for_kto() -> None:
    """P14."""
    world = World()
    world.submit(SHOWN, liked("ratings"), b.run(**preferring()))
    await world.run_until(lambda: world.condition("Stalled").get("reason") == "DatasetTypeMismatch")
    said = world.condition("Stalled")["message"]
    assert "spec.stages.preference.datasetRef.name 'liked'" in said
    assert "has type 'ratings', 'preferences' is needed here" in said
    world = World()
    world.submit(SHOWN, liked("ratings"), b.policy(type="generator"), b.run(**preferring(algorithm="kto")))
    assert (await world.finish())["version"] == 1
