"""Runs and policies of generators: the same pipeline as a classifier's, told what they are, on demonstrations only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ratchet_api.stage import StageInput
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
