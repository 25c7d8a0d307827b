"""Times as the analyst keeps them: by steps of 5 %, so that sums of them are exact in whatever order they are taken.

Decides the steps. Pure; used by `tables` and `pairs` on the way in and by `counts` on the way out.
"""

from __future__ import annotations

import math

_STEP = 1.05
_FURTHEST = 600
"""Of the powers; 1.05**600 milliseconds are 160 years."""


def power_of(milliseconds: float) -> int:
    """Return the least power of 1.05 that is not below a time."""
    if milliseconds <= 0:
        return -_FURTHEST
    return max(-_FURTHEST, min(_FURTHEST, math.ceil(math.log(milliseconds, _STEP))))


def milliseconds_of(power: int) -> float:
    """Return the time that a power stands for, which is none of those below by more than 5 %."""
    return float(f"{_STEP**power:.4g}")
