"""resolve: the run's first, light pod. Checks the inputs and looks the later stages up. Pure."""

from __future__ import annotations

from ratchet_api.answer_reward import AnswerReward
from ratchet_api.placement import Resources
from ratchet_api.policy_types import GENERATOR
from ratchet_api.reward_model import OwnBase
from ratchet_api.stage import ResolveConfig, Stage
from ratchet_api.training_run import RLTrainingRunSpec
from ratchet_operator.plan.runs.pipeline.kind import StageKind, Told
from ratchet_operator.plan.runs.pipeline.rl import start_of

RESOURCES = Resources(cpu=0.5, memory_gi=1, ephemeral_storage_gi=1)
"""It only reads listings and small files; it must fit wherever anything fits."""


def _config(told: Told) -> ResolveConfig:
    spec = told.spec
    comparison = spec.evaluation.comparison
    return ResolveConfig(
        policy_type=spec.policy_type,
        dataset=told.dataset,
        log=told.log,
        log_scored=spec.stages.reward_model is not None and spec.stages.reward_model.scores == "judge",
        base_model=spec.base_model,
        lookups=tuple(ref for stage, ref in told.stages.items() if stage is not Stage.RESOLVE),
        gates=spec.evaluation.gates,
        slices=comparison.slices if comparison is not None else (),
        named_tasks=_named_tasks(spec),
        start=start_of(told.resolved),
        reward_base=_reward_base(spec),
        rewards=_rewards(spec),
    )


def _reward_base(spec: RLTrainingRunSpec) -> OwnBase | None:
    stage = spec.stages.reward_model
    return None if stage is None or not spec.with_rl else stage.base_model


def _rewards(spec: RLTrainingRunSpec) -> dict[str, tuple[AnswerReward, ...]]:
    """Return what a generator's answers are rewarded by, by field; nothing where none are."""
    if spec.policy_type != GENERATOR or not spec.with_rl or spec.stages.preference is not None:
        return {}
    return {f"spec.stages.rlhf.{field}": rewards for field, rewards in spec.rlhf.rewards_by_field.items()}


def _named_tasks(spec: RLTrainingRunSpec) -> dict[str, str]:
    """Return the tasks that the settings name, by field; those of gates go with the gates."""
    named = {f"spec.stages.supervised.taskWeights.{task}": task for task in spec.stages.supervised.task_weights or ()}
    if spec.with_rl:
        rewards = enumerate(spec.rl.rewards)
        named |= {f"spec.stages.rl.rewards[{n}].task": each.task for n, each in rewards if each.task is not None}
    return named


RESOLVE = StageKind(stage=Stage.RESOLVE, resources=lambda _spec: RESOURCES, config=_config)
