"""The table of `bench.classifier_rl`: means over seeds, and differences to each seed's supervised policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Line = dict[str, Any]
"""Numbers of one run: `seed`, `run` and the METRICS."""

METRICS = ("accuracy", "macro_f1", "ece", "ece_calibrated")
BASELINE = "supervised"


def table(lines: Sequence[Line], names: Sequence[str]) -> str:
    """Markdown: a row per run, each over the seeds that have both the run and their supervised policy.

    Args:
        lines: of one data set and setting.
        names: of the runs, in the order of the rows; one without lines is left out.
    """
    by_run = {name: {line["seed"]: line for line in lines if line["run"] == name} for name in names}
    rows = [
        "| run | seeds | accuracy | macro-F1 | ECE | of supervised | ECE, calibrated |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in by_run.items():
        seeds = sorted(found.keys() & by_run[BASELINE].keys())
        if not seeds:
            continue
        mine, theirs = ({m: _values(by_run[n], seeds, m) for m in METRICS} for n in (name, BASELINE))
        cells = [_cell(mine[m], mine[m] - theirs[m], shows_difference=name != BASELINE) for m in METRICS]
        cells.insert(3, f"{mine['ece'].mean() / theirs['ece'].mean():.2f}")
        rows.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _values(found: dict[int, Line], seeds: Sequence[int], metric: str) -> NDArray[np.float64]:
    return np.array([found[seed][metric] for seed in seeds])


def _cell(values: NDArray[np.float64], differences: NDArray[np.float64], *, shows_difference: bool) -> str:
    if not shows_difference or len(values) < 2:
        return f"{values.mean():.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * differences.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.4f} ({differences.mean():+.4f} ± {half:.4f})"
