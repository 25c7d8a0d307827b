"""Components of an answer's reward: one file each, and a row here.

A component is made once, from its settings and the sources of the stage, and then asked about every batch of answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ratchet_api.answer_reward import AnswerReward, AnswerRewardType
from ratchet_jobs.rlhf.components import (
    asked_judge,
    empathy,
    form,
    formula,
    judged,
    length,
    own_code,
    recommendation,
    safety,
    wanted_words,
)
from ratchet_jobs.rlhf.said import Component, Sources

COMPONENTS: Mapping[AnswerRewardType, Callable[[AnswerReward, Sources], Component]] = MappingProxyType(
    {
        "rewardModel": judged.make,
        "expression": formula.make,
        "words": wanted_words.make,
        "safety": safety.make,
        "length": length.make,
        "format": form.make,
        "recommendation": recommendation.make,
        "itemRatio": recommendation.make_ratio,
        "empathy": empathy.make,
        "judge": asked_judge.make,
        "entryPoint": own_code.make,
    }
)
