"""Learning rate, step counts and class weights, worked out by hand."""

import numpy as np
import pytest

from ratchet_api.steps import steps_per_epoch, total_steps
from ratchet_jobs.models.schedule import balanced_class_weights, learning_rate_factor


def test_learning_rate_rises_over_the_warmup_and_falls_to_its_last_positive_step() -> None:
    # 10 steps, 20 % warm-up = 2 steps: 1/2, 2/2; then (10 - step) / 8 for step 2..9: 8/8 ... 1/8
    factors = [learning_rate_factor(step, steps=10, warmup_ratio=0.2) for step in range(10)]
    np.testing.assert_allclose(factors, [1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8], atol=1e-12)


def test_no_warmup_starts_at_the_peak() -> None:
    assert [learning_rate_factor(step, steps=2, warmup_ratio=0) for step in range(2)] == [1.0, 0.5]


def test_warmup_over_the_whole_run_never_divides_by_zero() -> None:
    assert [learning_rate_factor(step, steps=2, warmup_ratio=1) for step in range(2)] == [0.5, 1.0]


STEP_CASES = [
    pytest.param(32, 16, 1.0, 2, id="whole batches"),
    pytest.param(33, 16, 1.0, 3, id="a smaller last batch is a step"),
    pytest.param(33, 16, 2.0, 6, id="epochs multiply"),
    pytest.param(32, 16, 0.25, 1, id="a fraction of an epoch is rounded up"),
    pytest.param(1000, 10, 0.07, 7, id="and not past what decimals mean: 0.07 * 100 is 7.000000000000001"),
    pytest.param(5, 4096, 3.0, 3, id="a batch above the data is one step per epoch"),
    pytest.param(5, 16, 0.0001, 1, id="a run has at least one step"),
]


@pytest.mark.parametrize(("rows", "batch_size", "epochs", "want_steps"), STEP_CASES)
def test_total_steps(rows: int, batch_size: int, epochs: float, want_steps: int) -> None:
    assert total_steps(rows, batch_size, epochs) == want_steps


def test_steps_per_epoch_counts_the_last_partial_batch() -> None:
    assert [steps_per_epoch(rows, 8) for rows in (1, 8, 9)] == [1, 1, 2]


def test_balanced_weights_give_every_class_that_occurs_the_same_total() -> None:
    # 6 rows of 3 classes that occur: 6 / (3 * 3), 6 / (3 * 2), 6 / (3 * 1); class 2 has no row
    weights = balanced_class_weights(np.array([0, 0, 0, 1, 1, 3]), classes=4)
    np.testing.assert_allclose(weights, [2 / 3, 1, 0, 2], atol=1e-6)
    assert weights.dtype == np.float32
