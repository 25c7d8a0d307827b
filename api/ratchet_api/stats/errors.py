"""What the statistics refuse; one class, so that whoever calls them has one thing to catch."""

from __future__ import annotations


class BadEvidence(ValueError):
    """Numbers that cannot come from what they are said to come from; the text names the field, value and remedy."""


def require_between(what: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside the open interval (low, high), NaN included.

    Args:
        what: how the message calls it.
        value: the number seen.
        low: bound that the number must exceed.
        high: bound that it must stay below.

    Raises:
        BadEvidence: naming the number.
    """
    if not low < value < high:
        raise BadEvidence(f"{what} is {value:g}; give a number above {low:g} and below {high:g}")
