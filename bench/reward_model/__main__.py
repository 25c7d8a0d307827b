"""Ratchet's reward model on real human ratings beside plain fine-tuning of the same encoder and beside counted words.

    .venv/bin/python -m bench.reward_model [--seeds 1] [--threads N] [--effort 1] [--base FOLDER]

Data and encoder come from pinned packages and stay in the demo's cache. Prints the table that README.md holds, with the
machine's load before and after; exits 1 when a target is missed. `--effort 0.1` takes a tenth of the training, to see
the command work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.reward_model.contenders import CONTENDERS
from bench.reward_model.task import cache_folder, fetch_ratings
from ratchet_cli.demo.carriers import ENCODER, fetch

ABOVE_PLAIN, GOAL, MOST_ECE, MOST_CPU_SECONDS = 0.01, 0.90, 0.05, 1200
"""Targets: accuracy on pairs a point apart beside plain fine-tuning's and by itself, calibration, ten minutes of two
cores."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--effort", type=float, default=1.0, help="share of the training")
    parser.add_argument("--base", type=Path, help="folder of another encoder than all-MiniLM-L6-v2")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    wanted = parser.parse_args()
    cache = cache_folder()
    ratings, base = fetch_ratings(cache), wanted.base or fetch(ENCODER, cache, advance=lambda *_: None)
    print(f"{os.cpu_count()} cores, {wanted.threads} threads, load {load()}", flush=True)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted.contenders}
    for seed in range(wanted.seeds):
        for name in wanted.contenders if seed % 2 == 0 else wanted.contenders[::-1]:
            command = [sys.executable, "-m", "bench.reward_model.measure", name, str(ratings), str(base)]
            command += [str(seed), str(wanted.effort), str(wanted.threads)]
            env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(wanted.threads)}
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            print("   ", done.stdout.splitlines()[-1], flush=True)
    print(f"load {load()}")
    return report(runs)


def load() -> str:
    """Mean number of processes that wanted a core over the last minute and the last five."""
    minute, five, _ = os.getloadavg()
    return f"{minute:.1f} (1 min), {five:.1f} (5 min)"


def report(runs: dict[str, list[dict[str, Any]]]) -> int:
    """Print the table (medians, in brackets the range) and the verdict on each target; 1 if one is missed."""

    def cell(name: str, key: str, form: str) -> str:
        values = [run[key] for run in runs[name] if key in run]
        if not values:
            return "-"
        spread = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
        return f"{statistics.median(values):{form}}{spread}"

    columns = {"pairs_0.5": ".1%", "pairs_1": ".1%", "pairs_2": ".1%", "ece": ".3f", "cpu_seconds": ",.0f"}
    print("\n| contender | gap 0.5 | gap 1 | gap 2 | ECE | CPU seconds | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in runs:
        cells = [cell(name, key, form) for key, form in columns.items()]
        print(f"| {name} | {' | '.join(cells)} | {cell(name, 'peak_mib', ',.0f')} |")
    if not {"plain", "ratchet"} <= runs.keys():
        return 0
    mine = [run["pairs_1"] for run in runs["ratchet"]]
    peers = statistics.median(run["pairs_1"] for run in runs["plain"])
    verdicts = {
        f"plain fine-tuning + {ABOVE_PLAIN:.0%}": statistics.median(mine) >= peers + ABOVE_PLAIN,
        f"{GOAL:.0%} of pairs a point apart": statistics.median(mine) >= GOAL,
        f"ECE at most {MOST_ECE}": max(run["ece"] for run in runs["ratchet"]) <= MOST_ECE,
        "within ten minutes of two cores": max(run["cpu_seconds"] for run in runs["ratchet"]) <= MOST_CPU_SECONDS,
    }
    print()
    for target, met in verdicts.items():
        print(f"{'met   ' if met else 'MISSED'} {target}")
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
