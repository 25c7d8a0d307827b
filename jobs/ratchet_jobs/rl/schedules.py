"""Numbers that change with progress, the share of the planned interactions that is done (0 at the start, 1 at the end).

Functions of progress and not of a counter of their own, so that resuming needs no state.
"""

from __future__ import annotations


def linear(start: float, end: float, *, progress: float, over: float = 1.0) -> float:
    """Go from start to end in a straight line over the first `over` of the run, then stay at end.

    Args:
        start: value at progress 0.
        end: value from progress `over` on.
        progress: in [0, 1]; values outside count as the nearest end.
        over: in [0, 1]; 0 = end from the first step.
    """
    share = 1.0 if over <= 0.0 else min(1.0, max(0.0, progress) / over)
    return start + (end - start) * share
