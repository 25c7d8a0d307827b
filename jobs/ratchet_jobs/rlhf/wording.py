"""Prompts and answers to tokens in one of two formats, the same for policy, reward model and whatever asks them.

    dialogue      the prompt is what a user says, the answer what the assistant says: in the model's chat template, or
                  as plain lines where it has none (`generators/templates.py`)
    continuation  the answer goes on where the prompt ends, as a base model does

Called by the scorers and the door.
"""

from __future__ import annotations

from typing import Literal

from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.templates import Wording

Format = Literal["dialogue", "continuation"]


def prompt_tokens(wording: Wording, prompt: str, form: Format) -> list[int]:
    """Tokens of a prompt, up to where the answer begins.

    Raises:
        BadDataError: the model's chat template refuses the prompt.
    """
    if form == "dialogue":
        return wording.prompt([Turn("user", prompt)])
    ids = list(wording.tokenizer.backend_tokenizer.encode(prompt, add_special_tokens=True).ids)
    while ids and ids[-1] == wording.eos_id:  # some tokenizers close every text
        ids.pop()
    return ids


def response_tokens(wording: Wording, response: str, form: Format) -> list[int]:
    """Tokens of a whole answer, its end of sequence included."""
    if form == "dialogue":
        return wording.response(response)
    return [*wording.tokenizer.backend_tokenizer.encode(response, add_special_tokens=False).ids, wording.eos_id]
