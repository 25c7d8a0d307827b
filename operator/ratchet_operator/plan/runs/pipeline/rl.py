"""rl: goes on teaching a policy by rewards: the supervised stage's, or the one that startFrom names. Pure."""

from __future__ import annotations

import math

from ratchet_api.attempts import Artifact
from ratchet_api.placement import Resources
from ratchet_api.policy_types import GENERATOR
from ratchet_api.resolved import ResolvedRun
from ratchet_api.stage import RlConfig, Stage
from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_operator.plan.runs.pipeline.kind import Deciding, Digests, StageKind, Told, parent, wire_without

_PLACES = ("resources", "nodes", "checkpointEverySteps", "datasetRef")
"""Fields of the stage that do not change its result: the log stands in the digest by its own."""


def baseline_digest(spec: RLTrainingRunSpec, resolved: ResolvedRun, earlier: Digests) -> str:
    """Return what stands for the policy that RL starts from: an input digest, or its own if it was there before."""
    return resolved.start.digest if resolved.start is not None else parent(earlier, Stage.SUPERVISED)


def start_of(resolved: ResolvedRun) -> Artifact | None:
    """Return the policy that mode rl_only starts from."""
    return None if resolved.start is None else Artifact(uri=resolved.start.uri, digest=resolved.start.digest)


def _deciding(spec: RLTrainingRunSpec, resolved: ResolvedRun, earlier: Digests) -> Deciding:
    parents = {"dataset": resolved.dataset_digest, "start": baseline_digest(spec, resolved, earlier)}
    if spec.stages.preference is not None:
        if resolved.log is None:
            raise ValueError("stage 'rl' is wanted before its judged answers are fixed")
        settings = {"preference": wire_without(spec.stages.preference, *_PLACES), "seed": spec.seed}
        return Deciding(settings | {"policyType": GENERATOR}, parents | {"log": resolved.log.digest})
    if spec.policy_type == GENERATOR:
        if spec.stages.reward_model is not None:
            parents["rewardModel"] = parent(earlier, Stage.REWARD_MODEL)
        settings = {"rlhf": wire_without(spec.rlhf, *_PLACES), "policyType": GENERATOR, "seed": spec.seed}
        return Deciding(settings, parents)
    if resolved.log is None:
        settings = {"hyper": wire_without(spec.rl, *_PLACES, "minEffectiveSamples"), "seed": spec.seed}
        return Deciding(settings, parents)
    settings = {"hyper": wire_without(spec.rl, *_PLACES), "seed": spec.seed, "logPolicy": log_policy(spec)}
    return Deciding(settings, parents | {"log": resolved.log.digest})


def log_policy(spec: RLTrainingRunSpec) -> str | None:
    """Return the policy whose logged answers may teach the run: where it starts from, else what it publishes to."""
    if spec.start_from is not None and spec.start_from.policy is not None:
        return spec.start_from.policy.name
    return None if spec.publish_to is None else spec.publish_to.name


def _config(told: Told) -> RlConfig:
    spec, start = told.spec, start_of(told.resolved)
    if spec.policy_type == GENERATOR:
        judged = spec.stages.preference is not None
        return RlConfig(
            policy_type=GENERATOR,
            dataset=told.dataset,
            log=told.log if judged else None,
            start=told.stages[Stage.SUPERVISED] if start is None else None,
            start_artifact=start,
            base_model=spec.base_model,
            rlhf=None if judged else spec.rlhf,
            preference=spec.stages.preference,
            reward_model=told.stages.get(Stage.REWARD_MODEL),
            seed=spec.seed,
        )
    return RlConfig(
        dataset=told.dataset,
        log=told.log,
        log_policy=log_policy(spec) if told.log is not None else None,
        start=told.stages[Stage.SUPERVISED] if start is None else None,
        start_artifact=start,
        base_model=spec.base_model,
        hyper=spec.rl,
        seed=spec.seed,
    )


def _resources(spec: RLTrainingRunSpec) -> Resources:
    if spec.stages.preference is not None:
        return spec.stages.preference.resources
    return (spec.rlhf if spec.policy_type == GENERATOR else spec.rl).resources


def _steps(spec: RLTrainingRunSpec, _train_rows: int) -> int:
    if spec.stages.preference is not None:
        return 0  # known once the judged answers are read
    if spec.policy_type == GENERATOR:
        return spec.rlhf.rollouts
    return math.ceil(spec.rl.interactions / spec.rl.rollout_size)


RL = StageKind(
    stage=Stage.RL,
    resources=_resources,
    nodes=lambda spec: 1 if spec.policy_type == GENERATOR else spec.rl.nodes,
    config=_config,
    deciding=_deciding,
    steps=_steps,
    numbers_may_fail=lambda spec: spec.mode == "supervised_then_rl",
)
