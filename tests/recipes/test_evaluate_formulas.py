"""Every number of an evaluation, against figures worked out by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from ratchet_jobs.metrics import classification as formulas

# Three classes, six examples: a is right once and taken for b once, b right twice, c right once and taken for a once.
LABELS = np.array([0, 0, 1, 1, 2, 2])
PREDICTED = np.array([0, 1, 1, 1, 2, 0])


def random_case(seed: int, *, rows: int = 400, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)) * 2
    labels = np.where(rng.random(rows) < 0.6, logits.argmax(1), rng.integers(0, classes, rows))
    return logits, labels


def test_confusion_matrix_has_true_classes_as_rows() -> None:
    matrix = formulas.confusion_matrix(LABELS, PREDICTED, classes=3)
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]


def test_per_class_table_matches_numbers_worked_out_by_hand() -> None:
    # a: 1 right of 2 predicted, of 2 true -> 1/2, 1/2, 2*1/(2+2) = 1/2
    # b: 2 right of 3 predicted, of 2 true -> 2/3, 1,   2*2/(3+2) = 4/5
    # c: 1 right of 1 predicted, of 2 true -> 1,   1/2, 2*1/(1+2) = 2/3
    table = formulas.per_class(formulas.confusion_matrix(LABELS, PREDICTED, classes=3))
    np.testing.assert_allclose(table.precision, [1 / 2, 2 / 3, 1], atol=1e-12)
    np.testing.assert_allclose(table.recall, [1 / 2, 1, 1 / 2], atol=1e-12)
    np.testing.assert_allclose(table.f1, [1 / 2, 4 / 5, 2 / 3], atol=1e-12)
    assert table.support.tolist() == [2, 2, 2]
    assert formulas.macro_f1(table) == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3, abs=1e-12)
    assert formulas.accuracy(formulas.confusion_matrix(LABELS, PREDICTED, classes=3)) == pytest.approx(4 / 6)


def test_class_that_occurs_nowhere_does_not_pull_macro_f1_down() -> None:
    table = formulas.per_class(formulas.confusion_matrix(LABELS, PREDICTED, classes=4))
    assert table.f1[3] == 0
    assert formulas.macro_f1(table) == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3, abs=1e-12)


def test_class_that_is_never_right_counts_as_zero_in_macro_f1() -> None:
    table = formulas.per_class(formulas.confusion_matrix(np.array([0, 0, 1]), np.array([0, 0, 0]), classes=2))
    assert formulas.macro_f1(table) == pytest.approx((2 * 2 / (3 + 2) + 0) / 2, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_table_agrees_with_scikit_learn(seed: int) -> None:
    logits, labels = random_case(seed)
    predicted = logits.argmax(1)
    confusion = formulas.confusion_matrix(labels, predicted, classes=5)
    table = formulas.per_class(confusion)
    precision, recall, f1, support = oracle.precision_recall_fscore_support(labels, predicted, zero_division=0)
    assert confusion.tolist() == oracle.confusion_matrix(labels, predicted).tolist()
    np.testing.assert_allclose(table.precision, precision, atol=1e-12)
    np.testing.assert_allclose(table.recall, recall, atol=1e-12)
    np.testing.assert_allclose(table.f1, f1, atol=1e-12)
    assert table.support.tolist() == support.tolist()
    assert formulas.macro_f1(table) == pytest.approx(oracle.f1_score(labels, predicted, average="macro"), abs=1e-12)
    probs = np.exp(formulas.log_softmax(logits))
    assert formulas.negative_log_likelihood(logits, labels) == pytest.approx(oracle.log_loss(labels, probs), abs=1e-9)
    # scikit-learn's multi-class Brier score without halving is the sum over classes, as ours
    want_brier = oracle.brier_score_loss(labels, probs, scale_by_half=False)
    assert formulas.brier_score(probs, labels) == pytest.approx(want_brier, abs=1e-9)


def test_brier_score_matches_number_worked_out_by_hand() -> None:
    # (0.7-1)^2 + 0.2^2 + 0.1^2 = 0.14;  0.5^2 + (0.5-1)^2 + 0 = 0.5;  mean 0.32
    probs = np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]])
    assert formulas.brier_score(probs, np.array([0, 1])) == pytest.approx(0.32, abs=1e-12)


def test_calibration_error_matches_number_worked_out_by_hand() -> None:
    # Two bins. (0, 0.5]: confidences 0.3, 0.5, one right: |0.5 - 0.4| * 2/5. (0.5, 1]: 0.6, 0.8, 1.0, two right:
    # |2/3 - 0.8| * 3/5. Sum: 0.04 + 0.08 = 0.12. A right-open bin would put 0.5 into the second one and give 0.22.
    confidence = np.array([0.3, 0.5, 0.6, 0.8, 1.0])
    right = np.array([False, True, True, False, True])
    assert formulas.expected_calibration_error(confidence, right, bins=2) == pytest.approx(0.12, abs=1e-12)


def test_the_bins_of_a_reliability_diagram_are_the_terms_of_the_calibration_error() -> None:
    # The rows of the test above in four bins: (0.25, 0.5] holds 0.3 and 0.5, one right; (0.5, 0.75] holds 0.6, right;
    # (0.75, 1] holds 0.8 and 1.0, one right; no confidence is below 0.25.
    confidence = np.array([0.3, 0.5, 0.6, 0.8, 1.0])
    right = np.array([False, True, True, False, True])
    got = formulas.reliability(confidence, right, bins=4)
    assert [(each.low, each.high, each.rows, each.accuracy) for each in got] == [
        (0.25, 0.5, 2, 0.5),
        (0.5, 0.75, 1, 1.0),
        (0.75, 1.0, 2, 0.5),
    ]
    assert [each.confidence for each in got] == pytest.approx([0.4, 0.6, 0.9], abs=1e-12)
    error = sum(each.rows * abs(each.accuracy - each.confidence) for each in got) / 5
    assert error == pytest.approx(formulas.expected_calibration_error(confidence, right, bins=4), abs=1e-12)


def test_errors_of_opposite_sign_cancel_inside_one_bin_only() -> None:
    confidence, right = np.array([0.9, 0.6]), np.array([False, True])
    assert formulas.expected_calibration_error(confidence, right, bins=1) == pytest.approx(0.25, abs=1e-12)
    assert formulas.expected_calibration_error(confidence, right, bins=10) == pytest.approx(0.65, abs=1e-12)


def test_certain_and_right_has_no_calibration_error_at_both_ends_of_the_scale() -> None:
    assert formulas.expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False]), bins=7) == 0


def test_fitted_temperature_undoes_a_known_scaling() -> None:
    # Labels drawn from softmax(z) make T = 1 right for z, hence T = 3 right for 3 z.
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 1.5
    labels = (np.exp(formulas.log_softmax(logits)).cumsum(1) > rng.random((20_000, 1))).argmax(1)
    assert formulas.fit_temperature(logits, labels) == pytest.approx(1.0, abs=0.03)
    assert formulas.fit_temperature(logits * 3, labels) == pytest.approx(3.0, abs=0.09)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 30))
@settings(max_examples=30, deadline=None)
def test_no_temperature_nearby_is_better_than_the_fitted_one(seed: int, scale: float) -> None:
    logits, labels = random_case(seed, rows=60)
    logits = logits * scale
    best = formulas.fit_temperature(logits, labels)
    low, high = formulas.TEMPERATURE_BOUNDS
    loss = formulas.negative_log_likelihood(logits, labels, temperature=best)
    for other in np.clip([best * 0.98, best * 1.02, 1.0, low, high], low, high):
        assert loss <= formulas.negative_log_likelihood(logits, labels, temperature=float(other)) * (1 + 1e-5) + 1e-9


def test_temperature_of_logits_in_the_thousands_is_finite_and_inside_its_bounds() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]])
    assert formulas.fit_temperature(logits, np.array([0, 1, 0])) == pytest.approx(
        formulas.TEMPERATURE_BOUNDS[0], rel=1e-4
    )
    assert formulas.fit_temperature(logits, np.array([1, 0, 1])) == pytest.approx(
        formulas.TEMPERATURE_BOUNDS[1], rel=1e-4
    )


def test_log_softmax_of_huge_logits_does_not_overflow() -> None:
    np.testing.assert_allclose(
        formulas.log_softmax(np.array([[1e5, 1e5], [-1e5, -1e5 + 1]])),
        [[-math.log(2), -math.log(2)], [-math.log(1 + math.e), 1 - math.log(1 + math.e)]],
        atol=1e-9,
    )


ABSTAIN_CASES = [
    # confidences 0.9 right, 0.8 right, 0.7 wrong, 0.6 right: accuracies when cut below each: 1, 1, 2/3, 3/4
    pytest.param(0.75, 0.0, id="everything is answered if that is good enough"),
    pytest.param(0.9, 0.8, id="the lowest confidence that keeps the accuracy is the threshold"),
    pytest.param(1.0, 0.8, id="perfection is possible above the first error"),
    pytest.param(0.76, 0.8, id="a cut that dips below the target in between is skipped"),
]


@pytest.mark.parametrize(("target", "want_threshold"), ABSTAIN_CASES)
def test_abstain_threshold(target: float, want_threshold: float) -> None:
    confidence, right = np.array([0.6, 0.9, 0.7, 0.8]), np.array([True, True, False, True])
    assert formulas.abstain_threshold(confidence, right, target_accuracy=target) == want_threshold


def test_equal_confidences_are_answered_together_or_not_at_all() -> None:
    # The tie at 0.8 is half right; taking only its right half would promise an accuracy that cannot be had.
    confidence, right = np.array([0.9, 0.8, 0.8, 0.5]), np.array([True, True, False, False])
    assert formulas.abstain_threshold(confidence, right, target_accuracy=0.9) == 0.9


def test_unreachable_accuracy_means_that_the_policy_always_abstains() -> None:
    confidence, right = np.array([0.9, 0.8]), np.array([False, True])
    threshold = formulas.abstain_threshold(confidence, right, target_accuracy=0.9)
    assert threshold == formulas.ABSTAIN_ALWAYS
    assert formulas.selective(confidence, right, threshold=threshold) == (0.0, 0.0)


def test_example_exactly_at_the_threshold_is_answered() -> None:
    confidence, right = np.array([0.9, 0.8, 0.5]), np.array([True, False, False])
    assert formulas.selective(confidence, right, threshold=0.8) == (pytest.approx(2 / 3), 0.5)


@given(seed=st.integers(0, 10_000), target=st.floats(0.05, 1.0))
@settings(max_examples=50, deadline=None)
def test_chosen_threshold_keeps_its_promise_on_the_data_it_was_chosen_on(seed: int, target: float) -> None:
    logits, labels = random_case(seed, rows=50)
    confidence = np.round(np.exp(formulas.log_softmax(logits)).max(1), 2)  # rounding makes ties
    right = logits.argmax(1) == labels
    threshold = formulas.abstain_threshold(confidence, right, target_accuracy=target)
    coverage, accuracy = formulas.selective(confidence, right, threshold=threshold)
    assert coverage == 0 or threshold == formulas.ABSTAIN_ALWAYS or accuracy >= target - 1e-12
    lower = [cut for cut in np.unique(confidence) if cut < threshold]
    assert all(formulas.selective(confidence, right, threshold=cut).accuracy < target for cut in lower)
