"""How many optimizer steps a number of rows makes: one rule for the stage that takes them and for a dry run's estimate.

Pure. Called by the recipes and by the operator's rules.
"""

from __future__ import annotations

import math


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps of one pass: the last batch may be smaller, and a batch above the data is one step."""
    return math.ceil(rows / batch_size)


def total_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Optimizer steps of a run, at least 1; a fraction of an epoch is rounded up to whole steps."""
    return max(1, math.ceil(round(steps_per_epoch(rows, batch_size) * epochs, 6)))
