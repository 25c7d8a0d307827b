"""Returns and advantages against numbers worked out by hand; an end of an episode is where they differ most."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ratchet_jobs.rl.returns import center_and_scale, discounted_returns, finished, gae

NEVER = (False, False, False)
REWARDS, VALUES, NEXT_VALUES = (1.0, 2.0, 3.0), (0.5, 1.0, 1.5), (1.0, 4.0, 8.0)


def column(*values: float | bool) -> Tensor:
    """One environment's values over time: (T, 1)."""
    return torch.tensor(values).unsqueeze(1)


# gamma = 1/2; the rollout ends with V = 8 still to come, so always G2 = 3 + 8/2 = 7.
RETURNS = [
    # G1 = 2 + 7/2 = 5.5; G0 = 1 + 5.5/2 = 3.75
    pytest.param(NEVER, NEVER, (3.75, 5.5, 7.0), id="an unfinished episode bootstraps at the rollout's end only"),
    # G1 = 2; G0 = 1 + 2/2 = 2
    pytest.param((False, True, False), NEVER, (2.0, 2.0, 7.0), id="nothing follows a terminated episode"),
    # G1 = 2 + 4/2 = 4; G0 = 1 + 4/2 = 3
    pytest.param(NEVER, (False, True, False), (3.0, 4.0, 7.0), id="a truncated episode goes on with its last value"),
    # both at once: the end is real, whatever the clock said
    pytest.param((False, True, False), (False, True, False), (2.0, 2.0, 7.0), id="terminated wins over truncated"),
    # G2 = 3; G1 = 2 + 3/2; G0 = 1 + 3.5/2
    pytest.param((False, False, True), NEVER, (2.75, 3.5, 3.0), id="terminated at the last step"),
]


@pytest.mark.parametrize(("terminated", "truncated", "want"), RETURNS)
def test_discounted_returns(terminated: tuple[bool, ...], truncated: tuple[bool, ...], want: tuple[float, ...]) -> None:
    returns = discounted_returns(
        column(*REWARDS),
        column(*NEXT_VALUES),
        terminated=column(*terminated),
        truncated=column(*truncated),
        gamma=0.5,
    )
    torch.testing.assert_close(returns, column(*want), rtol=0, atol=1e-6)


# gamma = lam = 1/2, so a step's advantage is carried on by 1/4; always delta2 = 3 + 8/2 - 1.5 = 5.5 = A2.
ADVANTAGES = [
    # delta1 = 2 + 4/2 - 1 = 3, A1 = 3 + 5.5/4 = 4.375; delta0 = 1 + 1/2 - 0.5 = 1, A0 = 1 + 4.375/4 = 2.09375
    pytest.param(NEVER, NEVER, (2.09375, 4.375, 5.5), id="an unfinished episode"),
    # delta1 = 2 - 1 = 1 = A1; A0 = 1 + 1/4
    pytest.param((False, True, False), NEVER, (1.25, 1.0, 5.5), id="terminated: no bootstrap, no carry"),
    # delta1 = 3 = A1; A0 = 1 + 3/4
    pytest.param(NEVER, (False, True, False), (1.75, 3.0, 5.5), id="truncated: bootstrap, no carry"),
    # delta2 = 3 - 1.5 = 1.5; A1 = 3 + 1.5/4 = 3.375; A0 = 1 + 3.375/4 = 1.84375
    pytest.param((False, False, True), NEVER, (1.84375, 3.375, 1.5), id="terminated at the last step"),
]


def advantages(terminated: Tensor, truncated: Tensor, *, gamma: float = 0.5, lam: float = 0.5) -> Tensor:
    return gae(
        column(*REWARDS),
        column(*VALUES),
        column(*NEXT_VALUES),
        terminated=terminated,
        truncated=truncated,
        gamma=gamma,
        lam=lam,
    )


@pytest.mark.parametrize(("terminated", "truncated", "want"), ADVANTAGES)
def test_gae(terminated: tuple[bool, ...], truncated: tuple[bool, ...], want: tuple[float, ...]) -> None:
    got = advantages(column(*terminated), column(*truncated))
    torch.testing.assert_close(got, column(*want), rtol=0, atol=1e-6)


def test_lambda_0_is_the_one_step_error_and_lambda_1_the_return_minus_the_value() -> None:
    terminated, truncated = column(False, False, True), column(*NEVER)
    # deltas of the last case above: 1, 3, 1.5
    one_step = advantages(terminated, truncated, lam=0.0)
    torch.testing.assert_close(one_step, column(1.0, 3.0, 1.5), rtol=0, atol=1e-6)
    # only with values that agree with each other (next_values[t] = values[t + 1]) do the middle values cancel
    values = torch.tensor([[0.5], [1.0], [1.5]])
    next_values = torch.tensor([[1.0], [1.5], [9.0]])
    ends = {"terminated": terminated, "truncated": truncated}
    whole = gae(column(*REWARDS), values, next_values, **ends, gamma=0.5, lam=1.0)
    returns = discounted_returns(column(*REWARDS), next_values, **ends, gamma=0.5)
    torch.testing.assert_close(whole, returns - values, rtol=0, atol=1e-6)


def test_episodes_of_one_step_have_reward_minus_value_whatever_gamma_and_lambda_are() -> None:
    ended = torch.ones(1, 4, dtype=torch.bool)
    rewards, values = torch.tensor([[1.0, 0.0, 1.0, 0.5]]), torch.tensor([[0.2, 0.4, 0.9, 0.5]])
    got = gae(
        rewards, values, torch.full((1, 4), 7.0), terminated=ended, truncated=~ended, gamma=0.99, lam=0.95
    )  # the 7 is never looked at
    torch.testing.assert_close(got, torch.tensor([[0.8, -0.4, 0.1, 0.0]]), rtol=0, atol=1e-6)


def test_environments_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(3)
    numbers = torch.rand(3, 5, 4, generator=generator)
    ends = torch.rand(2, 5, 4, generator=generator) < 0.3
    together = gae(*numbers, terminated=ends[0], truncated=ends[1], gamma=0.9, lam=0.8)
    for e in range(4):
        alone = gae(
            *(n[:, e : e + 1] for n in numbers),
            terminated=ends[0][:, e : e + 1],
            truncated=ends[1][:, e : e + 1],
            gamma=0.9,
            lam=0.8,
        )
        assert torch.equal(alone.squeeze(1), together[:, e])


def test_finished_marks_what_lies_before_the_last_end_of_each_environment() -> None:
    ended = torch.tensor([[False, False], [True, False], [False, False], [False, True]])
    assert finished(ended).tolist() == [[True, True], [True, True], [False, True], [False, True]]


def test_center_and_scale_divides_by_the_population_deviation() -> None:
    # mean 3; squares 4 + 1 + 0 + 9 = 14, /4 = 3.5; sqrt = 1.8708287 (the sample form, /3, would give 2.1602469)
    got = center_and_scale(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    want = torch.tensor([-2.0, -1.0, 0.0, 3.0]) / 1.8708287
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_center_and_scale_gives_zeros_where_there_is_no_spread() -> None:
    assert center_and_scale(torch.full((3,), 5.0)).tolist() == [0.0, 0.0, 0.0]
    assert center_and_scale(torch.tensor([5.0])).tolist() == [0.0]


def test_a_column_of_values_is_refused_where_a_row_is_meant() -> None:
    ends = {"terminated": torch.zeros(3, 1, dtype=torch.bool), "truncated": torch.zeros(3, 1, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"gae: rewards \(3, 1\), values \(1, 3\)"):
        gae(column(*REWARDS), column(*VALUES).T, column(*NEXT_VALUES), **ends, gamma=0.5, lam=0.5)
    with pytest.raises(ValueError, match=r"discounted_returns: rewards \(3, 1\), next_values \(3,\)"):
        discounted_returns(column(*REWARDS), torch.ones(3), **ends, gamma=0.5)
