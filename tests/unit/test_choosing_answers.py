"""Which generator is kept: RL's, unless its answers may be worth less or it breaks a gate."""

from __future__ import annotations

import numpy as np
import pytest

from ratchet_api.training_run import Evaluation
from ratchet_jobs.metrics.choosing_answers import SHOWN, Floats, Judged, choose_answers, paired, win_rate

BETTER = np.linspace(0.5, 0.9, 40)
NUMBERS = dict.fromkeys((*SHOWN, "reward", "agreement"), 1.0)


def chosen(rewards: Floats, baseline: Floats, **evaluation: object) -> Judged:
    wanted = Evaluation.model_validate(evaluation)
    return choose_answers(NUMBERS, NUMBERS, rewards, baseline, role="supervised", wanted=wanted, seed=3)


def test_the_interval_is_of_the_paired_difference() -> None:
    """Prompts differ much more than policies: unpaired, nothing would be seen."""
    row = paired(BETTER, BETTER - 0.01, confidence=0.95, resamples=500, seed=0)
    assert (row.low, row.high) == (pytest.approx(0.01), pytest.approx(0.01))
    draws = np.random.default_rng(0).normal(0.1, 1.0, 400)
    row = paired(draws, np.zeros(400), confidence=0.95, resamples=4000, seed=0)
    half = 1.96 * draws.std() / 20
    assert row.low == pytest.approx(draws.mean() - half, abs=0.02)
    assert row.high == pytest.approx(draws.mean() + half, abs=0.02)


def test_equal_answers_win_half() -> None:
    assert win_rate(np.array([1.0, 2.0, 3.0, 0.0]), np.array([0.0, 2.0, 4.0, 0.0])) == pytest.approx(0.5)
    assert win_rate(np.array([1.0, 2.0]), np.array([0.0, 1.0])) == 1.0


def test_a_loss_is_kept_only_within_the_margin() -> None:
    worse = BETTER - 0.05
    assert chosen(BETTER, worse).choice.chosen == "rl"
    lost = chosen(worse, BETTER)
    assert lost.choice.chosen == "supervised"
    assert "the difference may be -0.0500, must be >= 0" in lost.choice.why
    assert chosen(worse, BETTER, comparison={"margin": 0.06}).choice.chosen == "rl"
    assert lost.metrics["diff/reward"] == pytest.approx(-0.05)
    assert lost.metrics["rl/win_rate"] == 0.0


def test_a_policy_that_breaks_a_gate_is_not_kept_however_good() -> None:
    lost = chosen(BETTER, BETTER - 0.5, gates=[{"metric": "perplexity", "maximum": 0.5}])
    assert lost.choice.chosen == "supervised"
    assert "perplexity" in lost.choice.why


def test_where_nothing_was_rewarded_telling_pairs_apart_decides() -> None:
    wanted = Evaluation.model_validate({"comparison": {"resamples": 500}})
    told, start = np.array([1.0] * 9 + [0.0]), np.full(10, 0.5)
    kept = choose_answers(NUMBERS, NUMBERS, told, start, role="start", wanted=wanted, seed=3, worth="agreement")
    assert kept.choice.chosen == "rl"
    assert kept.metrics["diff/agreement"] == pytest.approx(0.4)
    assert kept.metrics["baseline/agreement"] == 1.0
    assert not {"diff/reward", "rl/win_rate", "rl/reward"} & set(kept.metrics)
    unsure = np.array([1.0] * 6 + [0.0] * 4)
    lost = choose_answers(NUMBERS, NUMBERS, unsure, start, role="start", wanted=wanted, seed=3, worth="agreement")
    assert lost.choice.chosen == "start"
    assert lost.choice.why.startswith("agreement 0.6000 against 0.5000")


def test_a_gate_may_ask_the_judge_whatever_the_rewards_say() -> None:
    wanted = Evaluation.model_validate({"gates": [{"metric": "judge_win_rate", "minimum": 0.6}]})
    given = {"role": "start", "wanted": wanted, "seed": 3}
    lost = choose_answers(NUMBERS, NUMBERS, BETTER, BETTER - 0.1, judge_win_rate=0.55, **given)
    assert "judge_win_rate is 0.55, must be >= 0.6" in lost.choice.why
    assert (lost.choice.chosen, lost.metrics["judge_win_rate"], lost.metrics["rl/judge_win_rate"]) == (
        "start",
        0.5,
        0.55,
    )
    kept = choose_answers(NUMBERS, NUMBERS, BETTER, BETTER - 0.1, judge_win_rate=0.65, **given)
    assert (kept.choice.chosen, kept.metrics["judge_win_rate"]) == ("rl", 0.65)
    assert "65% by the judge" in kept.choice.why


def test_a_gate_may_ask_how_often_answers_are_better() -> None:
    gate = {"metric": "win_rate", "minimum": 0.8}
    kept = chosen(BETTER, BETTER - 0.01, gates=[gate])
    assert (kept.choice.chosen, kept.metrics["win_rate"]) == ("rl", 1.0)
    lost = chosen(BETTER, BETTER, gates=[gate])
    assert "win_rate is 0.5, must be >= 0.8" in lost.choice.why
    assert (lost.choice.chosen, lost.metrics["win_rate"]) == ("supervised", 0.5)
