"""How long an answer takes: the median per text, the first one left out, by a clock of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratchet_api.training_run import Lora
from ratchet_jobs.models import timing
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.models.classifier import LoadedPolicy, build_classifier
from ratchet_jobs.models.tokenizing import load_tokenizer
from tests.tiny_bert import write_tiny_bert


class Clock:
    """Each answer takes as long as the list says; asking for the time takes none."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.answers = 0

    def __call__(self) -> float:
        return self.now

    def answer(self) -> None:
        self.now += self.seconds[min(self.answers, len(self.seconds) - 1)]
        self.answers += 1


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> LoadedPolicy:
    base: Path = write_tiny_bert(tmp_path_factory.mktemp("tiny"))
    classifier = build_classifier(base, classes=2, lora=Lora(), max_tokens=32, seed=0)
    card = PolicyCard.model_validate(
        {"labels": ["a", "b"], "maxTokens": 32, "baseModel": {"uri": "store://models/tiny", "sha256": "0" * 64}}
    )
    return LoadedPolicy(classifier, card, load_tokenizer(base, max_tokens=32))


def timed(
    policy: LoadedPolicy, monkeypatch: pytest.MonkeyPatch, seconds: list[float], batch_size: int
) -> tuple[float, Clock]:
    clock, real = Clock(seconds), timing.predict_logits

    def slow(*args: object, **settings: object) -> object:
        clock.answer()
        return real(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(timing, "predict_logits", slow)
    return timing.ms_per_sample(policy, ["my card", "the loan"], batch_size=batch_size, clock=clock), clock


def test_the_first_answer_warms_up_and_the_median_counts(policy: LoadedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    got, clock = timed(policy, monkeypatch, [9.0, 0.004, 0.5, 0.004], 4)
    assert got == pytest.approx(1.0)  # 4 ms for a batch of 4
    assert clock.answers == timing.LEAST_REPEATS + 1, "the warm-up used the patience up"


def test_a_quick_policy_is_timed_often(policy: LoadedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    got, clock = timed(policy, monkeypatch, [0.002], 1)
    assert (got, clock.answers) == (pytest.approx(2.0), timing.REPEATS + 1)


def test_real_time_is_told_in_milliseconds(policy: LoadedPolicy) -> None:
    assert 0 < timing.ms_per_sample(policy, ["my card"], batch_size=1) < 1000
