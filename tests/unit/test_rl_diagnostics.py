"""What is watched while learning, schedules, seeds and circuit breakers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ratchet_jobs.rl.breakers import BreakerState, Limits, check_update
from ratchet_jobs.rl.diagnostics import clipped, explained_variance, kl_k1, kl_k3
from ratchet_jobs.rl.learner import UpdateStats
from ratchet_jobs.rl.schedules import linear
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.runtime.errors import BadConfigError, DivergedError, NotANumberError

HEALTHY = BreakerState(first_entropy=2.0)
OLD = torch.full((2,), math.log(0.5))
NEW = torch.tensor([math.log(0.25), math.log(1.0)])  # ratios 1/2 and 2


def test_k1_is_minus_the_log_ratio() -> None:
    torch.testing.assert_close(kl_k1(NEW, OLD), torch.tensor([math.log(2), -math.log(2)]), rtol=0, atol=1e-6)


def test_k3_is_ratio_minus_1_minus_the_log_ratio_and_never_negative() -> None:
    # 1/2 - 1 + ln 2 = 0.1931472; 2 - 1 - ln 2 = 0.3068528
    torch.testing.assert_close(kl_k3(NEW, OLD), torch.tensor([0.1931472, 0.3068528]), rtol=0, atol=1e-6)


def test_both_estimates_average_to_the_divergence_under_the_old_policy() -> None:
    # KL(old || new) with old (1/2, 1/2), new (1/4, 3/4) = 1/2 ln 2 + 1/2 ln(2/3) = 0.1438410
    old, new = torch.full((2,), math.log(0.5)), torch.tensor([math.log(0.25), math.log(0.75)])
    for estimate in (kl_k1, kl_k3):
        assert estimate(new, old).mean().item() == pytest.approx(0.1438410, abs=1e-6)


def test_a_ratio_outside_the_range_counts_as_clipped_on_both_sides() -> None:
    ratios = torch.tensor([1.25, 1.15, 0.75, 0.85])
    assert clipped(ratios.log(), torch.zeros(4), cliprange=0.2).tolist() == [True, False, True, False]


def test_explained_variance() -> None:
    # returns 1, 2, 6: variance 14/3; what is left, 0, 0, 3: variance 2; 1 - 2 / (14/3) = 4/7
    assert explained_variance(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 6.0])) == pytest.approx(4 / 7)


def test_explained_variance_of_equal_returns_does_not_exist() -> None:
    assert explained_variance(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 5.0])) is None


@pytest.mark.parametrize(
    ("progress", "over", "want"),
    [
        (0.0, 1.0, 1.0),
        (0.25, 1.0, 0.8),
        (1.0, 1.0, 0.2),
        (0.25, 0.5, 0.6),
        (0.5, 0.5, 0.2),
        (0.9, 0.5, 0.2),
        (0.0, 0.0, 0.2),
    ],
)
def test_linear_schedule_from_1_to_a_fifth(progress: float, over: float, want: float) -> None:
    assert linear(1.0, 0.2, progress=progress, over=over) == pytest.approx(want)


def test_a_generator_depends_on_seed_and_purpose_alone() -> None:
    def first(*purpose: str | int, seed: int = 1) -> float:
        return float(torch.rand(1, generator=generator_for(seed, *purpose)))

    assert first("minibatches", 3) == first("minibatches", 3)
    assert (
        len({first("minibatches", 3), first("minibatches", 4), first("replay", 3), first("minibatches", 3, seed=2)})
        == 4
    )


def stats(**changes: float | None) -> UpdateStats:
    healthy = UpdateStats(
        policy_loss=-0.1,
        value_loss=0.2,
        entropy=2.0,
        approx_kl=0.01,
        clipfrac=0.1,
        explained_variance=0.5,
        grad_norm=0.3,
        learning_rate=1e-4,
        optimizer_steps=4,
    )
    return replace(healthy, **changes)  # type: ignore[arg-type]


def judge(what: UpdateStats, before: BreakerState = HEALTHY, *, constant: bool = False) -> BreakerState:
    limits = Limits(max_kl=0.5, min_entropy_ratio=0.01, patience=2)
    return check_update(what, before, limits=limits, reward_constant=constant, update=7)


def test_a_healthy_update_passes_and_sets_the_entropy_to_compare_with() -> None:
    assert judge(stats(), BreakerState()) == BreakerState(first_entropy=2.0)


@pytest.mark.parametrize("name", ["policy_loss", "value_loss", "grad_norm", "entropy"])
def test_a_statistic_that_is_no_number_stops_the_run(name: str) -> None:
    with pytest.raises(NotANumberError, match=rf"update 7: {name} is nan; lower learningRate"):
        judge(stats(**{name: math.nan}))


def test_a_kl_above_its_limit_stops_the_run_at_once() -> None:
    judge(stats(approx_kl=0.5))
    with pytest.raises(DivergedError, match=r"update 7: approx_kl 0\.51 is above 0\.5: .* lower learningRate"):
        judge(stats(approx_kl=0.51))


def test_collapsed_entropy_stops_the_run_when_it_lasts() -> None:
    # floor: 1 % of 2.0
    once = judge(stats(entropy=0.019))
    assert once.low_entropy == 1
    with pytest.raises(
        DivergedError, match=r"entropy 0\.019 nats is below 0\.02, .* for 2 updates: .* raise entropyCoef"
    ):
        judge(stats(entropy=0.019), once)
    assert judge(stats(entropy=0.021), once).low_entropy == 0, "a good update in between starts the count anew"


def test_a_reward_without_variance_stops_the_run_when_it_lasts() -> None:
    once = judge(stats(), constant=True)
    with pytest.raises(DivergedError, match=r"last 2 rollouts got the same reward: .* check the reward's settings"):
        judge(stats(), once, constant=True)
    assert judge(stats(), once, constant=False).constant_reward == 0


def test_an_algorithm_without_entropy_or_kl_is_not_judged_by_them() -> None:
    nothing = stats(entropy=None, approx_kl=None, clipfrac=None, policy_loss=None)
    assert judge(nothing, BreakerState()) == BreakerState()


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"max_kl": 0.0}, "breakers.max_kl: 0.0"),
        ({"min_entropy_ratio": 1.0}, "breakers.min_entropy_ratio: 1.0"),
        ({"patience": 0}, "breakers.patience: 0"),
    ],
)
def test_limits_out_of_range_are_refused(settings: dict[str, float], want: str) -> None:
    with pytest.raises(BadConfigError, match=want):
        Limits(**settings)  # type: ignore[arg-type]
