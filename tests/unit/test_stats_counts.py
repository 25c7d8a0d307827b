"""The tests on counts (sample ratio, rare events) and the estimates from a log: numbers by hand, and martingales."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet_api.stats.errors import BadEvidence
from ratchet_api.stats.off_policy import (
    Estimate,
    Logged,
    NoSupport,
    doubly_robust,
    effective_samples,
    inverse_propensity,
)
from ratchet_api.stats.rare import FACTORS, RareCounts, e_rate_below, e_ratio_above, e_ratio_below
from ratchet_api.stats.ratio import SampleRatio, log_bayes_factor

HALVES = (0.5, 0.5)


def test_the_bayes_factor_of_few_subjects_is_the_one_counted_by_hand() -> None:
    # a = (50, 50). Two of one arm: 50 * 51 / (100 * 101) / 0.25; one of each: 50 * 50 / (100 * 101) / 0.25
    assert log_bayes_factor((1, 0), HALVES) == pytest.approx(0, abs=1e-12)
    assert log_bayes_factor((2, 0), HALVES) == pytest.approx(math.log(10200 / 10100), abs=1e-12)
    assert log_bayes_factor((1, 1), HALVES) == pytest.approx(math.log(10000 / 10100), abs=1e-12)


@given(
    shares=st.sampled_from([(0.5, 0.5), (0.05, 0.9, 0.05), (0.2, 0.3, 0.5)]),
    counts=st.lists(st.integers(0, 5000), min_size=3, max_size=3),
)
def test_the_bayes_factor_is_a_martingale_when_the_router_splits_as_told(
    shares: tuple[float, ...], counts: list[int]
) -> None:
    now = counts[: len(shares)]
    after = [[count + (arm == place) for place, count in enumerate(now)] for arm in range(len(shares))]
    mean = sum(
        share * math.exp(log_bayes_factor(then, shares) - log_bayes_factor(now, shares))
        for share, then in zip(shares, after, strict=True)
    )
    assert mean == pytest.approx(1, rel=1e-7)


def test_a_router_that_is_one_in_a_hundred_off_alarms_and_an_exact_one_does_not() -> None:
    """P32."""
    biased = SampleRatio(HALVES).seen((51_000, 49_000))
    assert biased.p_value < 0.001
    assert "51000 subjects where the share is 0.5" in biased.sentence
    assert SampleRatio(HALVES).seen((50_100, 49_900)).p_value == 1


def test_an_arm_without_a_share_alarms_at_its_first_subject_and_is_quiet_without() -> None:
    """P32."""
    shares = (0.5, 0.5, 0.0)
    assert SampleRatio(shares).seen((500, 500, 1)).p_value == 0
    assert SampleRatio(shares).seen((500, 500, 0)).worst == SampleRatio(HALVES).seen((500, 500)).worst


def test_what_the_counts_once_said_is_not_forgotten_by_looking_again() -> None:
    alarmed = SampleRatio(HALVES).seen((700, 500))
    assert alarmed.seen((5000, 5000)).p_value == alarmed.p_value < 0.001


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_an_honest_router_is_accused_at_any_of_many_looks_no_more_often_than_alpha(alpha: float) -> None:
    """P32, P33."""
    draws = np.random.default_rng(1).random((300, 20, 100)) < 0.5
    canary = draws.sum(2).cumsum(1)
    accused = 0
    for row in canary:
        split = SampleRatio(HALVES)
        for look, count in enumerate(row, 1):
            split = split.seen((int(count), 100 * look - int(count)))
        accused += split.p_value <= alpha
    assert accused / len(canary) <= alpha


@pytest.mark.parametrize(
    ("make", "want"),
    [
        pytest.param(lambda: SampleRatio((1.0,)), "at least two", id="one arm"),
        pytest.param(lambda: SampleRatio((0.5, 0.6)), "sum to 1.1", id="shares that are more than all"),
        pytest.param(lambda: SampleRatio((1.5, -0.5)), "between 0 and 1", id="a share below 0"),
        pytest.param(lambda: SampleRatio(HALVES).seen((1, 2, 3)), "one for each", id="three counts of two arms"),
        pytest.param(lambda: SampleRatio(HALVES).seen((5, 5)).seen((4, 9)), "stay counted", id="a count that shrinks"),
        pytest.param(lambda: RareCounts(5, 4, 0, 1).check("errors"), "candidate has 5 events of 4", id="more than all"),
        pytest.param(lambda: RareCounts(1, 4, 0, 1, 1.0).check("errors"), "errors: share is 1", id="a share of all"),
        pytest.param(lambda: e_rate_below(0, 10, 1.0), "ceiling is 1", id="a ceiling that is no limit"),
        pytest.param(lambda: e_ratio_above(RareCounts(0, 1, 0, 1), 0), "ratio is 0", id="a ratio of nothing"),
        pytest.param(lambda: inverse_propensity([Logged(1, 0, 1)]), r"rows\[0\].propensity is 0", id="no propensity"),
        pytest.param(lambda: inverse_propensity([Logged(2, 1, 1)]), r"rows\[0\].reward is 2", id="a reward above 1"),
        pytest.param(lambda: doubly_robust([Logged(1, 1, 1, math.nan)]), "logged_estimate is nan", id="an estimate"),
        pytest.param(lambda: inverse_propensity([], max_weight=0), "max_weight is 0", id="weights cut to nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(make: object, want: str) -> None:
    with pytest.raises(BadEvidence, match=want):
        make()  # type: ignore[operator]


def test_evidence_of_one_event_is_the_mean_likelihood_ratio_counted_by_hand() -> None:
    # even shares, ratio 1: the edge is a half, an alternative of f times the ratio has f / (1 + f)
    one = RareCounts(1, 100, 0, 100)
    assert e_ratio_above(one, 1.0) == pytest.approx(np.mean([2 * f / (1 + f) for f in FACTORS]), rel=1e-12)
    assert e_ratio_below(one, 1.0) == pytest.approx(np.mean([2 / (1 + f) for f in FACTORS]), rel=1e-12)
    # nothing happened to one subject: (1 - c / f) / (1 - c)
    assert e_rate_below(0, 1, 0.2) == pytest.approx(np.mean([(1 - 0.2 / f) / 0.8 for f in FACTORS]), rel=1e-12)


@given(
    candidate=st.integers(0, 60), champion=st.integers(0, 60), ratio=st.sampled_from([0.5, 1.0, 2.0]),
    share=st.sampled_from([0.5, 0.2]),
)  # fmt: skip
def test_at_the_edge_of_the_null_hypothesis_the_next_event_changes_the_evidence_by_nothing_on_average(
    candidate: int, champion: int, ratio: float, share: float
) -> None:
    edge = share * ratio / (share * ratio + 1 - share)
    for evidence in (e_ratio_above, e_ratio_below):
        now, here, there = (
            evidence(RareCounts(candidate + a, 10**6, champion + b, 10**6, share), ratio)
            for a, b in ((0, 0), (1, 0), (0, 1))
        )
        assert edge * here + (1 - edge) * there == pytest.approx(now, rel=1e-9)


# at 3,450 subjects without an event the evidence against 0.2 reaches the largest that is told, e^700
@given(events=st.integers(0, 50), more=st.integers(0, 3000), ceiling=st.sampled_from([0.001, 0.01, 0.2]))
def test_the_evidence_about_a_ceiling_is_a_martingale_at_the_ceiling(events: int, more: int, ceiling: float) -> None:
    n = events + more
    now = e_rate_below(events, n, ceiling)
    then = ceiling * e_rate_below(events + 1, n + 1, ceiling) + (1 - ceiling) * e_rate_below(events, n + 1, ceiling)
    assert then == pytest.approx(now, rel=1e-9)


def rows(n: int, *, seed: int) -> list[Logged]:
    """A live policy that answers right in 0.3 of the cases and is rated exactly; the new one would in 0.8."""
    right = np.random.default_rng(seed).random(n) < 0.3
    return [Logged(float(r), 0.3 if r else 0.7, 0.8 if r else 0.2) for r in right]


def test_inverse_propensity_and_doubly_robust_are_the_means_counted_by_hand() -> None:
    # w = 0.5 / 0.25 = 2 and 0.1 / 0.5 = 0.2. IPS: (2 * 1 + 0.2 * 0.5) / 2 = 1.05
    # DR: (0.6 + 2 * (1 - 0.7) + 0.4 + 0.2 * (0.5 - 0.4)) / 2 = (1.2 + 0.42) / 2 = 0.81
    # ESS: 2.2^2 / (4 + 0.04); the values 2 and 0.1 stray by 0.95 from their mean: half = 1.959964 * 0.95
    log = [Logged(1.0, 0.25, 0.5, 0.7, 0.6), Logged(0.5, 0.5, 0.1, 0.4, 0.4)]
    plain, robust = inverse_propensity(log, needed=1), doubly_robust(log, needed=1)
    assert isinstance(plain, Estimate)
    assert isinstance(robust, Estimate)
    assert plain.value == pytest.approx(1.05)
    assert robust.value == pytest.approx(0.81)
    assert plain.effective_samples == pytest.approx(4.84 / 4.04)
    assert plain.high - plain.value == pytest.approx(1.959964 * 0.95, abs=1e-5)
    cut = inverse_propensity(log, needed=1, max_weight=1.5)
    assert isinstance(cut, Estimate)
    assert (cut.value, cut.clipped) == (pytest.approx((1.5 + 0.1) / 2), 0.5)


def test_the_log_of_another_policy_tells_what_the_new_one_is_worth() -> None:
    found = inverse_propensity(rows(4000, seed=3))
    assert isinstance(found, Estimate)
    assert found.low < 0.8 < found.high
    assert found.high - found.low < 0.15


def test_a_right_model_makes_the_doubly_robust_estimate_exact_and_a_wrong_one_leaves_it_unbiased() -> None:
    log = rows(4000, seed=4)
    exact = [row._replace(logged_estimate=row.reward, target_estimate=0.8) for row in log]
    wrong = [row._replace(logged_estimate=0.5, target_estimate=0.5) for row in log]
    known, corrected = doubly_robust(exact), doubly_robust(wrong)
    assert isinstance(known, Estimate)
    assert isinstance(corrected, Estimate)
    assert (known.value, known.low, known.high) == pytest.approx((0.8, 0.8, 0.8))
    assert corrected.low < 0.8 < corrected.high


def test_a_policy_that_answers_as_the_live_one_hardly_ever_does_gets_no_number() -> None:
    log = [Logged(1.0, 0.99, 0.001)] * 500 + [Logged(1.0, 0.001, 0.99)]
    found = inverse_propensity(log)
    assert isinstance(found, NoSupport)
    assert found.effective_samples < 2
    assert "501 rated answers are worth 1.0 samples" in found.sentence
    assert "explorationPercent" in found.sentence
    assert isinstance(inverse_propensity([]), NoSupport)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=50))
def test_effective_samples_lie_between_one_and_all_and_equal_weights_lose_none(weights: list[float]) -> None:
    assert 1 - 1e-9 <= effective_samples(weights) <= len(weights) + 1e-9
    assert effective_samples([weights[0]] * len(weights)) == pytest.approx(len(weights))
    assert effective_samples([]) == 0
