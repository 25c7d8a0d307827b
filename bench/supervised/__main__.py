"""Ratchet's supervised stage against transformers.Trainer on the same LoRA task, alternating, median of the rounds.

    .venv/bin/python -m bench.supervised [--rounds 3] [--rows 960] [--accuracy-rows 4000] [--epochs 1] [--threads N]

Speed and memory come from short runs (`--rows`), accuracy from one long run each (`--accuracy-rows`, 0 leaves it
out). Data and encoder are the demo's: pinned packages, kept in the demo's cache. Prints the table that README.md
holds, with the machine's load before and after; exits 1 when a target is missed.

On a busy machine take `--threads 1` and compare the CPU seconds: of two threads one waits for the other, spinning.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.supervised.task import CONTENDERS
from ratchet_cli.demo.carriers import COMPLAINTS, ENCODER, fetch

ACCURACY_MARGIN = 0.01
"""Two runs of one contender differ by this much through the seed alone (3,000 test rows: standard error 0.007)."""


def measure(
    contender: str, data: Path, base: Path, *, rows: int, test_rows: int, epochs: float, threads: int
) -> dict[str, Any]:
    """Run one contender once."""
    command = [sys.executable, "-m", "bench.supervised.measure", contender, str(data), str(base)]
    command += [str(rows), str(test_rows), str(epochs)]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print("   ", json.dumps(result), flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=960)
    parser.add_argument("--accuracy-rows", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()
    print(f"{os.cpu_count()} cores, {wanted.threads} threads, load {load()}", flush=True)
    cache = Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")
    data, base = (fetch(asset, cache, advance=lambda *_: None) for asset in (COMPLAINTS, ENCODER))
    one = functools.partial(measure, data=data, base=base, threads=wanted.threads)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for number in range(wanted.rounds):
        print(f"round {number + 1} of {wanted.rounds}, {wanted.rows} rows", flush=True)
        for name in CONTENDERS if number % 2 == 0 else CONTENDERS[::-1]:
            runs[name].append(one(name, rows=wanted.rows, test_rows=0, epochs=1.0))
    quality: dict[str, dict[str, Any]] = {}
    if wanted.accuracy_rows:
        print(f"accuracy, {wanted.accuracy_rows} rows, {wanted.epochs:g} epochs", flush=True)
        for name in CONTENDERS:
            quality[name] = one(name, rows=wanted.accuracy_rows, test_rows=3000, epochs=wanted.epochs)
    print(f"load {load()}")
    return report(runs, quality)


def load() -> str:
    """Mean number of processes that wanted a core over the last minute and the last five."""
    minute, five, _ = os.getloadavg()
    return f"{minute:.1f} (1 min), {five:.1f} (5 min)"


def report(runs: dict[str, list[dict[str, Any]]], quality: dict[str, dict[str, Any]]) -> int:
    """Print the table (medians, in brackets the range) and the verdict on each target; 1 if one is missed."""

    def rates(name: str, clock: str) -> list[float]:
        return [run["examples"] / run[clock] for run in runs[name]]

    def speed(name: str, clock: str) -> float:
        return statistics.median(rates(name, clock))

    def cell(values: list[float], digits: int) -> str:
        return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"

    def median(name: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[name])

    print("\n| contender | examples/s | examples per CPU second | peak MiB | accuracy | macro-F1 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in CONTENDERS:
        good = quality.get(name, {"accuracy": "-", "macro_f1": "-"})
        peaks = [float(run["peak_mib"]) for run in runs[name]]
        print(
            f"| {name} | {cell(rates(name, 'seconds'), 1)} | {cell(rates(name, 'cpu_seconds'), 1)} | "
            f"{cell(peaks, 0)} | {good['accuracy']} | {good['macro_f1']} |"
        )
    ours = speed("ratchet", "seconds")
    verdicts = {
        "at least 1.3 x the examples/s of Trainer's defaults": ours >= 1.3 * speed("trainer", "seconds"),
        "at least 1.0 x with group_by_length": ours >= speed("trainer-grouped", "seconds"),
        "at most its peak memory": median("ratchet", "peak_mib") <= median("trainer", "peak_mib"),
    }
    if quality:
        best = max(quality[name]["accuracy"] for name in CONTENDERS[1:])
        verdicts["at least its accuracy, within the noise of a seed"] = (
            quality["ratchet"]["accuracy"] >= best - ACCURACY_MARGIN
        )
    print()
    for sentence, holds in verdicts.items():
        print(f"{'holds ' if holds else 'MISSED'} {sentence}")
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
