"""Two policies on the same rows: against numbers worked out by hand, published ones, and rows drawn plainly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as oracle

from ratchet_jobs.metrics import classification
from ratchet_jobs.metrics.comparison import Comparison, compare, mcnemar

# Six rows, two classes. The baseline has four right, the candidate five:
#   row        0  1  2  3  4  5
#   label      0  0  0  1  1  1
#   baseline   0  0  1  1  1  0     rows 2 and 5 wrong
#   candidate  0  0  0  1  1  0     row 5 wrong
LABELS = np.array([0, 0, 0, 1, 1, 1])
BASELINE = np.array([0, 0, 1, 1, 1, 0])
CANDIDATE = np.array([0, 0, 0, 1, 1, 0])


def comparison(labels=LABELS, baseline=BASELINE, candidate=CANDIDATE, **changed) -> Comparison:  # type: ignore[no-untyped-def]
    settings = {"classes": 2, "confidence": 0.95, "resamples": 2000, "seed": 0} | changed
    return compare(labels, baseline, candidate, **settings)


def parted(first: int, second: int, both: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Which rows the baseline and the candidate have right, when so many are right for one of them alone."""
    baseline = np.array([True] * first + [False] * second + [True] * both)
    candidate = np.array([False] * first + [True] * second + [True] * both)
    return baseline, candidate


def test_differences_match_numbers_worked_out_by_hand() -> None:
    got = comparison(slices=(0, 1))
    # accuracy 4/6 against 5/6
    assert got.accuracy[:3] == pytest.approx((4 / 6, 5 / 6, 1 / 6))
    # baseline: class 0 has 2 right of 3 predicted and 3 true, class 1 likewise: F1 = 2*2/(3+3) = 2/3 both
    # candidate: class 0 has 3 right of 4 predicted and 3 true: 6/7; class 1 has 2 right of 2 predicted, 3 true: 4/5
    assert got.macro_f1[:3] == pytest.approx((2 / 3, (6 / 7 + 4 / 5) / 2, (6 / 7 + 4 / 5) / 2 - 2 / 3))
    # on the rows of class 0: 2/3 against 3/3; of class 1: 2/3 both
    assert got.slices[0][:3] == pytest.approx((2 / 3, 1, 1 / 3))
    assert got.slices[1] == pytest.approx((2 / 3, 2 / 3, 0, 0, 0))


def test_a_class_that_occurs_nowhere_changes_no_number() -> None:
    assert comparison(classes=5).macro_f1 == comparison(classes=2).macro_f1


def test_interval_of_the_accuracy_is_that_of_the_binomial_it_is() -> None:
    # Every row is right for the candidate; one in four is wrong for the baseline: the difference in a resample is
    # Binomial(n, 1/4) / n, whose quantiles scipy knows.
    n = 400
    labels, baseline = np.zeros(n, dtype=int), np.repeat([1, 0, 0, 0], n // 4)
    got = comparison(labels, baseline, labels, resamples=20_000).accuracy
    want = oracle.binom.ppf([0.025, 0.975], n, 0.25) / n
    assert (got.low, got.high) == pytest.approx(tuple(want), abs=1.01 / n)  # the quantile may stand a row beside
    assert got.difference == 0.25


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_drawing_cells_is_drawing_rows(confidence: float) -> None:
    """The plain bootstrap, row by row with scikit-learn's definitions by `classification`, has the same intervals."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 150)
    baseline = np.where(rng.random(150) < 0.6, labels, rng.integers(0, 4, 150))
    candidate = np.where(rng.random(150) < 0.75, labels, rng.integers(0, 4, 150))
    plain = []
    for _ in range(3000):
        rows = rng.integers(0, 150, 150)
        macro = []
        for answers in (baseline, candidate):
            confusion = classification.confusion_matrix(labels[rows], answers[rows], classes=4)
            macro.append(classification.macro_f1(classification.per_class(confusion)))
        plain.append(macro[1] - macro[0])
    want = np.quantile(plain, [(1 - confidence) / 2, (1 + confidence) / 2])
    got = comparison(labels, baseline, candidate, classes=4, confidence=confidence, resamples=3000).macro_f1
    # a 2.5 % quantile of 3000 draws has a standard error of about sd / 20, and there are two of them
    tolerance = 5 * np.std(plain) / 20
    assert (got.low, got.high) == pytest.approx(tuple(want), abs=tolerance)
    assert got.low < got.difference < got.high


def test_two_policies_that_answer_alike_differ_by_nothing() -> None:
    got = comparison(candidate=BASELINE, slices=(0,))
    for each in (got.accuracy, got.macro_f1, got.slices[0]):
        assert (each.difference, each.low, each.high) == (0, 0, 0)
        assert each.not_worse(0.0)
    assert got.mcnemar == (0, 0, 1.0, 0.5)


def test_candidate_that_is_better_or_worse_beyond_chance_is_told_so() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 1000)
    good, poor = (np.where(rng.random(1000) < share, labels, (labels + 1) % 3) for share in (0.9, 0.7))
    better, worse = comparison(labels, poor, good, classes=3), comparison(labels, good, poor, classes=3)
    assert better.accuracy.not_worse(0.0)
    assert not worse.accuracy.not_worse(0.0)
    assert not worse.accuracy.not_worse(0.15)
    assert worse.accuracy.not_worse(0.3)
    assert worse.accuracy.low == pytest.approx(-better.accuracy.high, abs=0.01)
    assert better.mcnemar.p_mid < 1e-6


def test_a_lower_bound_on_the_margin_itself_passes() -> None:
    # Without any row on which they part the interval is a point: -0.0 or 0.0 must not decide.
    got = comparison(candidate=BASELINE).accuracy
    assert got.not_worse(0.0)
    assert not got._replace(low=-0.011).not_worse(0.01)
    assert got._replace(low=-0.01).not_worse(0.01)


def test_a_class_without_rows_is_not_measured_and_never_passes() -> None:
    got = comparison(classes=3, slices=(2,)).slices[2]
    assert math.isnan(got.low)
    assert not got.not_worse(1.0)


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    rng = np.random.default_rng(1)
    labels, baseline, candidate = rng.integers(0, 5, (3, 300))
    first, again, other = (comparison(labels, baseline, candidate, classes=5, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first.macro_f1 != other.macro_f1


def test_resampling_in_pieces_changes_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = comparison(resamples=50)
    monkeypatch.setattr("ratchet_jobs.metrics.comparison._CELLS_AT_ONCE", 20)
    assert comparison(resamples=50) == whole


def test_rows_that_are_not_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="have 6, 6 and 5 rows; they must be the same rows"):
        comparison(candidate=CANDIDATE[:5])
    nothing = np.zeros(0, dtype=int)
    with pytest.raises(ValueError, match="at least one"):
        comparison(nothing, nothing, nothing)


# --- McNemar ---


def test_mcnemar_gives_the_published_example() -> None:
    # Fagerland et al. 2013, table 1 (Bentur et al.): 1 and 7 rows part. exact = 2 (C(8,0) + C(8,1)) / 2^8 = 18/256,
    # mid-p = 18/256 - 8/256
    got = mcnemar(*parted(1, 7))
    assert got == pytest.approx((1, 7, 18 / 256, 10 / 256))


def test_mcnemar_of_equal_numbers() -> None:
    # n = 4, 2 each: P(K = 2) = 6/16, mid-p = 1 - 6/32
    assert mcnemar(*parted(2, 2)) == pytest.approx((2, 2, 1, 1 - 6 / 32))


@given(first=st.integers(0, 60), second=st.integers(0, 60))
@settings(deadline=None)
def test_mcnemar_agrees_with_the_binomial_test(first: int, second: int) -> None:
    got = mcnemar(*parted(first, second))
    turned = mcnemar(*parted(second, first))
    n = first + second
    assert got.p_exact == pytest.approx(oracle.binomtest(first, n).pvalue if n else 1.0, abs=1e-10)
    assert (got.p_exact, got.p_mid) == pytest.approx((turned.p_exact, turned.p_mid))
    assert 0 < got.p_mid < got.p_exact <= 1 + 1e-12


def test_mcnemar_of_many_rows_neither_overflows_nor_vanishes() -> None:
    got = mcnemar(*parted(50_500, 49_500))
    assert got.p_exact == pytest.approx(oracle.binomtest(50_500, 100_000).pvalue, rel=1e-6)
