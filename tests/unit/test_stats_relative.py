"""The relative change of a mean: its estimate, its bounds by their definition, and what cannot be bounded yet."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet_api.stats.errors import BadEvidence
from ratchet_api.stats.relative import relative_change
from ratchet_api.stats.samples import Arms, Sample
from ratchet_api.stats.sequences import Difference, two_sided

SETTINGS = {"alpha": 0.05, "tuned_to": 5000.0}


def arms(candidate: int, champion: int, subjects: int = 1000) -> Arms:
    return Arms(Sample.of_counts(candidate, subjects), Sample.of_counts(champion, subjects))


def contains_zero(counted: Arms, ratio: float) -> bool:
    """Whether candidate - ratio x champion may be zero, by the sequence itself."""
    variances = [arm.variance / arm.subjects for arm in counted]
    estimate = counted.candidate.mean - ratio * counted.champion.mean
    seen = Difference(estimate, variances[0] + ratio**2 * variances[1], counted.subjects)
    between = two_sided(seen, **SETTINGS)
    return between.low <= 0 <= between.high


def test_the_change_is_the_ratio_of_the_means_less_one() -> None:
    change = relative_change(arms(700, 600), **SETTINGS)
    assert change.estimate == pytest.approx(1 / 6, abs=1e-12)
    assert str(change).startswith("+16.7%, between +")


@given(st.integers(1, 999), st.integers(1, 999))
def test_the_bounds_are_where_zero_leaves_the_sequence_of_the_weighted_difference(
    candidate: int, champion: int
) -> None:
    counted = arms(candidate, champion)
    change = relative_change(counted, **SETTINGS)
    assert change.low <= change.estimate <= change.high
    if change.low > -1:
        assert contains_zero(counted, (1 + change.low) * (1 + 1e-9))
        assert not contains_zero(counted, (1 + change.low) * (1 - 1e-6))
    if math.isfinite(change.high):
        assert contains_zero(counted, (1 + change.high) * (1 - 1e-9))
        assert not contains_zero(counted, (1 + change.high) * (1 + 1e-6))
    else:
        assert contains_zero(counted, 1e6)


def test_a_fifth_more_is_shown_where_the_candidate_is_better_by_more_than_a_fifth() -> None:
    assert relative_change(arms(900, 600), **SETTINGS).low > 0.2
    assert relative_change(arms(660, 600), **SETTINGS).low < 0 < relative_change(arms(660, 600), **SETTINGS).high


def test_the_true_ratio_is_within_the_bounds_at_every_look() -> None:
    """300 trials of 20 looks each, whose true change is +25 %: at most the alpha of them may ever miss it."""
    rng = np.random.default_rng(7)
    missed = 0
    for _ in range(300):
        looks = np.cumsum(rng.binomial(200, (0.5, 0.4), size=(20, 2)), axis=0)
        changes = [relative_change(arms(*map(int, row), 200 * (n + 1)), **SETTINGS) for n, row in enumerate(looks)]
        missed += any(not change.low <= 0.25 <= change.high for change in changes)
    assert missed <= 0.05 * 300


@pytest.mark.parametrize(
    ("counted", "estimate"),
    [
        pytest.param(arms(5, 0, 100), math.inf, id="some of none"),
        pytest.param(arms(0, 0, 100), None, id="none of none"),
    ],
)
def test_of_a_champion_whom_nobody_liked_everything_may_be(counted: Arms, estimate: float | None) -> None:
    change = relative_change(counted, **SETTINGS)
    assert change.estimate == estimate if estimate else math.isnan(change.estimate)
    assert (change.low, change.high) == (-1, math.inf)
    assert str(change).endswith("between -100.0% and any")


def test_one_subject_has_no_variance() -> None:
    with pytest.raises(BadEvidence, match=r"champion\.subjects is 1"):
        relative_change(Arms(Sample.of([0.0, 1.0]), Sample.of([1.0])), **SETTINGS)
