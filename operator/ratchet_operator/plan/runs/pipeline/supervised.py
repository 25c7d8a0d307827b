"""supervised: teaches the base model the dataset's labels, or a generator the answers to follow. Pure."""

from __future__ import annotations

from typing import Any

from ratchet_api.policy_types import GENERATOR
from ratchet_api.resolved import ResolvedRun
from ratchet_api.stage import Stage, SupervisedConfig
from ratchet_api.steps import total_steps
from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_operator.plan.runs.pipeline.kind import Deciding, Digests, StageKind, Told, wire_without


def _deciding(spec: RLTrainingRunSpec, resolved: ResolvedRun, _earlier: Digests) -> Deciding:
    settings: dict[str, Any] = {
        "lora": wire_without(spec.lora),
        "hyper": wire_without(spec.stages.supervised, "resources", "nodes", "checkpointEverySteps"),
        "seed": spec.seed,
    }
    if spec.policy_type == GENERATOR:
        settings["policyType"] = GENERATOR
    return Deciding(settings, {"dataset": resolved.dataset_digest, "baseModel": spec.base_model.sha256})


def _config(told: Told) -> SupervisedConfig:
    spec = told.spec
    return SupervisedConfig(
        policy_type=spec.policy_type,
        dataset=told.dataset,
        base_model=spec.base_model,
        lora=spec.lora,
        hyper=spec.stages.supervised,
        seed=spec.seed,
    )


def _steps(spec: RLTrainingRunSpec, train_rows: int) -> int:
    hyper = spec.stages.supervised
    return total_steps(train_rows, hyper.batch_size, hyper.epochs)


SUPERVISED = StageKind(
    stage=Stage.SUPERVISED,
    resources=lambda spec: spec.stages.supervised.resources,
    nodes=lambda spec: spec.stages.supervised.nodes,
    config=_config,
    deciding=_deciding,
    steps=_steps,
)
