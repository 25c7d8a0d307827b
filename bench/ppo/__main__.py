"""Ratchet's PPO against trl's PPOTrainer on the same weights, prompts and reward, alternating, medians of the rounds.

    .venv/bin/python -m bench.ppo [--rounds 3] [--episodes 32] [--reward table] [--dtype float32] [--threads N]
    .venv/bin/python -m bench.ppo --learn 320 --seeds 1        # reward after equal episodes

Speed and memory come from short runs; a learning run's adapters answer held-out prompts afterwards, all by one program
(`judge.py`). Prints the table that README.md holds, with the machine's load before and after; exits 1 when a target is
missed. `--out` gets a line of JSON per run: every step, and the contender's whole configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.ppo.prepare import Prepared, prepare
from bench.ppo.run import Wanted
from bench.ppo.task import CONTENDERS, DTYPES, REWARDS

TIMES_AS_FAST, SHARE_OF_MEMORY = 3.0, 1 / 3
"""Targets beside trl as its own example has it."""


def measure(prepared: Prepared, wanted: Wanted, *, threads: int, out: Path | None) -> dict[str, Any]:
    """Run one contender once."""
    ours = wanted.contender == "ratchet"
    python, module = (sys.executable, "bench.ppo.ours") if ours else (str(prepared.peer), "bench.ppo.peer")
    result = _asked([python, "-m", module, json.dumps(asdict(wanted))], threads=threads)
    if out is not None:
        with out.open("a") as file:
            file.write(json.dumps(result | {"load": os.getloadavg()[0], "threads": threads}) + "\n")
    shown = {name: result[name] for name in ("contender", "reward", "seconds", "cpu_seconds", "peak_mib")}
    print("   ", json.dumps(shown | {"last": result["steps"][-1]}), flush=True)
    return result


def _asked(command: list[str], *, threads: int) -> dict[str, Any]:
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=32, help="of each run of a round; a multiple of 8")
    parser.add_argument("--reward", choices=REWARDS, default="table")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--learn", type=int, default=0, help="episodes of a learning run of each; 0 = none")
    parser.add_argument("--seeds", type=int, default=1, help="of the learning runs")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the large products; without it, what the processor is made for"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    cache = Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")
    cache.mkdir(parents=True, exist_ok=True)
    prepared = prepare(cache)
    wanted.dtype = wanted.dtype or native_dtype()
    print(f"{os.cpu_count()} cores, {wanted.threads} threads, {wanted.dtype}, load {load()}", flush=True)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted.contenders}
    for number in range(wanted.rounds):
        print(f"round {number + 1} of {wanted.rounds}, {wanted.episodes} episodes", flush=True)
        for name in wanted.contenders if number % 2 == 0 else wanted.contenders[::-1]:
            each = Wanted(
                name, wanted.reward, wanted.episodes, number, str(prepared.base), str(prepared.task), wanted.dtype
            )
            runs[name].append(measure(prepared, each, threads=wanted.threads, out=wanted.out))
    learned: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted.contenders}
    if wanted.learn:
        learned = learn(prepared, wanted)
    print(f"load {load()}")
    return report(runs, learned)


def learn(prepared: Prepared, wanted: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Train each contender at length, and let one program score what its policy says to held-out prompts."""
    scored: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted.contenders}
    with tempfile.TemporaryDirectory() as work:
        for seed in range(wanted.seeds):
            print(f"learning, seed {seed}, {wanted.learn} episodes", flush=True)
            for name in wanted.contenders:
                file = Path(work) / f"{name}-{seed}.safetensors"
                base, task = str(prepared.base), str(prepared.task)
                each = Wanted(name, wanted.reward, wanted.learn, seed, base, task, wanted.dtype, adapter=str(file))
                measure(prepared, each, threads=wanted.threads, out=wanted.out)
                told = _asked([sys.executable, "-m", "bench.ppo.judge", base, task, str(file)], threads=wanted.threads)
                print("   ", name, json.dumps(told), flush=True)
                scored[name].append(told)
    return scored


def native_dtype() -> str:
    """bfloat16 where the processor multiplies it by instructions of its own; both contenders get the same."""
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def load() -> str:
    """Mean number of processes that wanted a core over the last minute and the last five."""
    minute, five, _ = os.getloadavg()
    return f"{minute:.1f} (1 min), {five:.1f} (5 min)"


def cell(values: list[float], digits: int) -> str:
    """Median, in brackets the range."""
    if not values:
        return "-"
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def report(runs: dict[str, list[dict[str, Any]]], learned: dict[str, list[dict[str, Any]]]) -> int:
    """Print the table (medians, in brackets the range) and the verdict on each target; 1 if one is missed."""

    def rates(name: str, clock: str) -> list[float]:
        return [run["episodes"] / run[clock] for run in runs[name]]

    def peaks(name: str) -> list[float]:
        return [float(run["peak_mib"]) for run in runs[name]]

    def scores(name: str, key: str) -> list[float]:
        return [run[key] for run in learned[name]]

    print("\n| contender | episodes/s | episodes per CPU second | peak MiB | score after | KL |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in runs:
        speed = f"{cell(rates(name, 'seconds'), 2)} | {cell(rates(name, 'cpu_seconds'), 2)} | {cell(peaks(name), 0)}"
        print(f"| {name} | {speed} | {cell(scores(name, 'score'), 3)} | {cell(scores(name, 'kl'), 1)} |")
    verdicts: dict[str, bool] = {}
    if runs.get("ratchet") and runs.get("trl"):
        for clock, words in (("seconds", "second"), ("cpu_seconds", "CPU second")):
            times = statistics.median(rates("ratchet", clock)) / statistics.median(rates("trl", clock))
            verdicts[f"{times:.2f} x trl's episodes per {words} (3 wanted)"] = times >= TIMES_AS_FAST
        share = statistics.median(peaks("ratchet")) / statistics.median(peaks("trl"))
        verdicts[f"{share:.2f} of trl's peak memory (a third wanted)"] = share <= SHARE_OF_MEMORY
    if learned.get("ratchet") and learned.get("trl"):
        gap = statistics.mean(scores("ratchet", "score")) - statistics.mean(scores("trl", "score"))
        verdicts[f"score after equal episodes {gap:+.3f} beside trl's"] = gap >= 0
    print()
    for sentence, holds in verdicts.items():
        print(f"{'holds ' if holds else 'MISSED'} {sentence}")
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
