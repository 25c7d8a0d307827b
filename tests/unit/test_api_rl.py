"""The rl stage's settings: what is taken, what is refused, and that the API server will be able to say the same."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ratchet_api import rules_of_rl
from ratchet_api.rl import Reward, RlStage, StartFrom
from ratchet_api.schema import structural_schema
from ratchet_api.stage import DatasetRef, RlConfig, Stage, StageRef

DIGEST = "0" * 64
ARTIFACT = {"uri": "store://runs/it/evaluate", "sha256": DIGEST}
POLICY = {"name": "router", "version": 3}
RISING = [{"atInteraction": 0, "weight": 0}, {"atInteraction": 9, "weight": 1}]

ACCEPTED = [
    pytest.param(RlStage, {}, id="nothing: the defaults"),
    pytest.param(RlStage, {"rewards": [{"type": "f1", "weight": 0.5}, {"type": "calibration"}]}, id="a weighted sum"),
    pytest.param(RlStage, {"rewards": [{"type": "f1", "curriculum": RISING}]}, id="a curriculum in order"),
    pytest.param(RlStage, {"algorithm": "dqn", "explorationEpsilon": {"start": 0.2, "end": 0.2}}, id="dqn's fields"),
    pytest.param(RlStage, {"rolloutSize": 64, "minibatchSize": 64, "bufferCapacity": 64}, id="sizes that just fit"),
    pytest.param(Reward, {"type": "expression", "expression": "correct - 0.1 * entropy"}, id="an expression"),
    pytest.param(Reward, {"type": "entryPoint", "entryPoint": "team.rewards:by_cost"}, id="own code"),
    pytest.param(StartFrom, {"policy": POLICY}, id="start from a version"),
    pytest.param(StartFrom, {"artifact": ARTIFACT}, id="start from an artifact"),
]  # fmt: skip

REFUSED = [
    (StartFrom, {}, "exactly one of policy and artifact", "start from nothing"),
    (StartFrom, {"policy": POLICY, "artifact": ARTIFACT}, "exactly one of policy and artifact", "start from two"),
    (StartFrom, {"artifact": {**ARTIFACT, "sha256": "x"}}, "sha256", "a digest that is none"),
    (RlStage, {"learningRate": 10}, "learningRate", "lr 10"),
    (RlStage, {"learningRate": float("nan")}, "learningRate", "lr that is no number"),
    (RlStage, {"algorithm": "sarsa"}, "algorithm", "an unknown algorithm"),
    (RlStage, {"interactions": 0}, "interactions", "no interactions"),
    (RlStage, {"nodes": 3}, "minibatchSize 16 must be a multiple of nodes 3", "a minibatch that nodes cannot share"),
    (RlStage, {"minibatchSize": 300}, "minibatchSize 300 must not be above rolloutSize 256", "minibatch above rollout"),
    (RlStage, {"bufferCapacity": 255}, "bufferCapacity 255 must not be below rolloutSize 256", "a small buffer"),
    (RlStage, {"explorationEpsilon": {}}, "explorationEpsilon is only for algorithm dqn", "epsilon for ppo"),
    (RlStage, {"targetUpdateInterval": 5}, "targetUpdateInterval is only for algorithm dqn", "target network for ppo"),
    (RlStage, {"algorithm": "a2c", "targetKl": 0.1}, "targetKl is only for algorithm ppo", "early stop for a2c"),
    (RlStage, {"algorithm": "dqn", "verdictCoef": 1}, "verdictCoef is only for algorithm ppo", "verdicts for dqn"),
    (RlStage, {"algorithm": "dqn", "explorationEpsilon": {"start": 0.1, "end": 0.2}}, "end 0.2 must", "epsilon rises"),
    (RlStage, {"rewards": []}, "rewards", "no reward"),
    (RlStage, {"rewards": [{"type": "accuracy"}] * 17}, "rewards", "seventeen rewards"),
    (Reward, {"type": "speed"}, "type", "an unknown reward"),
    (Reward, {"type": "expression"}, "type expression needs expression", "expression without one"),
    (Reward, {"type": "accuracy", "expression": "1"}, "expression is only for type expression", "expression elsewhere"),
    (Reward, {"type": "entryPoint", "entryPoint": "os.system"}, "entryPoint", "entry point without a function"),
    (Reward, {"type": "latency"}, "type latency needs targetMs", "latency without a target"),
    (Reward, {"type": "costMatrix"}, "type costMatrix needs costs", "cost matrix without costs"),
    (Reward, {"type": "f1", "scale": 0}, "scale must not be 0", "a reward that says nothing"),
    (Reward, {"type": "f1", "clip": {"minimum": 1, "maximum": 1}}, "minimum 1.0 must be below", "an empty clip"),
    (Reward, {"type": "f1", "weight": 1, "curriculum": [{"atInteraction": 0, "weight": 1}]}, "exclude", "two weights"),
    (
        Reward,
        {"type": "f1", "curriculum": [{"atInteraction": 9, "weight": 0}, {"atInteraction": 0, "weight": 1}]},
        r"curriculum must ascend in atInteraction, not \[9, 0\]",
        "curriculum out of order",
    ),
    (
        Reward,
        {"type": "f1", "curriculum": [{"atInteraction": 5, "weight": 0}, {"atInteraction": 5, "weight": 1}]},
        r"curriculum must ascend in atInteraction, not \[5, 5\]",
        "a curriculum with two weights at once",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("model", "spec"), ACCEPTED)
def test_the_model_accepts_and_repeats(model: type[BaseModel], spec: dict[str, Any]) -> None:
    parsed = model.model_validate(spec)
    wire = parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert model.model_validate(wire) == parsed


@pytest.mark.parametrize(("model", "spec", "want"), [pytest.param(*case[:3], id=case[3]) for case in REFUSED])
def test_the_model_refuses_with_the_cause(model: type[BaseModel], spec: dict[str, Any], want: str) -> None:
    with pytest.raises(ValidationError, match=want):
        model.model_validate(spec)


@pytest.mark.parametrize("model", [RlStage, StartFrom])
def test_every_field_is_bounded_and_described_as_a_crd_needs_it(model: type[BaseModel]) -> None:
    schema = structural_schema(model)
    assert set(schema["properties"]) == {field.alias for field in model.model_fields.values()}


def test_every_validator_has_its_rule_for_the_server() -> None:
    """R31: what a model's validators refuse, CEL refuses."""
    judged = {model for model, _, want, _ in REFUSED if "must" in want or "only for" in want or "exactly" in want}
    assert judged <= set(rules_of_rl.RL_RULES)
    # one rule per way to be wrong: four members of the union, two fields of one type, no scale of 0, one weight, an
    # ordered curriculum; two sizes, even shares, five fields of one algorithm, four about a log
    assert len(rules_of_rl.RL_RULES[Reward]) == 9
    assert len(rules_of_rl.RL_RULES[RlStage]) == 12


CONFIG = {"dataset": {"digest": DIGEST, "prefix": "ns/snapshots/0"}, "hyper": {}, "seed": 0}
COMMITTED = {"uri": "s3://bucket/ns/runs/it/evaluate", "digest": DIGEST}
START = StageRef(stage=Stage.SUPERVISED, prefix="ns/runs/it/supervised", input_digest=DIGEST).to_wire()


def test_a_stage_starts_from_a_commit_or_an_artifact_and_never_both() -> None:
    assert RlConfig.model_validate({**CONFIG, "start": START}).dataset == DatasetRef.model_validate(CONFIG["dataset"])
    assert RlConfig.model_validate({**CONFIG, "startArtifact": COMMITTED}).start is None
    for wrong in ({}, {"start": START, "startArtifact": COMMITTED}):
        with pytest.raises(ValidationError, match="exactly one of start and startArtifact"):
            RlConfig.model_validate({**CONFIG, **wrong})
