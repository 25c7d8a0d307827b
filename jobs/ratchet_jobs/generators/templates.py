"""Turns of a dialogue to tokens and back, the same way in training, in evaluation and in `ratchet chat`.

Decides the template: the tokenizer's own chat template, or, where it has none, plain lines:

    System: …
    User: …
    Assistant: …

Prompt and response are tokenised apart and then joined, and a response always ends with the end-of-sequence token. So a
prompt has the very tokens in training that it has when somebody asks, whatever merges the tokenizer would make across
the seam. A chat template is rendered by transformers in jinja's sandbox; no other code of a model's folder ever runs.
Called by the recipes of generators and by the command line.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.card import Template
from ratchet_jobs.models.tokenizing import TOKENIZER_FILE
from ratchet_jobs.runtime.errors import BadDataError, BadModelError


class Wording:
    """How turns become tokens for one model."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, template: Template, eos_id: int) -> None:
        """Wrap a tokenizer; use `load_wording` instead.

        Args:
            tokenizer: of the model.
            template: how turns are laid out.
            eos_id: token that ends a response.
        """
        self.tokenizer = tokenizer
        self.template = template
        self.eos_id = eos_id
        self.pad_id = eos_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        """Fills batches up and is masked out wherever it does: which token it is changes nothing."""

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Tokens of everything up to where the assistant begins to speak.

        Raises:
            BadDataError: the model's chat template refuses the turns.
        """
        if self.template == "chat":
            return self._encode(self._rendered(turns), special=False)
        lines = "".join(f"{turn.role.capitalize()}: {turn.content}\n" for turn in turns)
        return self.plain(f"{lines}Assistant:")

    def plain(self, text: str) -> list[int]:
        """Tokens of a text that is gone on with as it is."""
        ids = self._encode(text, special=True)
        while ids and ids[-1] == self.eos_id:  # some tokenizers close every text
            ids.pop()
        return ids

    def response(self, text: str) -> list[int]:
        """Tokens of an answer and of its end."""
        return [*self._encode(text if self.template == "chat" else f" {text}", special=False), self.eos_id]

    def text(self, ids: Sequence[int], *, stop: Sequence[str] = ()) -> str:
        """What an answer's tokens say; what comes from the first end of sequence, or of `stop`, on is left out."""
        ids = list(ids)
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        said = str(self.tokenizer.decode(ids[: self.stops_at(ids, stop)], skip_special_tokens=True))
        for each in stop:
            said = said.partition(each)[0]
        return said.strip()

    def stops_at(self, ids: Sequence[int], stop: Sequence[str]) -> int | None:
        """How many of an answer's tokens there are up to the one by which it has said a text of `stop`.

        Args:
            ids: of the answer.
            stop: texts, special tokens by theirs. A text may begin or end within a token.

        Returns:
            Their number; None = it says none of them.
        """

        def said(count: int) -> bool:
            text = str(self.tokenizer.decode(list(ids[:count]), skip_special_tokens=False))
            return any(each in text for each in stop)

        if not stop or not said(len(ids)):
            return None
        return bisect_left(range(len(ids)), True, key=lambda count: said(count + 1)) + 1

    def settled(self, ids: Sequence[int], *, stop: Sequence[str]) -> list[int]:
        """An answer's tokens; of one that says a text of `stop` those of a response that ends before it."""
        ended = list(ids).index(self.eos_id) if self.eos_id in ids else len(ids)
        if self.stops_at(ids[:ended], stop) is None:
            return list(ids)
        return self.response(self.text(ids, stop=stop))

    def _encode(self, text: str, *, special: bool) -> list[int]:
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=special).ids)

    def _rendered(self, turns: Sequence[Turn]) -> str:
        said: list[dict[str, str]] = [turn._asdict() for turn in turns]
        try:
            return str(self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            roles = ", ".join(turn.role for turn in turns)
            raise BadDataError(
                f"the base model's chat template refuses the turns {roles}: {error}; change the rows' messages, or "
                "take a base model without a chat template"
            ) from error


def load_wording(folder: Path, *, eos_id: int | None = None, template: Template | None = None) -> Wording:
    """Read the tokenizer beside a model.

    Args:
        folder: with tokenizer.json, and tokenizer_config.json or chat_template.jinja if it has them.
        eos_id: end of sequence as the model's config says it, for a tokenizer that does not.
        template: as a policy was trained with; None = chat if the tokenizer has a chat template, else plain.

    Raises:
        BadModelError: the tokenizer is missing or broken, nothing ends a sequence, or the chat template is gone.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise BadModelError(
            f"baseModel: {TOKENIZER_FILE} is missing (found: {found}); "
            "add it, as AutoTokenizer.from_pretrained(...).save_pretrained(...) of a fast tokenizer writes it"
        )
    try:
        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for every malformed file
        raise BadModelError(f"baseModel: {TOKENIZER_FILE} cannot be read: {error}; restore the file") from error
    ends = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else eos_id
    if ends is None:
        raise BadModelError(
            "baseModel: neither tokenizer_config.json (eos_token) nor config.json (eos_token_id) names a token that "
            "ends a sequence, so no answer could end; add one of them"
        )
    has_template = bool(tokenizer.chat_template)
    if template == "chat" and not has_template:
        raise BadModelError("policy: it was trained with a chat template, which its tokenizer lacks; restore the files")
    return Wording(tokenizer, template=template or ("chat" if has_template else "plain"), eos_id=int(ends))
