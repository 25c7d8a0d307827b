"""What a reward is made of: means of its components, and what RL changed in each.

Decides nothing: the choice between two policies is by the whole reward. Pure; called by the evaluate recipe of
generators.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ratchet_api.comparison import Comparison
from ratchet_jobs.metrics.choosing_answers import paired

Floats = NDArray[np.float64]


def means_of(worths: Mapping[str, Floats]) -> dict[str, float]:
    """Mean of each component under `reward/NAME`."""
    return {f"reward/{name}": float(worth.mean()) for name, worth in worths.items()}


def compare_parts(
    candidate: Mapping[str, Floats], baseline: Mapping[str, Floats], *, rules: Comparison, seed: int
) -> dict[str, dict[str, float | None]]:
    """Hold each component of two policies against the other's, over the same N answers.

    Args:
        candidate: (N,) each, of what RL made.
        baseline: likewise, of what it started from.
        rules: confidence and resamples of the intervals.
        seed: of the run.

    Returns:
        By component its means, their difference with its interval, and `percent`: the difference in percent of the
        baseline; None where that is 0.
    """
    found: dict[str, dict[str, float | None]] = {}
    for name, ours in candidate.items():
        row = paired(ours, baseline[name], confidence=rules.confidence, resamples=rules.resamples, seed=seed)
        percent = 100 * row.difference / abs(row.baseline) if row.baseline else None
        found[name] = {**row._asdict(), "percent": percent}
    return found
