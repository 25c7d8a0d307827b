"""Component `judge`: what a language model over HTTP says of an answer, 0 to 1."""

from __future__ import annotations

from ratchet_api.answer_reward import AnswerReward
from ratchet_jobs.data.turns import words_of
from ratchet_jobs.rlhf.said import Component, Sources, numbers


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component; its judge is asked about a whole batch at once.

    Raises:
        BadConfigError: nobody made its judge.
    """
    judge = sources.judge(wanted)
    return lambda said: numbers(
        judge.worths([words_of(rows[0].turns) if rows else "" for rows in said.rows], said.texts)
    )
