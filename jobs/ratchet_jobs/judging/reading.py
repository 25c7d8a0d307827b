"""What a judge's text says, read strictly: a number, or a JSON object of numbers; prose is no judgement.

Guessing a number out of prose would reward whatever number an answer talked the judge into repeating. Pure; called by
`judge.AskedJudge` with each text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ratchet_jobs.judging.client import Unanswered

SCORE = "score"
"""What the number itself is called."""

_NUMBER = re.compile(r"[+-]?(\d{1,12}(\.\d{0,12})?|\.\d{1,12})")


def read_scores(text: str, *, low: float, high: float, qualities: Sequence[str] = ()) -> dict[str, float]:
    """Return the score and each quality, from 0 to 1.

    Args:
        text: what the judge said, without outer blanks.
        low: the worst number.
        high: the best one.
        qualities: further numbers that the judge was asked for; with any, only a JSON object will do.

    Raises:
        Unanswered: it is prose, lacks a number, or one lies outside the range.
    """
    if not qualities and _NUMBER.fullmatch(text):
        return {SCORE: _scaled(SCORE, float(text), low=low, high=high)}
    said = _object(text)
    return {name: _scaled(name, said.get(name), low=low, high=high) for name in (SCORE, *qualities)}


def _object(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unanswered("prose instead of a number or a JSON object") from error
    if not isinstance(said, dict):
        raise Unanswered("JSON that is no object")
    return said


def _scaled(name: str, number: object, *, low: float, high: float) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise Unanswered(f"no number as {name}")
    if not low <= number <= high:  # nor is NaN
        raise Unanswered(f"a {name} outside {low:g} to {high:g}")
    return (float(number) - low) / (high - low)
