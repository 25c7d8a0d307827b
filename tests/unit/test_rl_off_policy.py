"""Estimates from another policy's log: weights, clipping, and unbiasedness by enumeration."""

from __future__ import annotations

import pytest
import torch

from ratchet_jobs.rl.off_policy import (
    doubly_robust_values,
    effective_sample_size,
    importance_weights,
    imputed_rewards,
)


def test_importance_weight_is_new_over_logged_probability_and_is_cut() -> None:
    logprobs, propensities = torch.tensor([0.6, 0.1]).log(), torch.tensor([0.2, 0.5])
    plain = importance_weights(logprobs, propensities, max_weight=None)
    torch.testing.assert_close(plain, torch.tensor([3.0, 0.2]), rtol=0, atol=1e-6)
    cut = importance_weights(logprobs, propensities, max_weight=2.0)
    torch.testing.assert_close(cut, torch.tensor([2.0, 0.2]), rtol=0, atol=1e-6)


CASES = [
    # 1 / 0.25 = 4
    pytest.param(1, 1.0, None, None, 4.0, id="ips: the logged action's verdict over its propensity"),
    pytest.param(0, 1.0, None, None, 0.0, id="ips: nothing is known of another action"),
    pytest.param(1, 1.0, None, 2.0, 2.0, id="clipped ips"),
    # 0.5 + 4 * (1 - 0.5)
    pytest.param(1, 1.0, 0.5, None, 2.5, id="doubly robust: the model, corrected"),
    pytest.param(0, 1.0, 0.5, None, 0.5, id="doubly robust: the model alone for another action"),
    # 0.5 + 2 * (0 - 0.5)
    pytest.param(1, 0.0, 0.5, 2.0, -0.5, id="clipped doubly robust"),
]


@pytest.mark.parametrize(("action", "verdict", "estimate", "max_weight", "want"), CASES)
def test_imputed_rewards(
    action: int, verdict: float, estimate: float | None, max_weight: float | None, want: float
) -> None:
    got = imputed_rewards(
        torch.tensor([action]),
        torch.tensor([1]),
        torch.tensor([verdict]),
        torch.tensor([0.25]),
        estimates=None if estimate is None else torch.tensor([estimate]),
        max_weight=max_weight,
    )
    assert got.item() == pytest.approx(want)


@pytest.mark.parametrize("estimate", [None, 0.9], ids=["ips", "doubly robust, even with a wrong model"])
def test_the_estimate_of_every_action_is_right_on_average_over_the_log(estimate: float | None) -> None:
    # logging policy mu, true rewards r: sum over logged actions of mu * estimate must be r, for each action
    mu, truth = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.6, 1.0])
    logged = torch.arange(3)
    for action in range(3):
        estimates = imputed_rewards(
            torch.full((3,), action),
            logged,
            truth,
            mu,
            estimates=None if estimate is None else torch.full((3,), estimate),
            max_weight=None,
        )
        assert float((mu * estimates).sum()) == pytest.approx(float(truth[action]), abs=1e-6)


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.01, float("nan")])
def test_a_propensity_that_is_no_probability_is_refused_with_its_row(propensity: float) -> None:
    with pytest.raises(ValueError, match=r"propensity: row 1 has .*log it when acting"):
        importance_weights(torch.zeros(2), torch.tensor([0.5, propensity]), max_weight=None)


@pytest.mark.parametrize(
    ("weights", "want"), [((1.0, 1.0, 1.0, 1.0), 4.0), ((1.0, 0.0, 0.0, 0.0), 1.0), ((2.0, 1.0), 1.8), ((0.0,), 0.0)]
)
def test_effective_sample_size(weights: tuple[float, ...], want: float) -> None:
    assert effective_sample_size(torch.tensor(weights)) == pytest.approx(want)  # (2 + 1)^2 / (4 + 1) = 1.8


def test_the_value_of_a_row_is_the_models_corrected_by_the_verdict() -> None:
    # 0.5 * 0.2 + 0.3 * 0.4 + 0.2 * 1 = 0.42; weight 0.3 / 0.1 = 3; 0.42 + 3 * (1 - 0.4) = 2.22; cut at 2: 1.62
    row = {
        "probs": torch.tensor([[0.5, 0.3, 0.2]]),
        "estimates": torch.tensor([[0.2, 0.4, 1.0]]),
        "logged_actions": torch.tensor([1]),
        "verdicts": torch.tensor([1.0]),
        "propensities": torch.tensor([0.1]),
    }
    assert float(doubly_robust_values(**row, max_weight=None)) == pytest.approx(2.22, abs=1e-6)
    assert float(doubly_robust_values(**row, max_weight=2.0)) == pytest.approx(1.62, abs=1e-6)


def test_the_value_of_a_policy_is_right_on_average_over_the_log_even_with_a_wrong_model() -> None:
    mu, truth = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.6, 1.0])
    probs = torch.tensor([[0.2, 0.2, 0.6]]).expand(3, 3)
    values = doubly_robust_values(probs, torch.full((3, 3), 0.9), torch.arange(3), truth, mu, max_weight=None)
    assert float((mu * values).sum()) == pytest.approx(float((probs[0] * truth).sum()), abs=1e-6)
