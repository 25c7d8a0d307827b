"""A simulated study: whoever knows the propensities finds the better policy in a log, whoever ignores them does not.

Two kinds of queries, three answers. The logging policy nearly always gives a mediocre answer and seldom the best one,
so that the mediocre answer has by far the most good verdicts. Numbers of the log are expectations made exact: every
combination stands in it as often as its probability says.
"""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from ratchet_jobs.models.reward_model import estimate_rewards
from ratchet_jobs.rewards.batch import Logged, RewardBatch
from ratchet_jobs.rewards.feedback import Feedback
from ratchet_jobs.rl.algorithms import make_algorithm
from ratchet_jobs.rl.learner import Learner
from ratchet_jobs.rl.off_policy import importance_weights
from ratchet_jobs.rl.rollout import PolicyOutput, Rollout
from ratchet_jobs.rl.seeds import generator_for

pytestmark = pytest.mark.usefixtures("one_thread")

CHANCES = torch.tensor([[0.80, 0.10, 0.10], [0.10, 0.80, 0.10]])
"""Of the logging policy, per kind of query."""
GOOD = torch.tensor([[0.50, 0.90, 0.10], [0.90, 0.50, 0.10]])
"""Share of good verdicts; the best answers are 1 and 0."""
BEST = [1, 0]
PASSES = 40
WRONG_MODEL = torch.tensor([0.9, 0.2, 0.9])
"""What a bad model of the verdicts believes of each answer, whatever is asked."""


class Table(nn.Module):
    """Logits and one value per kind of query."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.values = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))

    def forward(self, obs: Tensor) -> PolicyOutput:
        return PolicyOutput(self.logits[obs], self.values[obs])


def the_log() -> tuple[Tensor, Tensor, Tensor]:
    """Kinds, answers and verdicts of 400 rows."""
    rows = [
        (kind, answer, verdict)
        for kind in range(2)
        for answer in range(3)
        for verdict in (0, 1)
        for _ in range(round(200 * float(CHANCES[kind, answer]) * abs(1 - verdict - float(GOOD[kind, answer]))))
    ]
    kinds, answers, verdicts = torch.tensor(rows).T
    assert len(kinds) == 400
    return kinds, answers, verdicts.float()


def learned(
    estimator: Literal["ips", "doubly_robust", "direct"], algorithm: str, *, propensities: Tensor | None = None
) -> list[int]:
    """The answer that a policy gives to each kind of query after PASSES passes over the log."""
    kinds, answers, verdicts = the_log()
    known = CHANCES[kinds, answers] if propensities is None else propensities
    model, reward = Table(), Feedback(estimator, max_weight=None)
    learner = Learner(
        forward=model,
        parameters=dict(model.named_parameters()),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.05),
    )
    settings: dict[str, object] = {"minibatch_size": 200, "update_epochs": 2} if algorithm == "ppo" else {}
    maker = make_algorithm(algorithm, settings, learner=learner, seed=0)
    for number in range(PASSES):
        with torch.no_grad():
            output = model(kinds)
            probs = output.logits.softmax(-1)
            if estimator == "direct":
                taken, logprobs = answers, probs.gather(1, answers.unsqueeze(1)).squeeze(1).log()
            else:
                action = maker.act(output, progress=0.0, generator=generator_for(0, "act", number))
                taken, logprobs = action.actions, action.logprobs
            logged = Logged(answers, verdicts, known, WRONG_MODEL[taken])
            rewards = reward(RewardBatch(taken, probs, logged=logged))
            weights = importance_weights(logprobs, known, max_weight=None) if estimator == "direct" else None
        rollout = Rollout.of_single_steps(
            kinds, actions=taken, logprobs=logprobs, values=output.values, rewards=rewards, weights=weights
        )
        maker.learn(rollout, progress=0.0)
    return model.logits.argmax(-1).tolist()


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "reinforce"])
@pytest.mark.parametrize("estimator", ["ips", "doubly_robust", "direct"])
def test_a_learner_that_knows_the_propensities_finds_the_answers_that_were_seldom_tried(
    estimator: Literal["ips", "doubly_robust", "direct"], algorithm: str
) -> None:
    """Doubly robust even with a model of the verdicts that is wrong about every answer."""
    assert learned(estimator, algorithm) == BEST


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "reinforce"])
def test_a_learner_that_ignores_them_takes_what_was_given_most_often_for_the_best(algorithm: str) -> None:
    # what it maximises is CHANCES * GOOD: 0.40, 0.09, 0.01 for the first kind
    ignored = torch.ones(400)
    assert learned("ips", algorithm, propensities=ignored) == [0, 1]


# --- the model of the verdicts ------------------------------------------------------------------------------------


def told(scores: list[float], *, folds: list[int], actions: list[int] | None = None) -> Tensor:
    """Estimates for equal texts, two classes, of a start policy that gives them 0.6 and 0.4."""
    count = len(scores)
    return estimate_rewards(
        torch.ones(count, 4),
        torch.tensor([[0.6, 0.4]]).repeat(count, 1),
        actions=torch.tensor(actions or [0] * count),
        scores=torch.tensor(scores),
        folds=torch.tensor(folds),
    )


def test_without_a_verdict_the_estimate_is_the_start_policys_probability() -> None:
    got = told([1.0, 1.0], folds=[0, 0])  # nothing stands in another fold
    torch.testing.assert_close(got, torch.tensor([[0.6, 0.4]] * 2), rtol=0, atol=1e-6)


def test_a_rows_own_verdict_never_enters_its_estimate() -> None:
    first, second = told([1.0, 0.0], folds=[0, 1]), told([0.0, 0.0], folds=[0, 1])
    assert first[0].tolist() == second[0].tolist()
    assert first[1, 0] > second[1, 0]


def test_the_estimate_moves_to_the_verdicts_of_the_other_fold_as_ridge_regression_does() -> None:
    # equal rows: centered features vanish, the constant is 1 / sqrt(2); three verdicts of 0, 0.6 off each. The dual
    # system is (1/2 in each place + identity) a = -0.6, so a = -0.6 / (1 + 3/2) = -0.24; q = 0.6 - 3 * 0.24 / 2 = 0.24
    got = told([1.0, 0.0, 0.0, 0.0], folds=[0, 1, 1, 1])
    torch.testing.assert_close(got[0], torch.tensor([0.24, 0.4]), rtol=0, atol=1e-6)


def test_rows_held_out_are_told_and_tell_nothing() -> None:
    held = told([0.0, 1.0], folds=[0, -1])
    assert held[1, 0] < 0.6
    torch.testing.assert_close(held[0], torch.tensor([0.6, 0.4]), rtol=0, atol=1e-6)


def test_the_two_ways_to_solve_the_same_system_agree() -> None:
    # 3 rows of 4 + 1 numbers take the small system of rows, 40 rows that of columns; 37 rows weigh nothing if they
    # are of another class, so both must tell the same
    draws = torch.Generator().manual_seed(0)
    features, scores = torch.randn(41, 4, generator=draws), torch.rand(41, generator=draws)
    common = {"features": features, "probs": torch.full((41, 2), 0.5), "scores": scores}
    folds = torch.tensor([0] + [1] * 40)
    many = estimate_rewards(**common, actions=torch.zeros(41, dtype=torch.int64), folds=folds, ridge=0.5)[0, 0]
    # by hand in 5 columns
    rows = features - features.mean(0)
    rows = torch.cat([rows / rows.norm(dim=1, keepdim=True), torch.ones(41, 1)], 1) / 2**0.5
    kernel = rows[1:] @ rows[1:].T + 0.5 * torch.eye(40)
    want = 0.5 + rows[0] @ rows[1:].T @ torch.linalg.solve(kernel, scores[1:] - 0.5)
    assert float(many) == pytest.approx(float(want.clamp(0, 1)), abs=1e-5)


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("ppo", {"update_epochs": 1, "minibatch_size": 2, "cliprange_value": None}),
        ("a2c", {}),
        ("reinforce", {}),
    ],
)
def test_a_samples_weight_multiplies_its_policy_gradient(algorithm: str, settings: dict[str, object]) -> None:
    # uniform start, advantage 1, ratio 1: minus the gradient of the mean over two samples is w / 2 * (one-hot - 1/3);
    # with w = 2 that is (2/3, -1/3, -1/3) for the first kind; the second sample weighs nothing
    model = Table()
    learner = Learner(
        forward=model,
        parameters=dict(model.named_parameters()),
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        max_grad_norm=1e9,
    )
    plain = {"vf_coef": 0.0, "entropy_coef": 0.0, "normalize_advantages": False, "final_lr_factor": 1.0}
    rollout = Rollout.of_single_steps(
        torch.tensor([0, 1]),
        actions=torch.tensor([0, 0]),
        logprobs=torch.full((2,), 1 / 3).log(),
        values=torch.zeros(2),
        rewards=torch.ones(2),
        weights=torch.tensor([2.0, 0.0]),
    )
    make_algorithm(algorithm, plain | settings, learner=learner, seed=0).learn(rollout, progress=0.0)
    want = torch.tensor([[2 / 3, -1 / 3, -1 / 3], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(model.logits.detach(), want, rtol=0, atol=1e-6)
