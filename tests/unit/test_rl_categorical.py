"""The distribution over classes: log-probabilities, entropy, divergence and draws, absent classes included."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ratchet_jobs.rl.categorical import entropy, epsilon_greedy, kl_divergence, log_prob_of, sample

GONE = float("-inf")


def of_probs(*rows: tuple[float, ...]) -> Tensor:
    """Logits with these probabilities; shifted by 3, which changes nothing."""
    return torch.tensor(rows).log() + 3.0


def test_log_probability_of_the_action_taken() -> None:
    logits = of_probs((0.5, 0.25, 0.25), (0.1, 0.2, 0.7))
    got = log_prob_of(logits, torch.tensor([1, 2]))
    torch.testing.assert_close(got, torch.tensor([0.25, 0.7]).log(), rtol=0, atol=1e-6)


def test_log_probabilities_are_exact_in_float32_for_bfloat16_logits() -> None:
    # bfloat16 has 8 bits: a log-softmax computed in it would be off by 0.4 %, and PPO's ratio with it
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    want = log_prob_of(logits, torch.tensor([0]))
    got = log_prob_of(logits.to(torch.bfloat16), torch.tensor([0]))  # 1, 2 and 4 are exact in bfloat16
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("probs", "want"),
    [
        # 1/2 ln 2 + 2 * 1/4 ln 4 = 3/2 ln 2
        pytest.param((0.5, 0.25, 0.25), 1.5 * math.log(2), id="uneven"),
        pytest.param((0.25, 0.25, 0.25, 0.25), math.log(4), id="uniform: log A"),
        pytest.param((0.5, 0.5, 0.0), math.log(2), id="an absent class counts as 0 log 0 = 0"),
        pytest.param((1.0, 0.0), 0.0, id="certain"),
    ],
)
def test_entropy(probs: tuple[float, ...], want: float) -> None:
    assert entropy(of_probs(probs)).item() == pytest.approx(want, abs=1e-6)


def test_entropy_and_its_gradient_stay_finite_with_an_absent_class() -> None:
    logits = torch.tensor([[0.0, math.log(3), GONE]], requires_grad=True)  # 1/4, 3/4
    entropy(logits).sum().backward()
    # dH/dz_i = -p_i (ln p_i + H); H = 0.5623351; for p = 1/4: -0.25 * (-1.3862944 + 0.5623351) = 0.2059898
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.2059898, -0.2059898, 0.0]]), rtol=0, atol=1e-6)


def test_kl_divergence_of_two_distributions() -> None:
    # 1/2 ln(0.5 / 0.25) + 1/2 ln(0.5 / 0.75) = 1/2 ln(4/3) = 0.1438410; the other way round 0.1308121
    p, q = of_probs((0.5, 0.5)), of_probs((0.25, 0.75))
    assert kl_divergence(p, q).item() == pytest.approx(0.1438410, abs=1e-6)
    assert kl_divergence(q, p).item() == pytest.approx(0.1308121, abs=1e-6)
    assert kl_divergence(p, p + 5.0).item() == pytest.approx(0.0, abs=1e-6)


def test_kl_divergence_ignores_a_class_absent_from_both() -> None:
    p, q = of_probs((0.5, 0.5, 0.0)), of_probs((0.25, 0.75, 0.0))
    p.requires_grad_()
    divergence = kl_divergence(p, q)
    assert divergence.item() == pytest.approx(0.1438410, abs=1e-6)
    divergence.sum().backward()
    assert p.grad is not None
    assert bool(torch.isfinite(p.grad).all())


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    logits = of_probs((0.7, 0.3, 0.0)).expand(20_000, 3)
    actions = sample(logits, generator=torch.Generator().manual_seed(1))
    shares = torch.bincount(actions, minlength=3) / 20_000
    # standard error sqrt(0.21 / 20000) = 0.0032; four of them
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.3, 0.0]), rtol=0, atol=0.013)
    assert torch.equal(actions, sample(logits, generator=torch.Generator().manual_seed(1)))


def test_epsilon_greedy_takes_the_best_or_any_and_knows_with_what_probability() -> None:
    q_values = torch.tensor([[0.1, 0.9, 0.2, GONE]]).expand(20_000, 4)
    actions, logprobs = epsilon_greedy(q_values, epsilon=0.3, generator=torch.Generator().manual_seed(2))
    # three classes exist: each gets 0.1, the best 0.7 more
    shares = torch.bincount(actions, minlength=4) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.8, 0.1, 0.0]), rtol=0, atol=0.013)
    torch.testing.assert_close(logprobs.exp(), torch.where(actions == 1, 0.8, 0.1), rtol=0, atol=1e-6)


def test_epsilon_0_always_takes_the_best() -> None:
    actions, logprobs = epsilon_greedy(
        torch.tensor([[1.0, 2.0], [4.0, 3.0]]), epsilon=0.0, generator=torch.Generator().manual_seed(0)
    )
    assert actions.tolist() == [1, 0]
    assert logprobs.tolist() == [0.0, 0.0]


def test_one_action_per_row_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"logits \(2, 3\), actions \(2, 1\)"):
        log_prob_of(torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int64))
