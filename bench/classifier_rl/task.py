"""The task: a few labelled examples per class, then traffic whose answers are only ever called right or wrong."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from ratchet_cli.demo.carriers import COMPLAINTS, fetch
from ratchet_cli.demo.dataset import choose_rows

Row = tuple[str, str]
VALIDATION_ROWS = 500
"""Rows that fit the temperature of either side, and do nothing else."""


class Task(NamedTuple):
    """One seed's rows."""

    labelled: list[Row]
    traffic: list[Row]
    validation: list[Row]
    test: list[Row]
    labels: list[str]


def read_rows(data: Path | None, cache: Path) -> tuple[list[Row], list[Row]]:
    """Rows of train and test: of a JSON file with lists of [text, label] under `train` and `test`, or the demo's."""
    if data is not None:
        held = json.loads(data.read_text())
        return [(text, label) for text, label in held["train"]], [(text, label) for text, label in held["test"]]
    rows = choose_rows(fetch(COMPLAINTS, cache, advance=lambda *_: None), full=True)
    return [(row.text, row.label) for row in rows.train], [(row.text, row.label) for row in rows.test]


def make_task(train: list[Row], test: list[Row], *, per_class: int, seed: int) -> Task:
    """Draw the labelled examples; everything else of train is traffic, less the validation rows."""
    rows = list(train)
    random.Random(seed).shuffle(rows)
    taken: dict[str, int] = defaultdict(int)
    labelled, rest = [], []
    for row in rows:
        taken[row[1]] += 1
        (labelled if taken[row[1]] <= per_class else rest).append(row)
    return Task(
        labelled=labelled,
        traffic=rest[VALIDATION_ROWS:],
        validation=rest[:VALIDATION_ROWS],
        test=test,
        labels=sorted(taken),
    )
