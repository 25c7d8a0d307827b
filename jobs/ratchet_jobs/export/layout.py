"""What a layout is: a function that writes its files into an empty folder and says what they compute.

Holds what the layouts share: the source, the tokenizer's files, and asking something else for logits. Called by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ratchet_jobs.export.config import write_json
from ratchet_jobs.models.batching import pad, sorted_batches
from ratchet_jobs.models.classifier import LoadedPolicy
from ratchet_jobs.models.tokenizing import TOKENIZER_FILE, TokenRows

BATCH_SIZE = 32
Forward = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""(B, T) ids and (B, T) mask to (B, C) logits."""


@dataclass(frozen=True, slots=True)
class Source:
    """The policy that is exported.

    Attributes:
        policy: on the CPU; a layout may use it up.
        folder: its committed files.
        base: folder of its base model.
        tokens: of the texts that the export is checked on.
    """

    policy: LoadedPolicy
    folder: Path
    base: Path
    tokens: TokenRows


class Written(NamedTuple):
    """What a layout wrote."""

    loader: str
    """What loads the folder."""
    computed_by: str
    """What read the files to compute `logits`."""
    logits: NDArray[np.float64]
    """(N, C) from the written files, the temperature not applied."""
    temperature_folded: bool
    usage: str
    """Markdown for the folder's README: how to load it, and where it differs from the policy."""


Layout = Callable[[Source, Path], Written]


def save_tokenizer(policy: LoadedPolicy, folder: Path) -> None:
    """Write tokenizer.json with the policy's own cut, and the note that makes transformers take it as it is.

    A tokenizer_config.json of the base may name a class that builds its own rules from the vocabulary; the policy was
    trained on what tokenizer.json says.
    """
    policy.tokenizer.save(str(folder / TOKENIZER_FILE))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": policy.card.max_tokens}
    if (pad_token := policy.tokenizer.id_to_token(policy.classifier.pad_id)) is not None:
        settings["pad_token"] = pad_token
    write_json(folder / "tokenizer_config.json", settings)


def ask(forward: Forward, tokens: TokenRows, *, pad_id: int, classes: int) -> NDArray[np.float64]:
    """Compute logits of N rows by something else than the policy, in the order of the rows.

    Returns:
        (N, C).
    """
    logits = np.zeros((len(tokens.rows), classes))
    for batch in sorted_batches(tokens.lengths, BATCH_SIZE):
        input_ids, token_mask = pad([tokens.rows[i] for i in batch], pad_id=pad_id)
        logits[batch] = forward(input_ids.numpy(), token_mask.numpy())
    return logits


def by_torch(module: nn.Module) -> Forward:
    """The forward pass of a module that takes ids and mask."""

    def forward(input_ids: NDArray[np.int64], token_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(torch.from_numpy(input_ids), torch.from_numpy(token_mask)).numpy()
        return logits

    return forward
