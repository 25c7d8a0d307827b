"""evaluate: measures the trained policies on the held-out split, chooses one and commits it, calibrated. Pure."""

from __future__ import annotations

from typing import Any

from ratchet_api.attempts import Artifact
from ratchet_api.comparison import Comparison
from ratchet_api.gates import metric_key
from ratchet_api.judge import PATIENCE_FIELDS
from ratchet_api.policy_types import GENERATOR
from ratchet_api.resolved import ResolvedRun
from ratchet_api.stage import EvaluateConfig, Stage
from ratchet_api.training_run import Answers, RLTrainingRunSpec
from ratchet_operator.plan.runs.pipeline.kind import Deciding, Digests, StageKind, Told, parent, wire_without
from ratchet_operator.plan.runs.pipeline.rl import baseline_digest, start_of

CANDIDATES = (Stage.RL, Stage.SUPERVISED)
"""In order of preference."""


def _deciding(spec: RLTrainingRunSpec, resolved: ResolvedRun, earlier: Digests) -> Deciding:
    settings: dict[str, Any] = {
        "gateLabels": sorted({gate.label for gate in spec.evaluation.gates if gate.label is not None}),
        "maxTokens": _max_tokens(spec),
        "seed": spec.seed,
    }
    if gated := sorted({metric_key(gate.metric, task=gate.task) for gate in spec.evaluation.gates if gate.task}):
        settings["gateTasks"] = gated
    if spec.policy_type == GENERATOR:
        settings |= {"policyType": GENERATOR, "answers": (spec.stages.evaluate.answers or Answers()).to_wire()}
    if spec.stages.evaluate.judge is not None:
        settings["judge"] = wire_without(spec.stages.evaluate.judge, *PATIENCE_FIELDS)
    parents = {"dataset": resolved.dataset_digest}
    if not spec.with_rl:
        # the gates' bounds judge the numbers, they do not make them; a gated class or task adds one number
        settings["evaluation"] = wire_without(spec.evaluation, "gates")
        return Deciding(settings, parents | {"candidate": parent(earlier, Stage.SUPERVISED)})
    # with RL the bounds choose the policy, too
    settings["evaluation"] = wire_without(spec.evaluation, "comparison")
    settings["comparison"] = (spec.evaluation.comparison or Comparison()).to_wire()
    parents |= {"candidate": parent(earlier, Stage.RL), "baseline": baseline_digest(spec, resolved, earlier)}
    if resolved.champion is not None:
        parents["champion"] = resolved.champion.digest
    return Deciding(settings, parents)


def _config(told: Told) -> EvaluateConfig:
    spec, champion = told.spec, told.resolved.champion
    judged = spec.stages.preference is not None
    return EvaluateConfig(
        policy_type=spec.policy_type,
        dataset=told.dataset,
        candidates=tuple(told.stages[stage] for stage in CANDIDATES if stage in told.stages),
        start=start_of(told.resolved),
        champion=None if champion is None else Artifact(uri=champion.uri, digest=champion.digest),
        rlhf=spec.rlhf if spec.with_rl and spec.policy_type == GENERATOR and not judged else None,
        preference=spec.stages.preference,
        log=told.log if judged else None,
        reward_model=told.stages.get(Stage.REWARD_MODEL),
        base_model=spec.base_model,
        evaluation=spec.evaluation,
        hyper=spec.stages.evaluate,
        max_tokens=_max_tokens(spec),
        seed=spec.seed,
    )


def _max_tokens(spec: RLTrainingRunSpec) -> int | None:
    """What the supervised stage cut texts to; a policy from elsewhere says itself what it was trained with."""
    return spec.stages.supervised.max_tokens if spec.mode != "rl_only" else None


EVALUATE = StageKind(
    stage=Stage.EVALUATE,
    resources=lambda spec: spec.stages.evaluate.resources,
    config=_config,
    deciding=_deciding,
)
