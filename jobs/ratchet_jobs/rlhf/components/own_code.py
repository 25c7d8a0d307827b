"""Component `entryPoint`: what a function of the user's own image says of answers, 0 to 1.

It is called once for every batch of answers with (prompts, answers, rows): B prompts as a judge reads them, B answers,
and for each of them the dataset's rows with its prompt, as plain dicts of turns (role and content), response, items and
emotion. It is trusted as much as the image is; what it answers is not: another number of numbers, one that is none, or
one out of range ends the stage, for a reward that is wrong teaches as well as one that is right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ratchet_api.answer_reward import AnswerReward
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.data.turns import words_of
from ratchet_jobs.rewards.user_code import find_function
from ratchet_jobs.rlhf.said import Component, Said, Sources
from ratchet_jobs.runtime.errors import BadConfigError

FIELD = "stages.rlhf.rewards: entryPoint"


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component.

    Raises:
        BadConfigError: the image has no such function.
    """
    name = str(wanted.entry_point)
    function = find_function(name, field=FIELD)

    def worth(said: Said) -> Tensor:
        prompts = [words_of(rows[0].turns) if rows else "" for rows in said.rows]
        rows = [[_plain(row) for row in known] for known in said.rows]
        try:
            answer = function(prompts, list(said.texts), rows)
            worths = torch.as_tensor(answer, dtype=torch.float64).detach().cpu()
        except Exception as error:  # foreign code: whatever it raises, the user has to know that it was theirs
            raise BadConfigError(
                f"{FIELD}: {name!r} raised {type(error).__name__}: {error}; mend the function"
            ) from error
        return _checked(worths, said.texts, name=name)

    return worth


def _plain(row: Demonstration) -> dict[str, Any]:
    turns = [{"role": turn.role, "content": turn.content} for turn in row.turns]
    items = None if row.items is None else list(row.items)
    return {"turns": turns, "response": row.response, "items": items, "emotion": row.emotion}


def _checked(worths: Tensor, texts: list[str], *, name: str) -> Tensor:
    if worths.shape != (len(texts),):
        raise BadConfigError(
            f"{FIELD}: {name!r} gave shape {tuple(worths.shape)} for {len(texts)} answers; return one number per answer"
        )
    odd = ~((worths >= 0) & (worths <= 1))  # a number that is none is in no range
    if bool(odd.any()):
        place = int(odd.long().argmax())
        raise BadConfigError(
            f"{FIELD}: {name!r} gave {float(worths[place]):g} for the answer {texts[place][:80]!r}; return numbers "
            "from 0 to 1"
        )
    return worths
