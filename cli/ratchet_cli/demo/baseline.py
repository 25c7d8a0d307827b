"""The number to beat: tf-idf over words and word pairs with a linear SVM, on the same rows as the policy.

Printed beside the demo's result, so that nobody has to guess whether training an encoder was worth it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ratchet_cli.demo.dataset import Rows


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the baseline reaches on the test split."""

    accuracy: float
    macro_f1: float
    seconds: float


def train_baseline(rows: Rows) -> Baseline:
    """Train on the train rows, measure on the test rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    began = time.monotonic()
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LinearSVC())
    model.fit([row.text for row in rows.train], [row.label for row in rows.train])
    answers = model.predict([row.text for row in rows.test])
    truth = [row.label for row in rows.test]
    return Baseline(
        accuracy=float(accuracy_score(truth, answers)),
        macro_f1=float(f1_score(truth, answers, average="macro")),
        seconds=time.monotonic() - began,
    )
