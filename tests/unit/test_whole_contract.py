"""What a new stage, exit code or reason needs in several places is there in all of them."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from ratchet_api.base import ObjectRef
from ratchet_api.reward_model import RewardModelStage
from ratchet_api.rl import AlgorithmName, Estimator, Reward, RewardType
from ratchet_api.rlhf import OnlineAlgorithm
from ratchet_api.stage import STAGE_REVISION, ExitCode, Stage, StageConfig
from ratchet_api.training_run import RLTrainingRunSpec, Stages
from ratchet_jobs.models.rl_settings import make_rewards
from ratchet_jobs.rl.algorithms import ALGORITHMS
from ratchet_jobs.rlhf.objectives import OBJECTIVES
from ratchet_jobs.runtime import errors
from ratchet_jobs.runtime.main import RECIPES
from ratchet_operator.plan.runs.pipeline import pipeline

OF_THE_PROCESS = {ExitCode.OK, ExitCode.USAGE, ExitCode.KILLED, ExitCode.TERMINATED}
"""Codes that no recipe ends with: the shell, the kernel or the kubelet does."""


def test_every_stage_has_a_revision_a_config_and_a_recipe() -> None:
    configs = {model.model_fields["stage"].default for model in get_args(get_args(StageConfig)[0])}
    assert set(STAGE_REVISION) == set(RECIPES) == set(Stage)
    assert configs == {stage.value for stage in Stage}


def test_every_stage_works_for_a_dataset_or_in_some_mode_of_a_run() -> None:
    modes = get_args(RLTrainingRunSpec.model_fields["mode"].annotation)
    stages = (Stages(), Stages(reward_model=RewardModelStage(dataset_ref=ObjectRef(name="liked"))))
    specs = [RLTrainingRunSpec.model_construct(mode=mode, stages=each) for mode in modes for each in stages]
    in_runs = {kind.stage for spec in specs for kind in pipeline(spec)}
    assert in_runs | {Stage.SNAPSHOT} == set(Stage)


@pytest.mark.parametrize("code", sorted(set(ExitCode) - OF_THE_PROCESS))
def test_every_exit_code_is_some_errors_and_stands_in_the_tree_of_errors(code: ExitCode) -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.StageError)]
    names = [c.__name__ for c in classes if c.code is code]
    assert names
    assert all(name in (errors.__doc__ or "") for name in names)


NEEDED = {
    "expression": {"expression": "correct * confidence"},
    "costMatrix": {"costs": [{"label": "a", "answer": "b", "reward": -2.0}]},
    "latency": {"targetMs": 10.0},
    "entryPoint": {"entryPoint": "json:dumps"},
}
"""What a type of reward cannot be without."""


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_every_estimator_that_a_spec_may_name_can_be_built(estimator: str) -> None:
    reward = Reward.model_validate({"type": "feedback", "estimator": estimator})
    assert len(make_rewards([reward], labels=("a", "b")).terms) == 1


@pytest.mark.parametrize("kind", get_args(RewardType))
def test_every_reward_that_a_spec_may_name_can_be_built(kind: str) -> None:
    reward = Reward.model_validate({"type": kind} | NEEDED.get(kind, {}))
    assert len(make_rewards([reward], labels=("a", "b")).terms) == 1


def test_a_reward_of_one_task_names_it_in_its_series() -> None:
    rewards = [Reward.model_validate({"type": "accuracy", "task": task}) for task in ("intent", "pii", "pii")]
    terms = make_rewards(rewards, labels=("intent/a", "intent/b", "pii/a", "pii/b"), tasks=("intent", "pii")).terms
    assert [(term.name, term.task) for term in terms] == [
        ("accuracy/intent", 0),
        ("accuracy/pii", 1),
        ("accuracy/pii-2", 1),
    ]


def test_every_algorithm_that_a_spec_may_name_is_there_and_no_other() -> None:
    assert set(get_args(AlgorithmName)) == set(ALGORITHMS)
    assert set(get_args(OnlineAlgorithm)) == set(OBJECTIVES)
