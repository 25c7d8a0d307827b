"""From an answer's score to its tokens' rewards and advantages, by numbers worked out by hand; when PPO stops."""

from __future__ import annotations

import math
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch

from ratchet_api.rlhf import RlhfStage
from ratchet_jobs.recipes.rl_generator import by_fields
from ratchet_jobs.rlhf.breakers import (
    OF_GENERATORS,
    WINDOW,
    AnswerLimits,
    AnswerState,
    StepSeen,
    check_answers,
    correlation,
)
from ratchet_jobs.rlhf.calibration import LEAST_ROWS, Scaling, fit_differences, fit_scores, sigmoid
from ratchet_jobs.rlhf.shaping import KlController, Moments, penalise_unstopped, token_advantages, token_rewards
from ratchet_jobs.runtime.errors import BadConfigError, DivergedError

MASK = torch.tensor([[True, True, True], [True, True, False]])


def close(left: torch.Tensor, right: list[list[float]] | list[float]) -> bool:
    return torch.allclose(left, torch.tensor(right), rtol=0, atol=1e-6)


def test_each_token_pays_for_leaving_the_reference_and_the_last_one_gets_the_score() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -9.0]])
    reference = torch.tensor([[-2.0, -1.0, -3.0], [-1.0, -3.0, -1.0]])
    # -0.5 * (log pi - log ref): row 0: -0.5, 0.5, 0; row 1: 0, -1, and nothing of the padding's -9 against -1
    rewards = token_rewards(torch.tensor([10.0, 20.0]), logprobs, reference, MASK, kl_coef=0.5)
    assert close(rewards, [[-0.5, 0.5, 10.0], [0.0, 19.0, 0.0]])


def test_advantages_end_with_the_answer_whatever_stands_in_the_padding() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 777.0]])
    values = torch.tensor([[0.5, 1.0, 2.0], [0.5, 1.0, 777.0]])
    # gamma 0.5, lam 0.5; row 0: d2 = 4 - 2 = 2; d1 = 2 + 0.5 * 2 - 1 = 2; d0 = 1 + 0.5 * 1 - 0.5 = 1
    # A2 = 2; A1 = 2 + 0.25 * 2 = 2.5; A0 = 1 + 0.25 * 2.5 = 1.625
    # row 1: d1 = 2 - 1 = 1 and no more; d0 = 1; A1 = 1; A0 = 1.25
    advantages = token_advantages(rewards, values, MASK, gamma=0.5, lam=0.5)
    assert close(advantages, [[1.625, 2.5, 2.0], [1.25, 1.0, 0.0]])


def test_a_cut_answer_loses_the_penalty() -> None:
    scores = penalise_unstopped(torch.tensor([1.0, 1.0]), torch.tensor([True, False]), penalty=0.25)
    assert close(scores, [1.0, 0.75])


@pytest.mark.parametrize(
    ("kl", "want"),
    [
        # coef 0.1, target 4, 100 of 1,000 episodes: 0.1 * (1 + e / 10)
        pytest.param(4.4, 0.1 * 1.01, id="a tenth above the target raises the weight by a hundredth"),
        pytest.param(3.6, 0.1 * 0.99, id="a tenth below lowers it as much"),
        pytest.param(400.0, 0.1 * 1.02, id="an error counts as a fifth at most"),
        pytest.param(-1.0, 0.1 * 0.98, id="downward too"),
    ],
)
def test_the_penaltys_weight_follows_the_target(kl: float, want: float) -> None:
    assert KlController(0.1, 4.0, 1000.0).after(kl, episodes=100).coef == pytest.approx(want, abs=1e-12)


def test_without_a_target_the_weight_stays() -> None:
    assert KlController(0.1, None).after(99.0, episodes=100).coef == 0.1


@pytest.mark.parametrize(("coef", "target", "horizon"), [(-0.1, 1.0, 1.0), (0.1, 0.0, 1.0), (0.1, 1.0, 0.0)])
def test_a_controller_that_cannot_work_is_refused(coef: float, target: float, horizon: float) -> None:
    with pytest.raises(BadConfigError, match=r"(init_kl_coef|target_kl|kl_horizon): .*; give a number"):
        KlController(coef, target, horizon)


def test_moments_are_those_of_everything_seen_whatever_the_batches() -> None:
    # 1, 2, 3, 4, 10: mean 4, variance (9 + 4 + 1 + 0 + 36) / 5 = 10
    moments = Moments().with_(torch.tensor([1.0, 2.0])).with_(torch.tensor([3.0, 4.0, 10.0]))
    assert (moments.count, moments.mean) == (5, pytest.approx(4.0))
    assert moments.square_sum == pytest.approx(50.0)
    assert close(moments.whiten(torch.tensor([4.0, 4.0 + math.sqrt(10)])), [0.0, 1.0])


def test_equal_scores_whiten_to_nothing() -> None:
    assert close(Moments().with_(torch.tensor([3.0, 3.0])).whiten(torch.tensor([3.0])), [0.0])


def seen(score: float = 0.0, length: float = 10.0, follows: float = 0.0, judged: float | None = None) -> StepSeen:
    return StepSeen(score, length, follows, judged)


def judged_after(steps: list[StepSeen], *, kl: float = 1.0, empty: float = 0.0) -> AnswerState:
    state = AnswerState()
    for number, each in enumerate(steps):
        state = check_answers(each, state, kl=kl, empty_share=empty, limits=AnswerLimits(max_kl=5.0), step=number + 1)
    return state


def course(early: dict[str, float], late: dict[str, float]) -> list[StepSeen]:
    """WINDOW steps of one kind and WINDOW of another, the scores a little apart within each."""
    parts = [*[early] * WINDOW, *[late] * WINDOW]
    return [seen(**{**part, "score": part["score"] + 0.001 * (place % 2)}) for place, part in enumerate(parts)]


def test_breakers_stay_silent_on_ordinary_steps() -> None:
    state = judged_after(course({"score": 0.2}, {"score": 0.9}))
    assert (state.high_kl, state.empty, len(state.early), len(state.late)) == (0, 0, WINDOW, WINDOW)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"kl": 6.0}, "6 nats from the reference, above max_kl 5, for 3 steps"),
        ({"empty": 0.75}, "75% of the answers were empty for 3 steps"),
    ],
)
def test_three_bad_steps_in_a_row_stop_training_and_two_do_not(settings: dict[str, float], want: str) -> None:
    judged_after([seen()] * 2, **settings)
    with pytest.raises(DivergedError, match=want):
        judged_after([seen()] * 3, **settings)


def test_scores_that_are_the_length_while_answers_grow_are_reward_hacking() -> None:
    grown = {"score": 0.9, "length": 25.0, "follows": 0.97}
    with pytest.raises(DivergedError, match=r"scores follow the answers' length .* from 10 to 25 tokens"):
        judged_after(course({"score": 0.2}, grown))
    judged_after(course({"score": 0.2}, {**grown, "follows": 0.5}))
    judged_after(course({"score": 0.2}, {**grown, "length": 12.0}))
    judged_after(course({"score": 0.2}, {**grown, "follows": -0.97}))  # longer answers score *less* within a step


def test_a_score_that_rises_while_the_judges_falls_is_reward_hacking() -> None:
    early, late = {"score": 0.2, "judged": 0.8}, {"score": 0.9, "judged": 0.3}
    with pytest.raises(DivergedError, match=r"score rose from 0\.2.* to 0\.9.* while the independent judge's fell"):
        judged_after(course(early, late))
    judged_after(course(early, {**late, "judged": 0.8}))
    judged_after(course(late, early))


def test_correlation_is_pearsons_and_zero_where_nothing_varies() -> None:
    # deviations -1, 0, 1 and -1, 1, 0: 1 / sqrt(2 * 2)
    assert correlation([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(0.5)
    assert correlation([1.0, 1.0], [1.0, 2.0]) == 0.0


def test_held_out_scores_find_the_scale_that_they_were_made_with() -> None:
    raw = np.linspace(-3, 3, 60)
    found = fit_scores(raw, sigmoid(2.0 * raw - 0.5))
    assert (found.slope, found.offset) == (pytest.approx(2.0, abs=1e-3), pytest.approx(-0.5, abs=1e-3))
    assert found(np.array([0.25])) == pytest.approx(0.5, abs=1e-3)


def test_too_few_or_contrary_rows_change_nothing() -> None:
    raw = np.linspace(-3, 3, 60)
    assert fit_scores(raw, sigmoid(-raw)) == Scaling(1.0, 0.0)
    few = raw[: LEAST_ROWS - 1]
    assert fit_scores(few, sigmoid(2 * few)) == Scaling(1.0, 0.0)


def test_pairs_find_a_slope_and_the_middle_becomes_one_half() -> None:
    # every gap is 1 and three pairs in four are right: sigmoid(slope) = 3/4, slope = ln 3
    better = np.array([3.0] * 30 + [2.0] * 10)
    worse = np.array([2.0] * 30 + [3.0] * 10)
    found = fit_differences(better, worse)
    assert found.slope == pytest.approx(math.log(3), abs=1e-3)
    assert found(np.array([2.5])) == pytest.approx(0.5)


def test_separable_pairs_do_not_give_an_infinite_slope() -> None:
    found = fit_differences(np.ones(40), np.zeros(40))
    assert 1.0 < found.slope < 50.0


def test_what_stops_a_generator_names_settings_that_its_stage_has() -> None:
    fields = {field.alias for field in RlhfStage.model_fields.values()}
    for remedy in asdict(OF_GENERATORS).values():
        told = by_fields(remedy)
        named = set(re.findall(r"\b[a-z]+(?:[A-Z][a-z]+)+\b", told))
        assert named, told
        assert named <= fields
        assert "_" not in told
