"""Rewards of answers: each component by hand, their weighted sum, and what a formula may name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ratchet_api.rlhf import AnswerReward
from ratchet_jobs.metrics.generation import answer_bleu
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.rewards import AnswerRewards, said_of
from ratchet_jobs.runtime.errors import BadConfigError

TEXTS = ("thank you very much thank you very much", "Sorry, no!")
RIGHT = {(7, 8): ["thank you very much"], (9,): ["sorry no"]}


def episodes() -> Episodes:
    """Two answers, to the prompts 7 8 and 9, the shorter of which is padded."""
    prompts, real = torch.tensor([[7, 8], [0, 9]]), torch.tensor([[True, True], [False, True]])
    mask = torch.tensor([[True] * 8, [True] * 2 + [False] * 6])
    nothing = torch.zeros(mask.shape)
    return Episodes(prompts, real, mask.long(), mask, nothing, nothing, nothing, torch.tensor([True, False]))


def rewarded(*components: dict[str, Any]) -> AnswerRewards:
    made = [AnswerReward.model_validate(each) for each in components]
    return AnswerRewards(made, texts=lambda _: TEXTS, max_new_tokens=8, model=None, references=RIGHT)


@pytest.mark.parametrize(
    ("formula", "want"),
    [
        # of eight words four differ; of seven pairs four, of six runs of three four: two of six come back
        ("distinct", [0.5, 1.0]),
        ("distinct2", [4 / 7, 1.0]),
        ("repetition", [2 / 6, 0.0]),
        # of eight words four are right, since the reference has each once; of "Sorry , no !" one in four is
        ("bleu1", [0.5, 0.25]),
        ("ended - tokens / max_tokens", [0.0, -0.25]),
    ],
)
def test_a_formula_is_of_the_answer_itself(formula: str, want: list[float]) -> None:
    assert rewarded({"type": "expression", "expression": formula})(episodes()).tolist() == pytest.approx(want)


def test_an_answer_is_held_against_all_right_ones_of_its_prompt() -> None:
    # unigrams: 4 of 5 words are right, and it is longer than the reference, so nothing is taken off
    assert answer_bleu("thank you very much indeed", ["thank you very much"], order=1) == pytest.approx(0.8)
    assert answer_bleu("no", ["sorry", "no"], order=2) == pytest.approx(1.0)
    assert answer_bleu("", ["sorry"], order=1) == 0.0


def test_words_count_once_whatever_their_case_and_what_stands_around_them() -> None:
    assert said_of("Sorry, no! no", ("SORRY", "no", "maybe", "n")) == 0.5
    assert said_of("", ("a",)) == 0.0


def test_components_are_weighed_and_told_apart() -> None:
    rewards = rewarded(
        {"type": "words", "words": ["sorry"], "weight": -2.0},
        {"type": "expression", "expression": "ended"},
        {"type": "expression", "expression": "tokens", "weight": 0.5},
    )
    assert rewards(episodes()).tolist() == [0.0 + 1.0 + 4.0, -2.0 + 0.0 + 1.0]
    assert rewards.latest == {"words": 0.5, "expression": 0.5, "expression-3": 5.0}


def test_a_formula_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(BadConfigError, match=r"names 'rouge'; there are: .*bleu1"):
        rewarded({"type": "expression", "expression": "rouge"})
