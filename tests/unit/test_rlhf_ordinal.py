"""Ratings as levels in an order, by numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ratchet_jobs.rlhf.ordinal import Levels
from ratchet_jobs.runtime.errors import BadDataError


def test_an_answer_pays_for_each_threshold_that_it_is_on_the_wrong_side_of() -> None:
    levels = Levels([0.0, 0.5, 1.0])
    with torch.no_grad():
        levels.thresholds.copy_(torch.tensor([-1.0, 1.0]))
    # raw 0.5 and score 0.5, above the first level alone: softplus(-1.5) = 0.201413 and softplus(-0.5) = 0.474077,
    # mean 0.337745; score 1, above both: softplus(-1.5) and softplus(0.5) = 0.974077, mean 0.587745
    losses = levels.losses(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 1.0]))
    assert losses.tolist() == pytest.approx([0.337745, 0.587745], abs=1e-6)


def test_thresholds_begin_with_the_share_of_each_level() -> None:
    # of eight ratings six are above the lowest level and two above the middle one: logits ln 3 and -ln 3
    levels = Levels([0.0] * 2 + [0.5] * 4 + [1.0] * 2)
    assert levels.thresholds.tolist() == pytest.approx([-math.log(3), math.log(3)], abs=1e-6)


def test_a_threshold_is_pushed_away_from_answers_above_it_and_the_answer_up() -> None:
    levels, raw = Levels([0.0, 1.0]), torch.zeros(1, requires_grad=True)
    # d softplus(-(x - b)) = -sigmoid(-(x - b)) = -1/2 for the answer, +1/2 for the threshold: descent lowers it
    torch.autograd.backward(levels.losses(raw, torch.tensor([1.0])).sum())
    assert raw.grad is not None
    assert levels.thresholds.grad is not None
    assert (float(raw.grad), float(levels.thresholds.grad)) == (-0.5, 0.5)


def test_thumbs_are_the_cross_entropy_of_regression() -> None:
    levels = Levels([0.0, 1.0])  # as many of each: the threshold is 0
    raw, scores = torch.tensor([-1.0, 0.3, 2.0]), torch.tensor([1.0, 0.0, 1.0])
    want = torch.nn.functional.binary_cross_entropy_with_logits(raw, scores, reduction="none")
    assert torch.allclose(levels.losses(raw, scores), want)


@pytest.mark.parametrize("scores", [[0.5] * 10, [number / 40 for number in range(40)]])
def test_what_has_no_levels_is_refused_with_the_way_out(scores: list[float]) -> None:
    """P39."""
    with pytest.raises(BadDataError, match=r"different values; ordinal ratings have 2 to 20 levels: set the rating"):
        Levels(scores)
