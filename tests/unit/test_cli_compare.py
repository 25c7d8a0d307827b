"""The verdict of `ratchet compare`, from intervals alone."""

from __future__ import annotations

import pytest

from ratchet_cli.compare_verb import judge
from ratchet_jobs.metrics.comparison import Difference

Interval = tuple[float, float]

CASES: dict[str, tuple[Interval, Interval, float, str]] = {
    "both above nought": ((0.01, 0.05), (0.02, 0.06), 0.0, "better"),
    "one above nought, the other touching it": ((0.01, 0.05), (0.0, 0.06), 0.0, "better"),
    "answers alike": ((0.0, 0.0), (0.0, 0.0), 0.0, "not worse"),
    "one above nought, the other unclear": ((0.01, 0.05), (-0.01, 0.06), 0.0, "undecided"),
    "one above nought, the other within the margin": ((0.01, 0.05), (-0.01, 0.06), 0.02, "better"),
    "both unclear": ((-0.02, 0.03), (-0.01, 0.06), 0.0, "undecided"),
    "both unclear but within the margin": ((-0.02, 0.03), (-0.01, 0.06), 0.02, "not worse"),
    "a loss beyond chance": ((-0.05, -0.01), (-0.06, 0.01), 0.0, "worse"),
    "a loss of macro-F1 alone": ((0.01, 0.05), (-0.06, -0.01), 0.0, "worse"),
    "a loss beyond chance that is tolerated": ((-0.05, -0.01), (-0.06, -0.01), 0.1, "not worse"),
    "a loss that ends at nought": ((-0.05, 0.0), (-0.06, 0.0), 0.0, "undecided"),
}


@pytest.mark.parametrize(("accuracy", "macro_f1", "margin", "want"), CASES.values(), ids=CASES.keys())
def test_the_verdict_follows_from_both_intervals_and_the_margin(
    accuracy: Interval, macro_f1: Interval, margin: float, want: str
) -> None:
    first, second = (Difference(0.5, 0.5, (low + high) / 2, low, high) for low, high in (accuracy, macro_f1))
    assert judge(first, second, margin=margin) == want
