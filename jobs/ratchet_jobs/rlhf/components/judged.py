"""Component `rewardModel`: what the reward-model stage's model says of an answer, 0 to 1, and of its qualities."""

from __future__ import annotations

import torch

from ratchet_api.answer_reward import AnswerReward
from ratchet_jobs.rlhf.said import Component, Said, Sources
from ratchet_jobs.rlhf.scorers import Answer
from ratchet_jobs.runtime.errors import BadConfigError


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component.

    Raises:
        BadConfigError: there is no reward model.
    """
    model = sources.model
    if model is None:
        raise BadConfigError(
            f"stages.rlhf.rewards: type {wanted.type} needs a reward model; set stages.rewardModel, or "
            "name one that an earlier run made by the reward's model"
        )
    if not model.reads_text:
        return lambda said: model.parts_of_episodes(said.episodes).double().cpu()
    return lambda said: torch.from_numpy(model.parts(_in_words(said)))


def _in_words(said: Said) -> list[Answer]:
    """The answers as an encoder reads them; every prompt that is answered stands in a row of the dataset."""
    return [Answer(rows[0].prompt, text) for rows, text in zip(said.rows, said.texts, strict=True)]
