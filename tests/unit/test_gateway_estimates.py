"""What a training on feedback would be: the steps of every stage that the template runs, derived by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ratchet_api.feedback import TrainEstimate, TrainRequest
from ratchet_api.training_run import RunTemplate
from ratchet_gateway.estimates import estimate
from ratchet_gateway.tally import Scores
from ratchet_web.errors import Malformed

BASE = {"baseModel": {"uri": "store://models/base", "sha256": "0" * 64}, "datasetRef": {"name": "d"}}
JUDGED = {"datasetRef": {"name": "liked"}}
START = {"startFrom": {"policy": {"name": "router", "version": 1}}}
SUPERVISED = {"supervised": {"epochs": 2.0, "batchSize": 8}}


def estimated(*, request: dict[str, Any] | None = None, **template: Any) -> TrainEstimate:
    """Of 100 samples, 80 of which are learned from."""
    scores = Scores(count=100, mean=0.6)
    return estimate(
        100, scores, RunTemplate.model_validate(BASE | template), TrainRequest.model_validate(request or {})
    )


@pytest.mark.parametrize(
    ("template", "steps"),
    [
        # 80 rows in batches of 8, twice
        pytest.param({"stages": SUPERVISED}, 20, id="supervised alone"),
        # and 10 rollouts of 32, each in 4 minibatches of 8, 3 times
        pytest.param(
            {
                "mode": "supervised_then_rl",
                "stages": SUPERVISED
                | {"rl": {"interactions": 320, "rolloutSize": 32, "minibatchSize": 8, "updateEpochs": 3}},
            },
            20 + 10 * 4 * 3,
            id="a classifier's rl",
        ),
        # a reward model on 64 rows (a fifth is held out) in batches of 8, 3 times; 4 rollouts of 32 in 4 parts, twice
        pytest.param(
            {
                "mode": "supervised_then_rl",
                "stages": SUPERVISED
                | {
                    "rewardModel": JUDGED | {"epochs": 3, "batchSize": 8},
                    "rlhf": {"interactions": 100, "rolloutSize": 32, "minibatchSize": 8, "updateEpochs": 2},
                },
            },
            20 + 24 + 32,
            id="a reward model and PPO",
        ),
        # 4 rollouts of 32 in 4 parts, twice, for each of two agents that learn
        pytest.param(
            {
                "mode": "supervised_then_rl",
                "stages": SUPERVISED
                | {
                    "rewardModel": JUDGED | {"epochs": 3, "batchSize": 8},
                    "rlhf": {
                        "interactions": 100,
                        "rolloutSize": 32,
                        "minibatchSize": 8,
                        "updateEpochs": 2,
                        "agents": [{"name": "a"}, {"name": "b"}, {"name": "c", "frozen": True}],
                    },
                },
            },
            20 + 24 + 2 * 32,
            id="agents",
        ),
        # 64 rows in batches of 4, once
        pytest.param(
            {"mode": "supervised_then_rl", "stages": SUPERVISED | {"preference": JUDGED | {"batchSize": 4}}},
            20 + 16,
            id="preferences",
        ),
        pytest.param(
            {"mode": "rl_only", "stages": {"preference": JUDGED | {"batchSize": 4, "epochs": 2}}} | START,
            32,
            id="preferences alone",
        ),
    ],
)
def test_steps_are_those_of_all_stages(template: dict[str, Any], steps: int) -> None:
    assert estimated(**template).estimated_steps == steps


def test_more_to_do_takes_longer_and_only_the_supervised_stage_is_capped() -> None:
    rlhf = {"interactions": 10_000, "rolloutSize": 32, "minibatchSize": 8, "updateEpochs": 2}
    stages = SUPERVISED | {"rewardModel": JUDGED, "rlhf": rlhf}
    alone, whole = estimated(stages=SUPERVISED), estimated(mode="supervised_then_rl", stages=stages)
    assert whole.estimated_time_minutes > 10 * alone.estimated_time_minutes
    capped = estimated(mode="supervised_then_rl", stages=stages, request={"maxSteps": 5})
    assert whole.estimated_steps - capped.estimated_steps == 15


def test_answers_that_another_runs_reward_model_reads_take_longer_too() -> None:
    rlhf = {"interactions": 10_000, "rolloutSize": 32, "minibatchSize": 8}
    formula = {"type": "expression", "expression": "words"}
    model = {"type": "rewardModel", "model": {"uri": "store://judges/kind", "sha256": "c" * 64}}
    alone, read = (
        estimated(mode="supervised_then_rl", stages=SUPERVISED | {"rlhf": rlhf | {"rewards": rewards}})
        for rewards in ([formula], [formula, model])
    )
    assert read.estimated_time_minutes > alone.estimated_time_minutes
    assert read.estimated_steps == alone.estimated_steps


def test_the_learning_rate_is_that_of_the_first_stage_that_learns() -> None:
    stages = {"preference": JUDGED | {"learningRate": 0.002}}
    assert estimated(mode="rl_only", stages=stages, **START).model.learning_rate == 0.002
    both = estimated(mode="supervised_then_rl", stages={"supervised": {"learningRate": 0.003}, **stages})
    assert both.model.learning_rate == 0.003


@pytest.mark.parametrize("request_", [{"maxSteps": 5}, {"learningRate": 0.1}])
def test_a_request_that_would_change_nothing_is_refused(request_: dict[str, Any]) -> None:
    """P39."""
    with pytest.raises(Malformed, match=r"is of the supervised stage, which mode rl_only does not run; leave it out"):
        estimated(mode="rl_only", stages={"preference": JUDGED}, request=request_, **START)
