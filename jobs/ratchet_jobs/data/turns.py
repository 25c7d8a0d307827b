"""Turns of a dialogue, and the dialogue as one text. Needs no library, so that servers have it without the stages'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


class Turn(NamedTuple):
    """What somebody said."""

    role: Role
    content: str


def as_text(turns: Sequence[Turn]) -> str:
    """The turns as one text: of a single prompt its words alone."""
    if len(turns) == 1 and turns[0].role == "user":
        return turns[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in turns)


def words_of(turns: Sequence[Turn]) -> str:
    """A prompt as a judge reads it: a single question as it is, else who says what, line by line."""
    if len(turns) == 1:
        return turns[0].content
    return "\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in turns)
