"""The model as the server asks it: many texts of any length in, one row of numbers for each out.

Decides which texts stand together in a pass: like beside like, so that little of it is padding, and no more tokens
than fit the caches well. Knows nothing of HTTP; used by one thread at a time (`batching`). The answers are those of
`ratchet_jobs.load_policy`: the same tokens, pooling and head, with the adapters merged into the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ratchet_jobs.export.merging import Merged, merge
from ratchet_jobs.models.batching import pad
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.models.classifier import LoadedPolicy
from ratchet_jobs.models.tokenizing import tokenize
from ratchet_serving.errors import Broken

Floats = NDArray[np.float64]

SLACK = 1.25
"""A pass may hold texts that are so many times as long as its shortest; beyond, padding costs more than a pass."""
SHORT = 8
"""Tokens within which lengths need not be alike at all."""


class Engine:
    """A policy that answers batches.

    Args:
        policy: on the CPU; its classifier is used up, since the adapters become part of the weights.
        max_tokens: of one pass, padding included; a single text may have more.
        device: where it computes.
    """

    def __init__(self, policy: LoadedPolicy, *, max_tokens: int, device: str = "cpu") -> None:
        self.card: PolicyCard = policy.card
        self._tokenizer = policy.tokenizer
        self._pad_id = policy.classifier.pad_id
        self._model: Merged = merge(policy, fold_temperature=False).to(device)
        self._device, self._max_tokens = device, max_tokens

    def logits(self, texts: Sequence[str]) -> Floats:
        """Compute (N, C) logits of N texts, in their order.

        Raises:
            Broken: one of them is not finite.
        """
        tokens = tokenize(self._tokenizer, texts)
        found = np.zeros((len(texts), len(self.card.labels)))
        with torch.inference_mode():
            for places in passes(tokens.lengths, max_tokens=self._max_tokens):
                ids, mask = pad([tokens.rows[place] for place in places], pad_id=self._pad_id)
                found[places] = self._model(ids.to(self._device), mask.to(self._device)).double().cpu().numpy()
        if not np.isfinite(found).all():
            raise Broken("the policy's logits are not all finite; serve a version that was trained with a lower rate")
        return found


def passes(lengths: NDArray[np.int64], *, max_tokens: int) -> list[NDArray[np.int64]]:
    """Split texts into passes of like length, shortest first.

    Args:
        lengths: (N,) tokens.
        max_tokens: of one pass, padding included; a longer text stands alone.

    Returns:
        Arrays of places; every text stands in exactly one.
    """
    order = np.argsort(lengths, kind="stable")
    made, start = [], 0
    for place in range(1, len(order) + 1):
        if place < len(order):
            longest, shortest = int(lengths[order[place]]), int(lengths[order[start]])
            alike = longest <= max(SHORT, SLACK * shortest)
            if alike and longest * (place + 1 - start) <= max_tokens:
                continue
        made.append(order[start:place])
        start = place
    return [each for each in made if len(each)]
