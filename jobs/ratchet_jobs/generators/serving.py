"""A committed generator, loaded to answer; and one that answers turns of a conversation.

Decides that an answer fits the model's context or is refused. Loads the merged model alone: no base is needed.
`open_talker` is called by `ratchet chat`, `open_merged` by the policy server, and `open_wording` where another engine
has the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.answering import generate
from ratchet_jobs.generators.artifact import MERGED_FOLDER
from ratchet_jobs.generators.card import read_generator_card
from ratchet_jobs.generators.loading import eos_in, eos_of, load_base
from ratchet_jobs.generators.templates import Wording, load_wording
from ratchet_jobs.models.card import CARD_FILE
from ratchet_jobs.runtime.errors import BadDataError, BadModelError

RESULTS_FILE = "training_results.json"
"""What `RLHFTrainer` leaves beside a policy."""


class Talker:
    """A generator ready to answer; use `open_talker`."""

    def __init__(self, model: transformers.PreTrainedModel, wording: Wording) -> None:
        """Wrap a model and its template."""
        self._model, self._wording = model, wording

    def answer(self, turns: Sequence[Turn], *, max_new_tokens: int, temperature: float = 0.0) -> str:
        """Answer a conversation so far.

        Args:
            turns: the last is not the assistant's.
            max_new_tokens: an answer that has not ended by then, or by the end of the context, is cut.
            temperature: 0 = always the likeliest token.

        Raises:
            BadDataError: the turns alone fill the model's context, or its chat template refuses them.
        """
        prompt = self._wording.prompt(turns)
        context = getattr(self._model.config, "max_position_embeddings", None)
        room = max_new_tokens if context is None else min(max_new_tokens, context - len(prompt))
        if room < 1:
            raise BadDataError(
                f"the conversation has {len(prompt)} tokens and the model's context {context}, so no answer fits; "
                "say less, or begin anew"
            )
        ids = generate(self._model, [prompt], wording=self._wording, max_new_tokens=room, temperature=temperature)[0]
        return self._wording.text(ids)


def open_talker(folder: Path, *, seed: int) -> Talker:
    """Load a committed policy, on the GPU if there is one.

    Args:
        folder: of the policy, as evaluate committed it.
        seed: of answers that are drawn.

    Raises:
        BadModelError: the folder holds no generator, or one that was not evaluated yet.
    """
    model, wording = open_merged(folder)
    torch.manual_seed(seed)
    return Talker(model, wording)


def open_merged(folder: Path) -> tuple[transformers.PreTrainedModel, Wording]:
    """Load a policy's merged model, on the GPU if there is one, and its template.

    Args:
        folder: of the policy, as evaluate committed it; or of a version that `RLHFTrainer` made, which has no card: it
            talks in its tokenizer's chat template, or in plain lines where there is none.

    Raises:
        BadModelError: the folder holds no generator, or one that was not evaluated yet.
    """
    merged = folder / MERGED_FOLDER
    of_door = not (folder / CARD_FILE).is_file() and (folder / RESULTS_FILE).is_file()
    template = None if of_door else read_generator_card(folder).template
    _check_merged(merged)
    model = load_base(merged)
    wording = load_wording(merged, eos_id=eos_of(model), template=template)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), wording


def open_wording(folder: Path) -> tuple[transformers.PretrainedConfig, Wording]:
    """Read a policy's configuration and template, and no weight of it.

    Args:
        folder: of the policy, as evaluate committed it.

    Raises:
        BadModelError: the folder holds no generator, or one that was not evaluated yet.
    """
    merged = folder / MERGED_FOLDER
    template = read_generator_card(folder).template
    _check_merged(merged)
    try:
        config = transformers.AutoConfig.from_pretrained(str(merged), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadModelError(f"policy: {MERGED_FOLDER}/config.json cannot be read: {first}; restore the file") from error
    return config, load_wording(merged, eos_id=eos_in(config), template=template)


def _check_merged(merged: Path) -> None:
    if not merged.is_dir():
        raise BadModelError(
            f"policy: no folder {MERGED_FOLDER}/ with the merged model, which evaluate writes; name a version, or what "
            "the run's evaluate stage committed"
        )
