"""Component `safety`: whether an answer says none of the listed words.

Unlike `words` with a negative weight one listed word costs as much as all of them, however long the list is.
"""

from __future__ import annotations

from ratchet_api.answer_reward import AnswerReward
from ratchet_jobs.metrics.generation import spoken
from ratchet_jobs.rlhf.said import Component, Sources


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component."""
    words = {word.casefold() for word in wanted.words or ()}
    return lambda said: said.each(lambda text: float(words.isdisjoint(spoken(text))))
