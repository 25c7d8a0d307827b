"""Does RL ever publish a policy worse than the supervised one? Twenty seeded runs with full labels, gate included.

    .venv/bin/python -m bench.classifier_rl.no_regression [--data FILE] [--base FOLDER] [--seeds 20] [--set '{}']

Each seed draws its own rows and runs supervised, rl on the same rows (their labels reward) and evaluate, which chooses
by its test split. What it publishes and the supervised policy then answer rows that none of the stages ever saw. A
regression is a loss of accuracy beyond chance there: the whole 95 % interval of the paired difference lies below zero.
Exits 1 when there is one. `--set` gives fields of stages.rl, to see what the gate makes of harmful ones. The encoder is
the first `--blocks` blocks of the base, which keeps it to minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import structlog
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from bench.classifier_rl.encoded import Encoded
from bench.classifier_rl.ours import Ours, few_labels
from bench.classifier_rl.task import Row, Task, read_rows
from ratchet_cli.demo.carriers import ENCODER, fetch

TRAIN, VALIDATION, TEST = 320, 200, 500
"""Rows of the splits."""
EPOCHS = 5.0
Bools = NDArray[np.bool_]


class Difference(NamedTuple):
    """Of accuracy on rows nobody saw, against the supervised policy: its interval is that of a mean of paired rows."""

    baseline: float
    candidate: float
    low: float
    high: float

    @property
    def size(self) -> float:
        """Candidate less baseline."""
        return self.candidate - self.baseline

    @classmethod
    def of(cls, before: Bools, after: Bools) -> Self:
        """By which rows either answers rightly, (N,)."""
        rows = after.astype(float) - before
        half = 1.96 * float(rows.std(ddof=1)) / len(rows) ** 0.5
        return cls(float(before.mean()), float(after.mean()), float(rows.mean()) - half, float(rows.mean()) + half)


class Outcome(NamedTuple):
    """One seed."""

    chosen: str
    published: Difference
    rl: Difference
    """Of RL's policy, published or not."""


def shorten(base: Path, blocks: int, into: Path) -> Path:
    """Write the encoder with its first blocks alone; real weights, a fraction of the work."""
    config = json.loads((base / "config.json").read_text())
    kept = [f"encoder.layer.{place}." for place in range(blocks)]
    whole = load_file(base / "model.safetensors")
    tensors = {
        name: tensor for name, tensor in whole.items() if ".layer." not in name or any(part in name for part in kept)
    }
    into.mkdir()
    save_file(tensors, into / "model.safetensors", metadata={"format": "pt"})
    (into / "config.json").write_text(json.dumps(config | {"num_hidden_layers": blocks}))
    (into / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    return into


def one(base: Path, rows: list[Row], *, seed: int, hyper: dict[str, Any], work: Path) -> Outcome:
    """Run the stages on rows of this seed's choice and judge what is published on all the others."""
    drawn = list(rows)
    random.Random(seed).shuffle(drawn)
    labels = sorted({label for _, label in drawn})
    train, rest = drawn[:TRAIN], drawn[TRAIN:]
    validation, test, unseen = rest[:VALIDATION], rest[VALIDATION : VALIDATION + TEST], rest[VALIDATION + TEST :]
    ours = Ours(base, Task(train, [], [], [], labels), work, seed=seed)
    dataset = ours.put("rows", train=train, validation=validation, test=test)
    supervised, _ = ours.supervise(dataset, few_labels(EPOCHS))
    with Encoded().shared():
        learned, _ = ours.reinforce(dataset, "rl", hyper)
        published, chosen = ours.choose(dataset, "rl")
        said = {folder: ours.answers(folder, unseen) for folder in (supervised, learned, published)}
    right = {folder: logits.argmax(1) == truth for folder, (logits, truth) in said.items()}
    before = right[supervised]
    return Outcome(chosen, Difference.of(before, right[published]), Difference.of(before, right[learned]))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--unseen", type=int, default=2000, help="rows that judge and were never seen")
    parser.add_argument("--classes", type=int, default=20, help="the first ones by name; fewer are quicker")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--set", default="{}", help="fields of stages.rl as JSON")
    wanted = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    cache = Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")
    train, test = read_rows(wanted.data, cache)
    names = sorted({label for _, label in train})[: wanted.classes]
    rows = [row for row in (*train, *test) if row[1] in names]
    random.Random(0).shuffle(rows)
    rows = rows[: TRAIN + VALIDATION + TEST + wanted.unseen]
    outcomes = []
    with tempfile.TemporaryDirectory() as work:
        base = wanted.base or fetch(ENCODER, cache, advance=lambda *_: None)
        base = shorten(base, wanted.blocks, Path(work) / "base")
        for seed in range(wanted.seeds):
            outcome = one(base, rows, seed=seed, hyper=json.loads(wanted.set), work=Path(work) / str(seed))
            outcomes.append(outcome)
            shown = {"supervised": outcome.rl.baseline, "rl": outcome.rl.candidate, "published": outcome.chosen}
            print(
                json.dumps({"seed": seed} | shown | {"interval": [outcome.published.low, outcome.published.high]}),
                flush=True,
            )
    kept = sum(outcome.chosen == "rl" for outcome in outcomes)
    rl, published = (np.array([getattr(each, name).size for each in outcomes]) for name in ("rl", "published"))
    regressions = sum(outcome.published.high < 0 for outcome in outcomes)
    print(f"{len(outcomes)} runs, {len(rows) - TRAIN - VALIDATION - TEST} unseen rows each; RL published in {kept}")
    print(f"difference of RL's policies: mean {rl.mean():+.4f}, {rl.min():+.4f} to {rl.max():+.4f}")
    print(f"of what was published: mean {published.mean():+.4f}, {published.min():+.4f} to {published.max():+.4f}")
    print(f"{regressions} regressions published")
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
