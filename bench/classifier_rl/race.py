"""Answers per second of the rl stage beside the plain loop's, alternating; and its time beside the supervised stage's.

    .venv/bin/python -m bench.classifier_rl.race [--data FILE] [--base FOLDER] [--rounds 3] [--stages]

A round is each contender once, in turns from either end. The plain loop's clock runs over its rollouts and updates
alone; ours over the whole stage: reading, tokenising and encoding the traffic, learning, writing the policy. Prints
every setting of each, then medians and ranges, by wall clock and by CPU; `--stages` runs both stages once with the
default budget of 10,240 answers, too. Exits 1 when a target is missed: 2 x the plain loop's answers per CPU second,
2 x the supervised stage's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
import torch

from bench.classifier_rl import plain
from bench.classifier_rl.ours import Ours, Took, few_labels
from bench.classifier_rl.task import Task, make_task, read_rows
from ratchet_api.rl import RlStage
from ratchet_cli.demo.carriers import ENCODER, fetch

TARGET = 2.0
PLAIN_ANSWERS = 128
"""Two rollouts: the loop does the same work in each."""
Contender = Callable[[int], tuple[int, Took]]
"""Number of the round to answers and time."""


def race_plain(base: Path, task: Task) -> Contender:
    """The plain loop, on traffic in the order of arrival."""
    model = plain.Plain(base, len(task.labels)).eval()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=plain.PLAIN.learning_rate)
    numbers = {label: number for number, label in enumerate(task.labels)}

    def run(number: int) -> tuple[int, Took]:
        rows = task.traffic[number * PLAIN_ANSWERS : (number + 1) * PLAIN_ANSWERS]
        began = time.perf_counter(), time.process_time()
        for start in range(0, len(rows), plain.BATCH):
            some = rows[start : start + plain.BATCH]
            plain.ppo(model, [t for t, _ in some], torch.tensor([numbers[label] for _, label in some]), optimizer)
        return len(rows), Took(time.perf_counter() - began[0], time.process_time() - began[1])

    return run


def race_ours(ours: Ours, traffic: Any, hyper: dict[str, Any]) -> Contender:
    """The rl stage on the traffic."""

    def run(number: int) -> tuple[int, Took]:
        _, took = ours.reinforce(traffic, f"rl-{hyper['interactions']}-{number}", hyper)
        return hyper["interactions"], took

    return run


def race(contenders: dict[str, Contender], rounds: int) -> dict[str, float]:
    """Print the table; returns the median of answers per CPU second by contender."""
    runs: dict[str, list[tuple[int, Took]]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
            answers, took = contenders[name](number)
            runs[name].append((answers, took))
            print("   ", json.dumps({"run": name, "answers": answers} | took._asdict()), flush=True)
    print("\n| contender | answers | answers/s | answers per CPU second |\n| --- | --- | --- | --- |")
    medians = {}
    for name, done in runs.items():
        wall = [answers / took.seconds for answers, took in done]
        cpu = [answers / took.cpu_seconds for answers, took in done]
        medians[name] = statistics.median(cpu)
        print(f"| {name} | {done[0][0]:,} | {_spread(wall)} | {_spread(cpu)} |")
    return medians


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def compare_stages(base: Path, task: Task, work: Path, epochs: float) -> float:
    """Print the time of both stages; returns rl's CPU seconds over the supervised stage's."""
    ours = Ours(base, task, work, seed=1)
    _, supervised = ours.supervise(ours.put("labelled", train=task.labelled), few_labels(epochs))
    _, learned = ours.reinforce(ours.put("traffic", train=task.traffic), "rl", {})
    budget = RlStage().interactions
    print(f"\n| stage | seconds | CPU seconds |\n| --- | --- | --- |\n| supervised, {len(task.labelled)} rows, "
          f"{epochs:g} epochs | {supervised.seconds:.0f} | {supervised.cpu_seconds:.0f} |\n| rl, {budget:,} answers "
          f"| {learned.seconds:.0f} | {learned.cpu_seconds:.0f} |")  # fmt: skip
    return learned.cpu_seconds / supervised.cpu_seconds


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--per-class", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=20.0, help="of the supervised stage, for --stages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", type=int, default=1280, help="of our rl stage in a round")
    parser.add_argument("--stages", action="store_true")
    wanted = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # peft asks transformers for a renamed property
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    cache = Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")
    base = wanted.base or fetch(ENCODER, cache, advance=lambda *_: None)
    task = make_task(*read_rows(wanted.data, cache), per_class=wanted.per_class, seed=0)
    torch.manual_seed(0)
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}", flush=True)
    missed = 0
    with tempfile.TemporaryDirectory() as work:
        if wanted.rounds:
            ours = Ours(base, task, Path(work) / "race", seed=0)
            ours.supervise(ours.put("labelled", train=task.labelled), few_labels(1.0))
            traffic = ours.put("traffic", train=task.traffic)
            like_for_like = {"interactions": PLAIN_ANSWERS, "learningRate": 1e-5}
            heads_alone = {"interactions": wanted.answers}
            contenders = {
                "plain": race_plain(base, task),
                "ours": race_ours(ours, traffic, heads_alone),
                "ours, adapters learn too": race_ours(ours, traffic, like_for_like),
            }
            print(json.dumps({"settings of": "plain"} | asdict(plain.PLAIN)))
            for name, hyper in zip(list(contenders)[1:], (heads_alone, like_for_like), strict=True):
                print(json.dumps({"settings of": name} | RlStage.model_validate(hyper).to_wire()), flush=True)
            rates = race(contenders, wanted.rounds)
            for name in list(contenders)[1:]:
                print(f"{name}: {rates[name] / rates['plain']:.1f} x the plain loop's answers per CPU second")
            missed += rates["ours"] < TARGET * rates["plain"]
        if wanted.stages:
            ratio = compare_stages(base, task, Path(work) / "stages", wanted.epochs)
            print(f"rl takes {ratio:.2f} x the supervised stage's CPU seconds")
            missed += ratio > TARGET
    print(f"load {os.getloadavg()[0]:.1f}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
