"""Component `words`: which share of the listed words an answer says."""

from __future__ import annotations

from collections.abc import Sequence

from ratchet_api.answer_reward import AnswerReward
from ratchet_jobs.metrics.generation import spoken
from ratchet_jobs.rlhf.said import Component, Sources


def said_of(text: str, words: Sequence[str]) -> float:
    """Share of the listed words that a text says, whatever their case and what stands around them."""
    wanted = {word.casefold() for word in words}
    return len(wanted.intersection(spoken(text))) / len(wanted)


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component."""
    words = wanted.words or ()
    return lambda said: said.each(lambda text: said_of(text, words))
