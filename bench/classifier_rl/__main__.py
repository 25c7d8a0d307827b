"""Few labels, then right or wrong on what was answered: how far RL comes, by number of answers, over seeds.

    .venv/bin/python -m bench.classifier_rl [--data FILE] [--base FOLDER] [--seeds 5] [--interactions 1280 2560 5120]

FILE holds lists of [text, label] under `train` and `test`; without it the rows are the demo's complaints. Each seed
draws its own labelled examples. Every number of answers is a run of its own, so its learning rate ends at 0. Prints
one JSON line per run, then means over the seeds with 95 % intervals (Student's t) of the difference to the supervised
policy. `--flipped` adds a run with a tenth of the verdicts wrong. `plain.py` beside it is the loop that ours races.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from scipy import stats

from bench.classifier_rl.ours import Ours
from bench.classifier_rl.task import make_task, read_rows
from ratchet_cli.demo.carriers import ENCODER, fetch

FLIPPED = {
    "rewards": [{"type": "entryPoint", "entryPoint": "bench.classifier_rl.flipped:verdict"}],
    "verdictCoef": 3.0,
    "verdictNoise": 0.1,
}
METRICS = ("accuracy", "macro_f1", "ece", "ece_calibrated")


def run_seed(wanted: argparse.Namespace, base: Path, rows: tuple[Any, Any], seed: int) -> dict[str, dict[str, float]]:
    """All runs of one seed, by name."""
    task = make_task(*rows, per_class=wanted.per_class, seed=seed)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        ours = Ours(base, task, Path(work), seed=seed, epochs=wanted.epochs)

        def note(name: str, folder: Path, seconds: float, answers: int) -> None:
            results[name] = ours.measure(folder) | {"seconds": seconds, "answers": float(answers)}
            shown = {key: round(value, 4) for key, value in results[name].items()}
            print(json.dumps({"seed": seed, "run": name, **shown}), flush=True)

        note("supervised", *ours.supervise(), answers=0)
        for answers in wanted.interactions:
            hyper = {"interactions": answers, "traffic": "reshuffled"} | json.loads(wanted.set)
            note(f"rl {answers}", *ours.reinforce(f"rl-{answers}", hyper), answers=answers)
            if wanted.flipped:
                note(f"rl {answers} flipped", *ours.reinforce(f"flipped-{answers}", hyper | FLIPPED), answers=answers)
    return results


def report(seeds: list[dict[str, dict[str, float]]]) -> None:
    """Print the table: mean, and mean difference to the supervised policy of the same seed with its interval."""
    print("\n| run | accuracy | macro-F1 | ECE | ECE, calibrated | answers/s |\n| --- | --- | --- | --- | --- | --- |")
    for name in seeds[0]:
        cells = []
        for metric in METRICS:
            values = np.array([seed[name][metric] for seed in seeds])
            differences = values - np.array([seed["supervised"][metric] for seed in seeds])
            cell = f"{values.mean():.4f}"
            if name != "supervised" and len(seeds) > 1:
                half = stats.t.ppf(0.975, len(seeds) - 1) * differences.std(ddof=1) / len(seeds) ** 0.5
                cell += f" ({differences.mean():+.4f} ± {half:.4f})"
            cells.append(cell)
        speed = np.median([seed[name]["answers"] / seed[name]["seconds"] for seed in seeds])
        print(f"| {name} | {' | '.join(cells)} | {speed:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--per-class", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--interactions", type=int, nargs="+", default=[1280, 2560, 3840, 5120])
    parser.add_argument("--flipped", action="store_true")
    parser.add_argument("--set", default="{}", help="fields of stages.rl as JSON")
    wanted = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    cache = Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")
    base = wanted.base or fetch(ENCODER, cache, advance=lambda *_: None)
    rows = read_rows(wanted.data, cache)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    report([run_seed(wanted, base, rows, seed) for seed in range(wanted.first_seed, wanted.first_seed + wanted.seeds)])


if __name__ == "__main__":
    main()
