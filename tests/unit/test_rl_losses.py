"""Every term of every loss, and its gradient, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ratchet_jobs.rl.losses import (
    clipped_value_loss,
    policy_gradient_loss,
    ppo_policy_loss,
    td_loss,
    td_targets,
    value_loss,
    verdict_loss,
)

# old probability 1/2, cliprange 0.2, so the ratio is 2 * p and the clip lies at 0.8 and 1.2. Loss = -min(rA, clip(r)A);
# its gradient by log p is -rA where the first is the smaller (or both are equal), else 0.
SURROGATE = [
    pytest.param(0.5, 2.0, -2.0, -2.0, id="at ratio 1 the loss is -A and its gradient -A"),
    pytest.param(0.55, 2.0, -2.2, -2.2, id="inside the clip range, r = 1.1: -rA"),
    pytest.param(0.75, 2.0, -2.4, 0.0, id="r = 1.5 and a good action: clipped at 1.2 A, no gradient"),
    pytest.param(0.75, -2.0, 3.0, 3.0, id="r = 1.5 and a bad action: not clipped, pushed back"),
    pytest.param(0.25, 2.0, -1.0, -1.0, id="r = 0.5 and a good action: not clipped, pulled back"),
    pytest.param(0.25, -2.0, 1.6, 0.0, id="r = 0.5 and a bad action: clipped at 0.8 A, no gradient"),
]


@pytest.mark.parametrize(("prob", "advantage", "want", "want_gradient"), SURROGATE)
def test_ppo_surrogate(prob: float, advantage: float, want: float, want_gradient: float) -> None:
    logprobs = torch.tensor([math.log(prob)], requires_grad=True)
    loss = ppo_policy_loss(logprobs, torch.tensor([math.log(0.5)]), torch.tensor([advantage]), cliprange=0.2)
    assert loss.item() == pytest.approx(want, abs=1e-5)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(want_gradient, abs=1e-5)


def test_policy_gradient_loss_is_minus_advantage_times_log_probability() -> None:
    logprobs = torch.tensor([math.log(0.5), math.log(0.25)], requires_grad=True)
    advantages = torch.tensor([2.0, -1.0], requires_grad=True)
    loss = policy_gradient_loss(logprobs, advantages)
    # -2 * ln 0.5 = 2 ln 2; 1 * ln 0.25 = -2 ln 2
    torch.testing.assert_close(loss, torch.tensor([2 * math.log(2), -2 * math.log(2)]), rtol=0, atol=1e-6)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-2.0, 1.0]
    assert advantages.grad is None, "the advantage is a constant of the policy's gradient"


def test_value_loss_is_half_the_squared_error() -> None:
    values = torch.tensor([3.0, -1.0], requires_grad=True)
    loss = value_loss(values, torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(loss, torch.tensor([2.0, 1.125]), rtol=0, atol=1e-6)  # 0.5 * 4, 0.5 * 2.25
    loss.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [2.0, -1.5]


# cliprange_value 0.2. near = old +- at most 0.2; loss = half the larger of the two squared errors.
VALUES = [
    # near 0.5 + 0.2 = 0.7: (1.5 - 2)^2 = 0.25, (0.7 - 2)^2 = 1.69
    pytest.param(1.5, 0.5, 2.0, 0.845, 0.0, id="too far towards the target: clipped, no gradient"),
    # near 0.7: (1.5 - 0.5)^2 = 1, (0.7 - 0.5)^2 = 0.04; gradient 1.5 - 0.5
    pytest.param(1.5, 0.5, 0.5, 0.5, 1.0, id="too far away from the target: not clipped, pulled back"),
    # near -0.5 - 0.2 = -0.7: (-1.5 + 2)^2 = 0.25, (-0.7 + 2)^2 = 1.69
    pytest.param(-1.5, -0.5, -2.0, 0.845, 0.0, id="downwards too"),
    # near 0.6 itself: (0.6 - 2)^2 = 1.96; gradient 0.6 - 2
    pytest.param(0.6, 0.5, 2.0, 0.98, -1.4, id="within the range: plain half squared error"),
]


@pytest.mark.parametrize(("value", "old", "target", "want", "want_gradient"), VALUES)
def test_clipped_value_loss(value: float, old: float, target: float, want: float, want_gradient: float) -> None:
    values = torch.tensor([value], requires_grad=True)
    loss = clipped_value_loss(values, torch.tensor([old]), torch.tensor([target]), cliprange_value=0.2)
    assert loss.item() == pytest.approx(want, abs=1e-6)
    loss.sum().backward()
    assert values.grad is not None
    assert values.grad.item() == pytest.approx(want_gradient, abs=1e-6)


def test_td_target_takes_the_best_next_value_and_none_after_the_end() -> None:
    # 1 + max(2, 5) / 2 = 3.5; terminated: the reward alone
    got = td_targets(
        torch.tensor([1.0, 1.0]),
        torch.tensor([[2.0, 5.0], [9.0, 9.0]]),
        terminated=torch.tensor([False, True]),
        gamma=0.5,
    )
    assert got.tolist() == [3.5, 1.0]


def test_td_loss_is_quadratic_near_and_linear_far_and_reaches_the_chosen_action_only() -> None:
    q_values = torch.tensor([[1.0, 0.0], [0.0, 4.0]], requires_grad=True)
    loss = td_loss(q_values, torch.tensor([0, 1]), torch.tensor([1.5, 1.0]))
    torch.testing.assert_close(loss, torch.tensor([0.125, 2.5]), rtol=0, atol=1e-6)  # 0.5 * 0.5^2; 3 - 1/2
    loss.sum().backward()
    assert q_values.grad is not None
    assert q_values.grad.tolist() == [[-0.5, 0.0], [0.0, 1.0]]  # the error, cut at delta = 1


def test_huber_delta_moves_the_bend() -> None:
    loss = td_loss(torch.tensor([[3.0]]), torch.tensor([0]), torch.tensor([0.0]), huber_delta=2.0)
    assert loss.item() == pytest.approx(4.0)  # 2 * (3 - 2/2)


ROWS = torch.ones(3)
COLUMN = torch.ones(3, 1)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        pytest.param("ppo_policy_loss", lambda: ppo_policy_loss(ROWS, COLUMN, ROWS, cliprange=0.2), id="surrogate"),
        pytest.param("policy_gradient_loss", lambda: policy_gradient_loss(ROWS, COLUMN), id="policy gradient"),
        pytest.param("value_loss", lambda: value_loss(COLUMN, ROWS), id="value"),
        pytest.param(
            "clipped_value_loss",
            lambda: clipped_value_loss(COLUMN, ROWS, ROWS, cliprange_value=0.2),
            id="clipped value",
        ),
        pytest.param(
            "td_targets",
            lambda: td_targets(COLUMN, torch.ones(3, 2), terminated=ROWS.bool(), gamma=0.9),
            id="TD target",
        ),
        pytest.param("td_loss", lambda: td_loss(torch.ones(3, 2), ROWS.long(), COLUMN), id="TD"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(name: str, call: Tensor) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: .*\(3, 1\).*give tensors of one shape"):
        call()


# q = noise + (1 - 2 noise) p; loss = -r ln q - (1 - r) ln (1 - q);
# d loss / d ln p = (1 - 2 noise) p (q - r) / (q (1 - q))
VERDICTS = [
    pytest.param(0.25, 1.0, 0.0, 2 * math.log(2), -1.0, id="good: -ln p, and the gradient of a label"),
    pytest.param(0.25, 0.0, 0.0, math.log(4 / 3), 1 / 3, id="bad: -ln(1 - p), p / (1 - p)"),
    pytest.param(0.5, 0.5, 0.0, math.log(2), 0.0, id="half good at p = 1/2: nothing to learn"),
    # q = 0.1 + 0.8 * 0.5 = 0.5
    pytest.param(0.5, 1.0, 0.1, math.log(2), -0.8, id="noise: a good verdict counts for less"),
    # q = 0.2 + 0.6 * 0.5 = 0.5
    pytest.param(0.5, 0.0, 0.2, math.log(2), 0.6, id="noise: and so does a bad one"),
]


@pytest.mark.parametrize(("prob", "reward", "noise", "want", "want_gradient"), VERDICTS)
def test_verdict_loss(prob: float, reward: float, noise: float, want: float, want_gradient: float) -> None:
    logprobs = torch.tensor([math.log(prob)], requires_grad=True)
    loss = verdict_loss(logprobs, torch.tensor([reward]), noise=noise)
    assert loss.item() == pytest.approx(want, abs=1e-5)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(want_gradient, abs=1e-5)


def test_a_bad_verdict_on_a_sure_answer_is_bounded() -> None:
    logprobs = torch.tensor([0.0], requires_grad=True)
    loss = verdict_loss(logprobs, torch.tensor([0.0]), noise=0.0)
    assert loss.item() == pytest.approx(-math.log(1e-6), rel=0.05)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert math.isfinite(logprobs.grad.item())
