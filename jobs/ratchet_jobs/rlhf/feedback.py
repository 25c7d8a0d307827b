"""Feedbacks as their callers give them, dictionaries, to the rows that a reward model learns from.

Decides which keys there are and what is wrong with an entry. Called by `trainer.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet_jobs.rlhf.reward_model import Preferred, Rated, Row, check_rows
from ratchet_jobs.runtime.errors import BadDataError

_RATED = {"prompt", "response", "score"}
_PAIR = {"prompt", "chosen", "rejected"}
_NOTES = {"run_id", "notes"}
"""May stand in any entry; training does not look at them."""


def read_feedbacks(feedbacks: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Check every entry.

    Args:
        feedbacks: mappings with prompt, response and score (0..1), or with prompt, chosen and rejected; run_id and
            notes may stand beside them.

    Raises:
        BadDataError: too few, or naming the first entry that cannot be used, its key, the value and the remedy.
    """
    rows = [_row(number, entry) for number, entry in enumerate(feedbacks)]
    check_rows(rows)
    return rows


def score_statistics(rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the scores given; None where all rows are pairs."""
    scores = [row.score for row in rows if isinstance(row, Rated)]
    if not scores:
        return None, None
    mean = sum(scores) / len(scores)
    return mean, math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))


def digest_of(rows: Sequence[Row]) -> str:
    """SHA-256 over all rows in their order: equal feedback, equal digest."""
    return hashlib.sha256(json.dumps([[part for part in row if part != ()] for row in rows]).encode()).hexdigest()


def _row(number: int, entry: Mapping[str, Any]) -> Row:
    if not isinstance(entry, Mapping):
        raise BadDataError(f"feedback {number}: {type(entry).__name__}; give a mapping with prompt, response and score")
    keys = set(entry) - _NOTES
    if keys not in (_RATED, _PAIR):
        raise BadDataError(
            f"feedback {number}: keys {', '.join(map(str, sorted(entry, key=str))) or 'none'}; give prompt, response "
            "and score, or prompt, chosen and rejected; run_id and notes may stand beside them"
        )
    for key in sorted(keys - {"score"}):
        if not isinstance(entry[key], str):
            raise BadDataError(f"feedback {number}: {key} is {entry[key]!r}; give a text")
    if keys == _PAIR:
        return Preferred(entry["prompt"], entry["chosen"], entry["rejected"])
    score = entry["score"]
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise BadDataError(f"feedback {number}: score is {score!r}; give a number from 0 (worst) to 1 (best)")
    return Rated(entry["prompt"], entry["response"], float(score))
