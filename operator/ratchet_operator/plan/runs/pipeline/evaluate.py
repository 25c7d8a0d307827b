"""evaluate: measures the trained policy on the held-out split and commits it, calibrated. Pure."""

from __future__ import annotations

from ratchet_api.stage import EvaluateConfig, Stage
from ratchet_api.training_run import ResolvedRun, RLTrainingRunSpec
from ratchet_operator.plan.runs.pipeline.kind import Deciding, Digests, StageKind, Told, parent, wire_without


def _deciding(spec: RLTrainingRunSpec, resolved: ResolvedRun, earlier: Digests) -> Deciding:
    settings = {
        # the gates' bounds judge the numbers, they do not make them; a gated class adds one number
        "evaluation": wire_without(spec.evaluation, "gates"),
        "gateLabels": sorted({gate.label for gate in spec.evaluation.gates if gate.label is not None}),
        "maxTokens": spec.stages.supervised.max_tokens,
        "seed": spec.seed,
    }
    parents = {"dataset": resolved.dataset_digest, "candidate": parent(earlier, Stage.SUPERVISED)}
    return Deciding(settings, parents)


def _config(told: Told) -> EvaluateConfig:
    spec = told.spec
    return EvaluateConfig(
        dataset=told.dataset,
        candidate=told.stages[Stage.SUPERVISED],
        evaluation=spec.evaluation,
        hyper=spec.stages.evaluate,
        max_tokens=spec.stages.supervised.max_tokens,
        seed=spec.seed,
    )


EVALUATE = StageKind(
    stage=Stage.EVALUATE,
    resources=lambda spec: spec.stages.evaluate.resources,
    config=_config,
    deciding=_deciding,
)
