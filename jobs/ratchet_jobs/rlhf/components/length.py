"""Component `length`: 1 for an answer of as many words as wanted, less the further it is off."""

from __future__ import annotations

from ratchet_api.answer_reward import AnswerReward
from ratchet_jobs.rlhf.said import Component, Sources


def fit(words: int, *, least: int | None, most: int | None) -> float:
    """How well a number of words fits, 0 to 1: its share of the least, or the most's share of it."""
    if least is not None and words < least:
        return words / least
    if most is not None and words > most:
        return most / words
    return 1.0


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component."""
    return lambda said: said.each(lambda text: fit(len(text.split()), least=wanted.min_words, most=wanted.max_words))
