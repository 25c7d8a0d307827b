"""A critic: a head per quality beside the score's, learned alike, told beside the reward and never added to it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from ratchet_api.answer_reward import AnswerReward
from ratchet_jobs.rlhf.calibration import Scaling
from ratchet_jobs.rlhf.critic import calibrated_by_halves, calibrated_qualities, quality_losses
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.reward_model import Preferred, Rated, RewardModel, row_losses
from ratchet_jobs.rlhf.rewards import AnswerRewards
from ratchet_jobs.rlhf.said import Sources
from ratchet_jobs.rlhf.scorers import Answer


def test_the_loss_of_qualities_is_the_mean_of_their_cross_entropies() -> None:
    # at raw 1 and 0.75: softplus(1) - 0.75 = 0.563262; at raw 0 and 0.5: ln 2 = 0.693147; their mean: 0.628204
    losses = quality_losses(torch.tensor([[1.0, 0.0]]), [(0.75, 0.5)])
    assert losses.tolist() == pytest.approx([0.628204], abs=1e-6)


def test_a_critics_row_costs_its_score_and_its_qualities_and_a_pair_costs_what_it_did() -> None:
    class Fixed:
        def every(self, answers: list[Answer]) -> torch.Tensor:
            return torch.tensor([[float(each.response), 0.0] for each in answers])

    # the score at raw 1 and 0.75: 0.563262; the quality at raw 0 and 0.5: 0.693147; the pair 2 against 1: 0.313262
    rows = [Preferred("p", "2", "1"), Rated("p", "1", 0.75, (0.5,))]
    losses = row_losses(cast(Any, Fixed()), rows)
    assert losses.tolist() == pytest.approx([0.563262 + 0.693147, 0.313262], abs=1e-6)


def test_each_quality_is_calibrated_by_its_own_held_out_rows() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(400, 2))
    # the first head says what is so, the second only half of it
    truth = np.stack([1 / (1 + np.exp(-raw[:, 0])), 1 / (1 + np.exp(-2 * raw[:, 1]))], 1)
    one, other = calibrated_qualities(raw, truth)
    assert (one.scaling.slope, other.scaling.slope) == pytest.approx((1.0, 2.0), abs=0.02)
    assert max(one.mean_squared_error, other.mean_squared_error) < 1e-4


def test_a_row_does_not_calibrate_itself() -> None:
    raw = np.linspace(-2, 2, 80)
    given = np.where(np.arange(80) % 2 == 0, 1 / (1 + np.exp(-raw)), 0.5)
    # the even half says slope 1, by which the odd half is scaled; the odd half says that nothing matters
    honest = calibrated_by_halves(raw, given)
    assert honest[1::2] == pytest.approx(1 / (1 + np.exp(-raw[1::2])), abs=0.01)
    assert honest[0::2] == pytest.approx(np.full(40, 0.5), abs=0.01)


def test_qualities_stand_beside_the_reward_and_are_no_part_of_it() -> None:
    class Critic(RewardModel):
        def parts_of_episodes(self, episodes: Episodes) -> torch.Tensor:
            return torch.tensor([[0.5, 0.1], [0.7, 0.3]])

    model = Critic(cast(Any, None), Scaling(), {"empathy": Scaling()})
    wanted = AnswerReward.model_validate({"type": "rewardModel", "weight": 2.0})
    rewards = AnswerRewards([wanted], texts=lambda _: ["a", "b"], max_new_tokens=4, sources=Sources(model=model))
    empty = torch.zeros((2, 1), dtype=torch.long)
    episodes = cast(Any, type("Said", (), {"prompt_ids": empty, "prompt_mask": empty.bool()})())
    worths = rewards.worths(episodes)
    assert {name: worth.tolist() for name, worth in worths.items()} == {
        "rewardModel": pytest.approx([0.5, 0.7]),
        "rewardModel/empathy": pytest.approx([0.1, 0.3]),
    }
    assert rewards.latest["rewardModel/empathy"] == pytest.approx(0.2)
    assert rewards.weighed(worths).tolist() == pytest.approx([1.0, 1.4])
