"""Few labels, then right or wrong on what was answered: how far RL comes, by number of answers, over seeds.

    .venv/bin/python -m bench.classifier_rl [--data FILE] [--base FOLDER] [--seeds 5] [--interactions 1280 2560 5120]

FILE holds lists of [text, label] under `train` and `test`; without it the rows are the demo's complaints. Each seed
draws its own labelled examples. Every number of answers is a run of its own, so its learning rate ends at 0; the runs
of a seed share the supervised policy and, while adapters do not learn, what its encoder makes of each text. Prints
one JSON line per run, then means over the seeds with 95 % intervals (Student's t) of the difference to the supervised
policy. `--flipped` adds a run with a tenth of the verdicts wrong. With `--results LINES` the lines are kept, and a
later call with the same settings goes on from them. `race.py` beside it measures speed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import structlog

from bench.classifier_rl.encoded import Encoded
from bench.classifier_rl.ours import Ours, few_labels
from bench.classifier_rl.table import Line, table
from bench.classifier_rl.task import make_task, read_rows
from ratchet_cli.demo.carriers import ENCODER, fetch

SUPERVISED = "supervised"
FLIPPED = {
    "rewards": [{"type": "entryPoint", "entryPoint": "bench.classifier_rl.flipped:verdict"}],
    "verdictCoef": 3.0,
    "verdictNoise": 0.1,
}


def wanted_runs(wanted: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Fields of stages.rl, by the name of the run."""
    more = json.loads(wanted.set)
    runs: dict[str, dict[str, Any]] = {}
    for answers in wanted.interactions:
        hyper = {"interactions": answers, "traffic": "reshuffled"} | more
        runs[f"rl {answers}"] = hyper
        if wanted.flipped:
            runs[f"rl {answers} flipped"] = hyper | FLIPPED
    return runs


def run_seed(wanted: argparse.Namespace, base: Path, rows: tuple[Any, Any], seed: int, book: Book) -> None:
    """All runs of one seed that are not in the book yet."""
    missing = {name: hyper for name, hyper in wanted_runs(wanted).items() if not book.has(seed, name)}
    if not missing and book.has(seed, SUPERVISED):
        return
    encoded = Encoded()
    with tempfile.TemporaryDirectory() as work:
        task = make_task(*rows, per_class=wanted.per_class, seed=seed)
        ours = Ours(base, task, Path(work), seed=seed)
        taught, _ = ours.supervise(ours.put("labelled", train=task.labelled), few_labels(wanted.epochs))
        traffic = ours.put("traffic", train=task.traffic)
        if not book.has(seed, SUPERVISED):
            with encoded.shared():
                book.add(seed, SUPERVISED, ours.measure(taught))
        for name, hyper in missing.items():
            is_frozen = "learningRate" not in hyper
            with encoded.shared() if is_frozen else nullcontext():
                learned, _ = ours.reinforce(traffic, name.replace(" ", "-"), hyper)
                book.add(seed, name, ours.measure(learned))


class Book:
    """Results of one data set and one setting, in a file of JSON lines that other settings may share."""

    def __init__(self, path: Path | None, setting: dict[str, Any]) -> None:
        self._path, self._setting = path, setting
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        read = [json.loads(line) for line in lines]
        self.lines: list[Line] = [line for line in read if setting.items() <= line.items()]

    def has(self, seed: int, name: str) -> bool:
        return any((line["seed"], line["run"]) == (seed, name) for line in self.lines)

    def add(self, seed: int, name: str, numbers: dict[str, float]) -> None:
        line = self._setting | {"seed": seed, "run": name} | {key: round(each, 5) for key, each in numbers.items()}
        self.lines.append(line)
        print(json.dumps(line), flush=True)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--per-class", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--interactions", type=int, nargs="*", default=[1280, 2560, 3840, 5120])
    parser.add_argument("--flipped", action="store_true")
    parser.add_argument("--set", default="{}", help="fields of stages.rl as JSON")
    parser.add_argument("--results", type=Path, help="file of JSON lines to go on from and add to")
    wanted = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    cache = Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")
    base = wanted.base or fetch(ENCODER, cache, advance=lambda *_: None)
    rows = read_rows(wanted.data, cache)
    setting = {
        "data": wanted.data.stem if wanted.data is not None else "complaints",
        "per_class": wanted.per_class,
        "epochs": wanted.epochs,
        "set": wanted.set,
    }
    book = Book(wanted.results, setting)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    for seed in range(wanted.first_seed, wanted.first_seed + wanted.seeds):
        run_seed(wanted, base, rows, seed, book)
    print(table(book.lines, [SUPERVISED, *wanted_runs(wanted)]))


if __name__ == "__main__":
    main()
