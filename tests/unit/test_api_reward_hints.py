"""A reward's type by another word: what the message says to write."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from ratchet_api.answer_reward import AnswerReward, AnswerRewardType
from ratchet_api.reward_hints import meant_by
from ratchet_jobs.rlhf.components.formula import NAMES

TYPES = get_args(AnswerRewardType)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("bleu", "{type: expression, expression: bleu1}"),
        ("BLEU-2", "{type: expression, expression: bleu2}"),
        ("distinct", "{type: expression, expression: distinct}"),
        ("dist-2", "{type: expression, expression: distinct2}"),
        ("reward_model", "{type: rewardModel}"),
        ("rewardmodel", "{type: rewardModel}"),
        ("item-ratio", "{type: itemRatio}"),
        ("entry_point", "{type: entryPoint}"),
        ("regex", "{type: format, pattern: ...}"),
        ("json-schema", "{type: format, jsonSchema: ...}"),
        ("critic", "{type: rewardModel} with stages.rewardModel.scores: judge"),
        ("empathie", "{type: empathy}"),
        ("lengthy", "{type: length}"),
        ("quality", None),
        ("", None),
    ],
)
def test_another_word_leads_to_the_type_that_gives_it(name: str, want: str | None) -> None:
    assert meant_by(name, TYPES) == want


def test_every_formula_that_is_advised_can_be_computed() -> None:
    words = ("bleu", "bleu2", "distinct", "distinct2", "distinct_together", "overlap", "repetition", "ended")
    for advised in (meant_by(word, TYPES) or "" for word in words):
        assert advised.startswith("{type: expression, expression: ")
        assert advised.removeprefix("{type: expression, expression: ").removesuffix("}") in NAMES


def test_a_type_that_is_like_nothing_is_refused_with_the_types_there_are() -> None:
    with pytest.raises(ValidationError, match="'rewardModel', 'expression'"):
        AnswerReward.model_validate({"type": "quality"})
    with pytest.raises(ValidationError, match="'rewardModel', 'expression'"):
        AnswerReward.model_validate({"type": 3})
    with pytest.raises(ValidationError, match=r"'bleu' is no type of reward; write \{type: expression"):
        AnswerReward.model_validate({"type": "bleu"})
