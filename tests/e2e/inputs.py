"""What the end-to-end tests share: the example's files, which are the demo's own data and encoder with fewer rows.

Downloaded once by the demo's code into the same cache that `make demo` uses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet_cli.demo.carriers import COMPLAINTS, ENCODER, fetch
from ratchet_cli.demo.dataset import Rows, choose_rows, write_splits
from ratchet_cli.home import cache_dir

TRAIN_ROWS = 320  # 40 steps: enough to be interrupted in, short enough to be trained five times
HELD_OUT_ROWS = 160


def example_inputs() -> Mapping[str, bytes | Path]:
    """Return key below the team's prefix -> content, as the example's manifests name them."""
    cache = cache_dir()
    complaints = fetch(COMPLAINTS, cache, advance=_silent)
    encoder = fetch(ENCODER, cache, advance=_silent)
    rows = choose_rows(complaints, full=False)
    few = Rows(rows.train[:TRAIN_ROWS], rows.validation[:HELD_OUT_ROWS], rows.test[:HELD_OUT_ROWS])
    files: dict[str, bytes | Path] = {f"models/{ENCODER.name}/{f.name}": encoder / f.name for f in ENCODER.files}
    with tempfile.TemporaryDirectory() as folder:
        write_splits(few, Path(folder))
        for split in ("train", "validation", "test"):
            files[f"support-router/{split}.csv"] = (Path(folder) / f"{split}.csv").read_bytes()
    return files


def untimed(status: Mapping[str, Any]) -> dict[str, float]:
    """The metrics without how long an answer took, which no run repeats."""
    return {name: value for name, value in status["metrics"].items() if not name.startswith("ms_per_sample")}


def _silent(done: int, total: int) -> None:
    """The tests show no progress bar."""
