"""Confidence sequences, their tuning and planning: numbers by hand, laws, and agreement with GrowthBook's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet_api.stats.errors import BadEvidence
from ratchet_api.stats.planning import days_for, fixed_subjects, subjects_to_show
from ratchet_api.stats.samples import Arms, Sample
from ratchet_api.stats.sequences import (
    Difference,
    difference,
    one_sided,
    p_above,
    p_two_sided,
    tuned_precision,
    two_sided,
)

VALUES = st.lists(st.floats(0, 1), max_size=30)


def seen(estimate: float = 0.1, se2: float = 4.0, subjects: int = 1000) -> Difference:
    return Difference(estimate, se2, subjects)


def tuned(subjects: int, *, precision: float) -> float:
    """Tuning at which subjects * r2 is this, for a two-sided alpha of 0.05: -2 ln 0.05 + ln(1 - 2 ln 0.05) = 7.936."""
    return subjects * 7.936156162 / precision


def test_a_sample_has_the_mean_the_variance_and_the_rarer_outcome_of_its_values() -> None:
    # mean (0 + 0.5 + 1 + 1) / 4 = 0.625; squares 2.25; (2.25 - 2.5^2 / 4) / 3 = 0.6875 / 3; 1.5 are missing to 1
    sample = Sample.of([0.0, 0.5, 1.0, 1.0])
    assert (sample.subjects, sample.total, sample.squares) == (4, 2.5, 2.25)
    assert sample.mean == 0.625
    assert sample.variance == pytest.approx(0.6875 / 3, abs=1e-15)
    assert sample.events == 1.5


@given(VALUES, VALUES)
def test_samples_of_two_windows_add_up_to_the_sample_of_both(one: list[float], other: list[float]) -> None:
    added, whole = Sample.of(one) + Sample.of(other), Sample.of(one + other)
    assert added.subjects == whole.subjects
    assert (added.total, added.squares) == pytest.approx((whole.total, whole.squares), abs=1e-12)
    if len(one + other) > 1:
        assert whole.variance == pytest.approx(np.var(one + other, ddof=1), abs=1e-9)


@pytest.mark.parametrize(
    ("make", "want"),
    [
        pytest.param(lambda: Sample(-1), "sample.subjects is -1", id="fewer than no subjects"),
        pytest.param(lambda: Sample(3, 4.0, 3.0), "sample.total is 4 of 3", id="a mean above 1"),
        pytest.param(lambda: Sample(3, math.nan, 1.0), "sample.total is nan", id="a total that is no number"),
        pytest.param(lambda: Sample(4, 2.0, 0.5), "sample.squares is 0.5", id="squares below what the total needs"),
        pytest.param(lambda: Sample(4, 2.0, 3.0), "sample.squares is 3", id="squares above the total"),
        pytest.param(lambda: Sample.of([0.2, 1.5]), r"values\[1\] is 1.5", id="a value above 1"),
        pytest.param(lambda: Sample.of([math.nan]), r"values\[0\] is nan", id="a value that is no number"),
        pytest.param(lambda: difference(Arms(Sample.of([1.0]), Sample.of([0, 1]))), "candidate.subjects is 1", id="1"),
        pytest.param(lambda: tuned_precision(0, 10), "alpha is 0", id="alpha 0"),
        pytest.param(lambda: tuned_precision(0.1, 0), "tune to is 0", id="tuned to nobody"),
        pytest.param(lambda: one_sided(seen(), alpha=0.5, tuned_to=9), "alpha is 0.5", id="an alpha of a half"),
        pytest.param(lambda: fixed_subjects(0, variance=1, alpha=0.1, power=0.9), "effect is 0", id="no effect"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(make: object, want: str) -> None:
    with pytest.raises(BadEvidence, match=want):
        make()  # type: ignore[operator]


def test_the_difference_is_candidate_minus_champion_with_the_variance_of_each_arm() -> None:
    # 30 of 50: 0.6, variance 50/49 * 0.24; 20 of 80: 0.25, variance 80/79 * 0.1875
    found = difference(Arms(candidate=Sample.of_counts(30, 50), champion=Sample.of_counts(20, 80)))
    assert found.estimate == pytest.approx(0.35)
    assert found.se2 == pytest.approx(0.24 / 49 + 0.1875 / 79, rel=1e-12)
    assert found.subjects == 130


def test_the_half_widths_are_those_of_the_formulas() -> None:
    # n r2 = 3, so n r2 + 1 = 4 and its root 2; standard error 2.
    # two sides, alpha 0.05: 2 * sqrt(2 * 4 / 3 * ln(2 / 0.05)) = 2 * sqrt(8 / 3 * 3.688879454) = 6.272802
    # one side, alpha 0.025: 2 * sqrt(8 / 3 * ln(1 + 2 / 0.05)) = 2 * sqrt(8 / 3 * 3.713572067) = 6.293761
    to = tuned(1000, precision=3)
    assert two_sided(seen(), alpha=0.05, tuned_to=to) == pytest.approx((0.1 - 6.272802, 0.1 + 6.272802), abs=1e-6)
    assert one_sided(seen(), alpha=0.025, tuned_to=to) == pytest.approx((0.1 - 6.293761, 0.1 + 6.293761), abs=1e-6)


# champion's successes and subjects, candidate's, alpha, tuning; then what gbstats 0.8.0 (SequentialTwoSidedTTest, on
# numpy 1.26, which it pins) computes: interval and p-value
GBSTATS = [
    ((700, 1000, 650, 1000), 0.05, 5000, (-0.11537122122928474, 0.015371221229284873), 0.23315691317371826),
    ((52, 400, 91, 380), 0.05, 1000, (0.025404641380396817, 0.19354272704065578), 0.003132116778627286),
    ((4100, 5000, 4010, 5000), 0.01, 20000, (-0.046282816552148845, 0.010282816552149035), 0.27348894133804447),
    ((120, 900, 121, 910), 0.1, 300, (-0.04692901993802828, 0.04619641920542755), 1.0),
]


@pytest.mark.parametrize(("counts", "alpha", "tuned_to", "interval", "p"), GBSTATS)
def test_the_two_sided_sequence_is_that_of_gbstats(
    counts: tuple[int, int, int, int], alpha: float, tuned_to: float, interval: tuple[float, float], p: float
) -> None:
    champion, candidate = Sample.of_counts(*counts[:2]), Sample.of_counts(*counts[2:])
    found = difference(Arms(candidate, champion))
    assert two_sided(found, alpha=alpha, tuned_to=tuned_to) == pytest.approx(interval, abs=1e-9)
    assert p_two_sided(found, alpha=alpha, tuned_to=tuned_to) == pytest.approx(p, abs=1e-9)


@given(
    estimate=st.floats(-0.9, 0.9), se2=st.floats(1e-6, 0.05), subjects=st.integers(4, 10**6),
    alpha=st.sampled_from([0.01, 0.05, 0.1]), tuned_to=st.sampled_from([200.0, 5000.0, 1e5]),
)  # fmt: skip
def test_a_p_value_is_below_alpha_exactly_when_the_bound_leaves_the_margin_behind(
    estimate: float, se2: float, subjects: int, alpha: float, tuned_to: float
) -> None:
    found = Difference(estimate, se2, subjects)
    two, one = two_sided(found, alpha=alpha, tuned_to=tuned_to), one_sided(found, alpha=alpha, tuned_to=tuned_to)
    assert (p_two_sided(found, alpha=alpha, tuned_to=tuned_to) < alpha) == (not two.low <= 0 <= two.high)
    for margin in (0.0, -0.05):
        assert (p_above(found, margin, alpha=alpha, tuned_to=tuned_to) < alpha) == (one.low > margin)


@given(
    p=st.floats(0.05, 0.95), subjects=st.integers(10, 10**5), more=st.integers(1, 10**5), alpha=st.floats(0.001, 0.2)
)
def test_more_subjects_and_more_risk_make_a_bound_narrower(p: float, subjects: int, more: int, alpha: float) -> None:
    def half(n: int, risk: float) -> float:
        return one_sided(Difference(0.0, p * (1 - p) / n, n), alpha=risk, tuned_to=5000).high

    assert half(subjects + more, alpha) < half(subjects, alpha)
    assert half(5000, alpha * 1.5) < half(5000, alpha)


def test_the_tuning_makes_the_sequence_about_as_narrow_as_it_can_be_there() -> None:
    def half(tuned_to: float) -> float:
        return two_sided(Difference(0.0, 0.25 / 2000, 2000), alpha=0.05, tuned_to=tuned_to).high

    assert half(2000) <= 1.01 * min(half(2000 * factor) for factor in (0.25, 0.5, 0.8, 1.25, 2, 4))
    assert half(2000 * 30) > 1.2 * half(2000)


def test_arms_that_differ_without_varying_leave_no_doubt_and_arms_that_are_equal_prove_nothing() -> None:
    apart = difference(Arms(Sample.of_counts(0, 200), Sample.of_counts(200, 200)))
    assert one_sided(apart, alpha=0.05, tuned_to=5000) == (-1, -1)
    assert p_two_sided(apart, alpha=0.05, tuned_to=5000) < 1e-200
    equal = difference(Arms(Sample.of_counts(200, 200), Sample.of_counts(200, 200)))
    assert p_two_sided(equal, alpha=0.05, tuned_to=5000) == 1


def test_a_fixed_test_needs_the_textbook_number_of_subjects() -> None:
    # (1.644854 + 1.281552)^2 = 8.563847; 2 * 0.25 * 8.563847 / 0.05^2 = 1712.8 in each arm
    assert fixed_subjects(-0.05, variance=0.25, alpha=0.05, power=0.9) == 2 * 1713


@given(estimate=st.floats(0.01, 0.5), subjects=st.integers(10, 5000))
def test_about_n_more_subjects_is_the_first_number_that_shows_it(estimate: float, subjects: int) -> None:
    found = Difference(estimate, 0.5 / subjects, subjects)
    more = subjects_to_show(found, 0.0, alpha=0.05, tuned_to=5000)
    assert more is not None

    def low(n: int) -> float:
        return one_sided(Difference(estimate, 0.5 / n, n), alpha=0.05, tuned_to=5000).low

    assert low(subjects + more) > 0
    assert more == 0 or low(subjects + more - 1) <= 0


def test_what_goes_the_wrong_way_is_never_shown_and_no_traffic_takes_for_ever() -> None:
    assert subjects_to_show(Difference(-0.01, 0.001, 500), 0.0, alpha=0.05, tuned_to=5000) is None
    assert subjects_to_show(Difference(0.3, 0.0001, 5000), 0.0, alpha=0.05, tuned_to=5000) == 0
    assert days_for(700, per_day=200) == 3.5
    assert days_for(700, per_day=0) is None
