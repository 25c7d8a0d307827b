"""Numbers of answers, each derived by hand."""

from __future__ import annotations

import math

import pytest

from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.answering import Scored
from ratchet_jobs.metrics.changes import change_of, held_bleu, held_distinct, held_mean
from ratchet_jobs.metrics.generation import answer_metrics, bleu, distinct, repetition, score_metrics


def rows(asked: str, *responses: str) -> list[Demonstration]:
    return [Demonstration((Turn("user", asked),), response) for response in responses]


def test_bleu_is_the_precision_of_words_with_a_penalty_for_what_is_too_short() -> None:
    # Three words, all in the reference of four: precision 1, brevity penalty exp(1 - 4/3).
    assert bleu(["the cat sat"], ["the cat sat down"], order=1) == pytest.approx(math.exp(-1 / 3), rel=1e-6)
    # "a b x b": words a, b, b of the reference "a b c b" are right (3/4); of the pairs "a b" alone (1/3).
    assert bleu(["a b x b"], ["a b c b"], order=1) == pytest.approx(3 / 4)
    assert bleu(["a b x b"], ["a b c b"], order=2) == pytest.approx(math.sqrt(3 / 4 * 1 / 3))


def test_bleu_of_equal_texts_is_one_and_of_nothing_zero() -> None:
    assert bleu(["a b c", "d e"], ["a b c", "d e"], order=2) == pytest.approx(1)
    assert bleu(["a b c"], ["a b c"], order=1) <= 1
    assert bleu(["", ""], ["a b", "c"], order=2) == 0


def test_distinct_is_the_share_of_different_runs_of_words_over_all_answers() -> None:
    # Words a b a B / a b: different a, b of 6; pairs ab, ba, ab / ab: different 2 of 4.
    assert distinct(["a b a B", "a b"], order=1) == pytest.approx(2 / 6)
    assert distinct(["a b a B", "a b"], order=2) == pytest.approx(2 / 4)
    assert distinct(["a", ""], order=2) == 0


def test_repetition_is_within_an_answer_and_averaged_over_answers() -> None:
    # "x y z x y z" has the triples xyz, yzx, zxy, xyz: three different of four, a quarter repeated; the others nothing.
    assert repetition(["x y z x y z", "x y z", "x y", ""]) == pytest.approx(0.25 / 4)


def test_length_and_emptiness_are_counted() -> None:
    found = answer_metrics(["a b", "", ""], rows("x", "a b", "c", "d"), [3, 0, 0])
    assert (found["mean_tokens"], found["empty"]) == (1, pytest.approx(2 / 3))


def test_overlap_is_of_the_longer_words_with_the_turn_that_is_answered() -> None:
    # "like" and "films" are theirs and "never" is not: two thirds; an echo: 1; nothing in common, or no long word: 0.
    asked, answers = "Do you like films?", ["I never like films", "You like films, do you?", "never ever", "so so"]
    found = answer_metrics(answers, rows(asked, *answers), [1] * 4)
    assert found["overlap"] == pytest.approx((2 / 3 + 1 + 0 + 0) / 4)


def test_perplexity_weighs_every_token_alike_whatever_batch_it_was_in() -> None:
    # 3 tokens of ln 2 each and 1 token of ln 16: mean (3 + 4) / 4 ln 2.
    ln2 = math.log(2)
    scores = [Scored(3, 3 * ln2, 6 * ln2, 0.6), Scored(1, 4 * ln2, 2 * ln2, 0.2)]
    assert score_metrics(scores) == pytest.approx({"perplexity": 2 ** (7 / 4), "base_perplexity": 4, "kl": 0.2})


def test_a_hopeless_perplexity_is_large_but_a_number() -> None:
    assert math.isfinite(score_metrics([Scored(1, 1e6, 1e6, 0.0)])["perplexity"])


def test_a_number_without_each_answer_is_the_number_of_the_others() -> None:
    answers, right = ["a b a", "a c", "d"], ["a b c", "a c", "x d"]
    assert held_mean([1, 2, 6]).without.tolist() == [4, 3.5, 1.5]
    for order in (1, 2):
        said, alike = held_distinct(answers, order=order), held_bleu(answers, right, order=order)
        assert said.value == distinct(answers, order=order)
        assert alike.value == pytest.approx(bleu(answers, right, order=order), abs=1e-12)
        for left_out in range(3):
            kept = [place for place in range(3) if place != left_out]
            of_others = [answers[place] for place in kept]
            assert said.without[left_out] == pytest.approx(distinct(of_others, order=order))
            want = bleu(of_others, [right[place] for place in kept], order=order)
            assert alike.without[left_out] == pytest.approx(want, abs=1e-12)


def test_a_change_is_relative_and_its_interval_is_the_jackknifes() -> None:
    # Means 2 and 3: half as much again.
    # Baseline 1, 2, 3: without each 2.5, 2, 1.5. Candidate 2, 2, 5: without each 3.5, 3.5, 2.
    # Ratios less 1: 0.4, 0.75, 1/3; mean 0.494444; squares 0.008920, 0.065309, 0.025957, sum 0.100185.
    # Error sqrt(2/3 * 0.100185) = 0.258438; times 1.959964 = 0.506529.
    found = change_of(held_mean([1, 2, 3]), held_mean([2, 2, 5]), confidence=0.95)
    assert found is not None
    assert found.change == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0.5 - 0.506529, abs=1e-5), pytest.approx(1.006529, abs=1e-5))


def test_equal_answers_changed_by_nothing_and_nothing_has_no_change() -> None:
    same = held_mean([1, 2, 3])
    assert change_of(same, same, confidence=0.95) == (0, 0, 0)
    assert change_of(held_mean([0, 0]), held_mean([1, 2]), confidence=0.95) is None
    assert change_of(held_mean([0, 1]), held_mean([1, 2]), confidence=0.95) is None, "without the second it is 0"
