"""Our algorithms on classic control over several seeds, beside the returns that CleanRL publishes.

    .venv/bin/python -m bench.rl_control [--seeds 3] [--only ppo] [--jobs 2]

The figure is the mean return of the last 100 training episodes, actions still sampled. Prints the table that
README.md holds; exits 1 when a mean lies below the published one by more than both deviations together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from bench.rl_control.control import learn
from bench.rl_control.settings import RUNS


def one(name: str, seed: int) -> None:
    """Train once in this process and print the outcome as JSON."""
    torch.set_num_threads(1)
    began = time.process_time()
    learned = learn(RUNS[name][0], seed=seed)
    seconds = round(time.process_time() - began, 1)
    print(json.dumps({"name": name, "seed": seed, "final": learned.final(), "cpu_seconds": seconds}))


def in_a_process(job: tuple[str, int]) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.rl_control", "--one", job[0], str(job[1])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print("   ", done.stdout.strip(), flush=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.one:
        one(wanted.one[0], int(wanted.one[1]))
        return 0
    names = [name for name in RUNS if wanted.only in name]
    with ThreadPoolExecutor(wanted.jobs) as pool:
        results = list(pool.map(in_a_process, [(name, seed) for name in names for seed in range(1, wanted.seeds + 1)]))
    print("\n| run | interactions | return, mean ± deviation of seeds | CleanRL | CPU s a seed | reached |")
    print("| --- | --- | --- | --- | --- | --- |")
    missed = 0
    for name in names:
        setting, published = RUNS[name]
        finals = [result["final"] for result in results if result["name"] == name]
        mean, deviation = statistics.mean(finals), statistics.pstdev(finals)
        seconds = statistics.median(result["cpu_seconds"] for result in results if result["name"] == name)
        reached = mean >= published.mean - published.deviation - deviation
        missed += not reached
        print(
            f"| {name} | {setting.interactions:,} | {mean:.2f} ± {deviation:.2f} | {published.mean:.2f} ± "
            f"{published.deviation:.2f} ({published.of}) | {seconds:.0f} | {'yes' if reached else 'no'} |"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
