"""What one measurement is asked and what it answers, as JSON between processes. Imported in both environments."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Wanted:
    """One contender's run."""

    contender: str
    reward: str
    """"table" or "model"."""
    episodes: int
    seed: int
    base: str
    task: str
    dtype: str = "float32"
    """"float32", or "bfloat16": ours keeps its frozen weights in it, the peer multiplies in it (autocast)."""
    adapter: str = ""
    """File for the trained adapter; empty = it is thrown away."""


def asked() -> Wanted:
    """What this process was started for."""
    return Wanted(**json.loads(sys.argv[1]))


class Clock:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def answer(wanted: Wanted, *, seconds: tuple[float, float], steps: list[dict[str, float]], settings: object) -> None:
    """Print the result as the last line."""
    steps = [{name: round(value, 4) for name, value in step.items()} for step in steps]
    result = {
        **asdict(wanted),
        "seconds": round(seconds[0], 2),
        "cpu_seconds": round(seconds[1], 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "steps": steps,
        "settings": settings,
    }
    print(json.dumps(result), flush=True)


def adapter_file(wanted: Wanted) -> Path | None:
    """Where the trained adapter goes."""
    return Path(wanted.adapter) if wanted.adapter else None
