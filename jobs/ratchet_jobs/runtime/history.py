"""The numbers of every step of a stage, kept: live they are gauges, afterwards the rows of STAGE-history.parquet.

Decides which steps are kept when there are too many. `ProgressBoard.report` feeds it, so whatever a recipe shows live
is in it, each part of the reward apart; it travels in the stage's checkpoints, so a resumed stage has each step once.
Holds nothing that a clock decides: equal inputs give equal bytes. Written by `record`, read by the evaluation's report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHECKPOINT_FILE = "history.json"
LIMIT = 1024
"""Rows kept at most. Above it every second one goes: a curve of 512 points looks as one of 100,000 does."""


class History:
    """Step -> metric -> value, for at most LIMIT steps at equal distances, and the last one."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: dict[int, dict[str, float]] = {}
        self._stride = 1

    def __len__(self) -> int:
        """Rows kept."""
        return len(self._rows)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Keep what a step told; a stage that goes back to an earlier step takes back what came after it.

        Args:
            step: its number, from 1 on.
            values: metric -> value; one that is no finite number is left out.
        """
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        if not finite:
            return
        last = next(reversed(self._rows), None)
        if last is not None and last >= step:
            self._rows = {s: row for s, row in self._rows.items() if s < step}
            last = next(reversed(self._rows), None)
        if last is not None and last % self._stride:
            del self._rows[last]  # it was kept as the last one only
        self._rows[step] = finite
        if len(self._rows) > LIMIT:
            self._stride *= 2
            self._rows = {s: row for s, row in self._rows.items() if s % self._stride == 0 or s == step}

    def save(self, folder: Path) -> None:
        """Write the rows into a checkpoint's folder."""
        state = {"stride": self._stride, "rows": list(self._rows.items())}
        (folder / CHECKPOINT_FILE).write_text(json.dumps(state))

    def restore(self, folder: Path) -> None:
        """Take the rows of a checkpoint in place of one's own; a checkpoint without any leaves the history empty."""
        path = folder / CHECKPOINT_FILE
        state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"stride": 1, "rows": []}
        self._stride = state["stride"]
        self._rows = dict(state["rows"])

    def columns(self) -> dict[str, list[float | None]]:
        """One list per metric, `step` first and the others by name; None where a step did not tell it."""
        names = sorted({name for row in self._rows.values() for name in row})
        told: dict[str, list[float | None]] = {"step": [float(step) for step in self._rows]}
        return told | {name: [row.get(name) for row in self._rows.values()] for name in names}


def write_history(history: History, path: Path) -> None:
    """Write a history that is not empty as Parquet: a column of whole steps, a column of doubles per metric."""
    import pyarrow as pa  # only here: the runtime starts without it
    import pyarrow.parquet as pq

    columns = history.columns()
    steps = pa.array([int(step or 0) for step in columns.pop("step")], pa.int64())
    table = pa.table({"step": steps} | {name: pa.array(values, pa.float64()) for name, values in columns.items()})
    pq.write_table(table, path, compression="zstd", version="2.6", use_dictionary=False)


def read_history(path: Path) -> dict[str, list[float | None]]:
    """Read what `write_history` wrote: metric -> values, `step` among them."""
    import pyarrow.parquet as pq

    columns: dict[str, list[float | None]] = pq.read_table(path).to_pydict()
    return columns
