"""What each algorithm of a generator's RL makes of scored answers, by numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.objectives import Experience
from ratchet_jobs.rlhf.objectives.groups import GroupRelative, LeaveOneOut, answer_means, group_relative, leave_one_out
from ratchet_jobs.rlhf.objectives.proximal import Proximal
from ratchet_jobs.rlhf.ppo import PpoSettings
from ratchet_jobs.runtime.errors import BadConfigError

MASK = torch.tensor([[True, True], [True, False]])
SCORES = torch.tensor([1.0, 3.0])


def episodes_of(logprobs: Tensor, mask: Tensor = MASK) -> Episodes:
    nothing = torch.zeros_like(logprobs)
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    return Episodes(ids[:, :1], mask[:, :1], ids, mask, logprobs, nothing, nothing, mask[:, 0])


def close(left: Tensor, right: list[float] | list[list[float]]) -> bool:
    return torch.allclose(left, torch.tensor(right), rtol=0, atol=1e-6)


def test_grpo_measures_an_answer_in_deviations_of_its_own_group() -> None:
    # group 1, 2, 3, 6: mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5; the other group is all alike and teaches nothing
    worth = group_relative(torch.tensor([1.0, 2.0, 3.0, 6.0, 0.1, 0.1, 0.1, 0.1]), group_size=4)
    unit = math.sqrt(3.5)
    assert close(worth, [-2 / unit, -1 / unit, 0.0, 3 / unit, 0.0, 0.0, 0.0, 0.0])


def test_rloo_measures_an_answer_by_the_mean_of_the_others() -> None:
    # 1, 2, 6: 1 - 8/2 = -3; 2 - 7/2 = -1.5; 6 - 3/2 = 4.5
    assert close(leave_one_out(torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), group_size=3), [-3, -1.5, 4.5, 0, 0, 0])


def test_a_long_answer_weighs_as_much_as_a_short_one() -> None:
    assert close(answer_means(torch.tensor([[1.0, 3.0], [5.0, 777.0]]), MASK), [2.0, 5.0])


def test_rloo_pays_for_leaving_the_reference_with_the_whole_answer() -> None:
    logprobs, reference = torch.tensor([[-1.0, -1.0], [-2.0, 0.0]]), torch.tensor([[-2.0, -3.0], [-2.0, 0.0]])
    # log ratios 1 + 2 = 3 and 0; R = 1 - 0.5 * 3 = -0.5 and 3; A = -0.5 - 3 = -3.5 and 3.5
    made = LeaveOneOut(2, 0.2).experience(episodes_of(logprobs), SCORES, reference, kl_coef=0.5)
    assert close(made.advantages, [[-3.5, -3.5], [3.5, 0.0]])


def test_rlos_ratio_is_that_of_the_whole_answer_and_is_clipped() -> None:
    old = Experience(episodes_of(torch.zeros(2, 2)), torch.tensor([[-2.0, -2.0], [2.0, 0.0]]), MASK * 0.0, MASK * 0.0)
    now = torch.tensor([[0.05, 0.05], [math.log(1.5), 0.0]])
    # row 0: ratio exp(0.1), within 0.8..1.2: 2 * exp(0.1); row 1: ratio 1.5 is cut to 1.2: -2 * 1.2
    policy, value = LeaveOneOut(2, 0.2).losses(old, now, None, kl_coef=9.0)
    assert close(policy, [2 * math.exp(0.1), -2.4])
    assert value is None


def test_grpos_loss_is_each_answers_mean_of_clipped_ratios_and_distance_from_the_reference() -> None:
    made = GroupRelative(2, 0.2).experience(episodes_of(torch.zeros(2, 2)), SCORES, torch.zeros(2, 2), kl_coef=9.0)
    assert close(made.advantages, [[-1.0, -1.0], [1.0, 0.0]])
    reference = torch.tensor([[math.log(0.5), 0.0], [math.log(3.0), 0.0]])
    now = torch.tensor([[0.0, math.log(0.9)], [math.log(1.5), 0.0]])
    # k3 with q = ref / now, q - 1 - log q. Row 0: q = 0.5: -0.5 + log 2; q = 1 / 0.9. Surrogates: 1 and 0.9.
    # Row 1: ratio 1.5 is cut to 1.2: -1.2; q = 2: 1 - log 2
    first = (1.0 + 0.1 * (math.log(2) - 0.5) + 0.9 + 0.1 * (1 / 0.9 - 1 + math.log(0.9))) / 2
    policy, value = GroupRelative(2, 0.2).losses(made._replace(ref_logprobs=reference), now, None, kl_coef=0.1)
    assert close(policy, [first, -1.2 + 0.1 * (1 - math.log(2))])
    assert value is None


def test_ppos_advantages_are_gaes_of_scores_and_penalties_and_returns_add_the_values() -> None:
    logprobs, reference = torch.tensor([[-1.0, -2.0], [-1.0, 0.0]]), torch.tensor([[-1.5, -1.0], [-1.0, 0.0]])
    values = torch.tensor([[0.5, 1.0], [2.0, 777.0]])
    made = Proximal(0.9, 0.5, 0.2, 0.2).experience(
        replace(episodes_of(logprobs), values=values), SCORES, reference, kl_coef=0.2
    )
    # rewards: -0.2 * 0.5 = -0.1 and -0.2 * -1 + 1 = 1.2; 3. Deltas: -0.1 + 0.9 * 1 - 0.5 = 0.3 and 1.2 - 1 = 0.2; 3 - 2
    # advantages: 0.3 + 0.9 * 0.5 * 0.2 = 0.39, 0.2 and 1: mean 0.53, variance (0.0196 + 0.1089 + 0.2209) / 3
    deviation = math.sqrt(0.3494 / 3)
    assert close(made.advantages, [[-0.14 / deviation, -0.33 / deviation], [0.47 / deviation, 0.0]])
    assert torch.allclose(made.returns[MASK], torch.tensor([0.89, 1.2, 3.0]), rtol=0, atol=1e-6)


def test_ppos_ratio_is_clipped_token_by_token_and_the_value_near_its_old_self() -> None:
    advantages, returns = torch.tensor([[1.0, -2.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [4.0, 0.0]])
    old = Experience(episodes_of(torch.zeros(2, 2)), advantages, returns, torch.zeros(2, 2))
    now = torch.tensor([[math.log(1.5), math.log(0.5)], [math.log(1.1), 9.0]])
    # ratios 1.5 -> 1.2: -1.2; 0.5 -> 0.8: 2 * 0.8 = 1.6; 1.1 stays: -2.2
    # values from 0: 1 hits 1, but within 0.3 it is 0.3: (0.3 - 1)^2 / 2; 0.05 stays; 3 becomes 0.3: (0.3 - 4)^2 / 2
    values = torch.tensor([[1.0, 0.05], [3.0, 9.0]])
    policy, value = Proximal(1.0, 0.95, 0.2, 0.3).losses(old, now, values, kl_coef=9.0)
    assert value is not None
    assert close(policy, [-1.2, 1.6, -2.2])
    assert close(value, [0.245, 0.00125, 6.845])


def test_ppo_counts_tokens_and_groups_count_answers() -> None:
    lengths = torch.tensor([3, 1])
    assert Proximal(1.0, 0.95, 0.2, 0.2).count(lengths) == 4
    assert GroupRelative(2, 0.2).count(lengths) == LeaveOneOut(2, 0.2).count(lengths) == 2


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"algorithm": "grpo"}, "group_size: 1 with algorithm grpo; give 1 for ppo, 2 or more for others"),
        ({"group_size": 4}, "group_size: 4 with algorithm ppo"),
        ({"algorithm": "rloo", "group_size": 3}, "batch_size: 8 is no multiple of group_size 3"),
        ({"algorithm": "rloo", "group_size": -2}, "group_size: -2 with algorithm rloo"),
        ({"algorithm": "dqn", "group_size": 2}, "algorithm: dqn; give one of ppo, grpo, rloo"),
    ],
)
def test_groups_that_make_no_sense_are_refused(changes: dict[str, Any], want: str) -> None:
    with pytest.raises(BadConfigError, match=want):
        replace(PpoSettings(), **changes)
