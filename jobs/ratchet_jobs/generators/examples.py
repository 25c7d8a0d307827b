"""Demonstrations as tokens: which rows fit, and what becomes of those that do not.

Decides that a prompt is never cut, since the answer may hang on any part of it: a row whose prompt leaves no room is
left out and counted, a response is cut to what fits. Called by the recipes of generators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.generators.answering import Pair
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.runtime.errors import BadDataError


class Examples(NamedTuple):
    """N rows that fit, of those that were given."""

    rows: list[Demonstration]
    pairs: list[Pair]
    long_prompts: int
    """Rows left out: their prompt alone takes maxTokens."""
    cut: int
    """Rows whose response was cut; these do not teach where to end."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of prompt and response."""
        return np.fromiter((pair.length for pair in self.pairs), dtype=np.int64, count=len(self.pairs))


def tokenize_rows(rows: Sequence[Demonstration], wording: Wording, *, max_tokens: int, split: str) -> Examples:
    """Tokenise rows once.

    Args:
        rows: of one split.
        wording: of the model.
        max_tokens: longest prompt and response together.
        split: how messages call the rows.

    Raises:
        BadDataError: no row fits, or the chat template refuses a row's turns.
    """
    kept, pairs, cut = [], [], 0
    for number, row in enumerate(rows, 1):
        try:
            prompt = wording.prompt(row.turns)
        except BadDataError as error:
            raise BadDataError(f"{split} split, row {number}: {error}") from error
        if len(prompt) >= max_tokens:
            continue
        response = wording.response(row.response)
        cut += len(prompt) + len(response) > max_tokens
        kept.append(row)
        pairs.append(Pair(prompt, response[: max_tokens - len(prompt)]))
    if not pairs:
        raise BadDataError(
            f"{split} split: the prompts of all {len(rows)} rows have {max_tokens} tokens or more, so no answer fits; "
            "raise stages.supervised.maxTokens, or lower spec.filters.maxTextChars of the dataset"
        )
    return Examples(kept, pairs, len(rows) - len(kept), cut)
