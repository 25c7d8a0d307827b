"""The number to beat: tf-idf over words and word pairs with a linear SVM, on the same rows as the policy.

Twice: on whole texts, which is what the SVM is good at, and on the words that the encoder was given, which is the even
comparison. Printed beside the demo's result, so that nobody has to guess whether training an encoder was worth it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from ratchet_cli.demo.dataset import Row, Rows


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the baseline reaches on the test split."""

    accuracy: float
    macro_f1: float
    seconds: float


def cut_rows(rows: Rows, *, model: Path, max_tokens: int) -> Rows:
    """Cut each train and test text after the last word piece that the encoder reads.

    Args:
        rows: with whole texts.
        model: folder with tokenizer.json.
        max_tokens: of the run, special tokens included.
    """
    from ratchet_jobs.models.tokenizing import load_tokenizer

    tokenizer = load_tokenizer(model, max_tokens=max_tokens)

    def cut(part: tuple[Row, ...]) -> tuple[Row, ...]:
        encoded = tokenizer.encode_batch([row.text for row in part])
        ends = (max((end for _, end in each.offsets), default=0) for each in encoded)
        return tuple(replace(row, text=row.text[:end]) for row, end in zip(part, ends, strict=True))

    return Rows(cut(rows.train), rows.validation, cut(rows.test))


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
