"""What bench/classifier_rl shares between runs is what each would compute, and its table says what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.classifier_rl.encoded import Encoded
from bench.classifier_rl.table import table
from ratchet_api.training_run import Lora
from ratchet_jobs.models.classifier import build_classifier
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.tokenizing import load_tokenizer, tokenize
from tests.tiny_bert import reviews, write_tiny_bert


def test_features_that_runs_share_are_those_that_each_would_compute(tmp_path: Path) -> None:
    base = write_tiny_bert(tmp_path / "base")
    classifier = build_classifier(base, classes=3, lora=Lora(), max_tokens=32, seed=0)
    tokens = tokenize(load_tokenizer(base, max_tokens=32), [text for text, _ in reviews(70, seed=1)])
    encoded = Encoded()

    def ask(batch_size: int) -> np.ndarray:
        return predict_logits(classifier, tokens, batch_size=batch_size, after_batch=lambda _: None)

    want = ask(16)
    with encoded.shared():
        first, again = ask(16), ask(7)
    assert len(encoded) == len({row.tobytes() for row in tokens.rows})
    np.testing.assert_allclose(first, want, atol=1e-5)
    np.testing.assert_allclose(again, want, atol=1e-5)


def test_an_encoder_that_learns_is_not_shared(tmp_path: Path) -> None:
    base = write_tiny_bert(tmp_path / "base")
    classifier = build_classifier(base, classes=3, lora=Lora(), max_tokens=32, seed=0)
    ids = torch.ones((2, 4), dtype=torch.int64)
    with Encoded().shared(), pytest.raises(RuntimeError, match="the encoder learns"):
        classifier.pool(ids, ids)


def test_the_table_gives_means_and_intervals_of_the_differences_to_each_seeds_own_supervised_policy() -> None:
    def line(seed: int, run: str, accuracy: float, ece: float) -> dict[str, object]:
        return {
            "seed": seed, "run": run, "accuracy": accuracy, "macro_f1": accuracy, "ece": ece, "ece_calibrated": 0.01,
        }  # fmt: skip

    lines = [
        line(0, "supervised", 0.80, 0.06), line(1, "supervised", 0.70, 0.03), line(2, "supervised", 0.60, 0.03),
        line(0, "rl 10", 0.82, 0.03), line(1, "rl 10", 0.74, 0.03),
    ]  # fmt: skip
    # Differences .02 and .04: mean .03, deviation .01414, Student's t of one degree 12.706: 12.706 * .01414 / sqrt 2.
    # ECE .03 over the mean of .06 and .03.
    want = "| rl 10 | 2 | 0.7800 (+0.0300 ± 0.1271) | 0.7800 (+0.0300 ± 0.1271) | 0.0300 (-0.0150 ± 0.1906) | 0.67 |"
    text = table(lines, ["supervised", "rl 10", "rl 20"])
    assert want in text
    assert "| supervised | 3 | 0.7000 |" in text
    assert "rl 20" not in text
