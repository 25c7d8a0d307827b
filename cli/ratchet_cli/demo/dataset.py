"""Turns the complaints into the three CSV files of the example: one per split, a fixed choice of rows.

Decides which rows the demo uses and the short name of each team. The choice hangs on each text's hash alone, so
everybody trains on the same rows. Used by `demo.run` and by the baseline.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TEXT_COLUMN = "narrative"
LABEL_COLUMN = "team"
TRAIN_ROWS = 4_000
VALIDATION_ROWS = 600

TEAMS = {
    "Credit reporting, credit repair services, or other personal consumer reports": "credit reports",
    "Debt collection": "debt collection",
    "Mortgage": "mortgages",
    "Credit card or prepaid card": "cards",
    "Bank account or service, Savings account": "bank accounts",
    "Consumer loan, Vehicle loan or lease, Payday loan, title loan, or personal loan": "consumer loans",
    "Student loan": "student loans",
    "Money transfer, virtual currency, or money service": "money transfers",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One complaint and the team that dealt with it."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of each split."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]


def choose_rows(folder: Path, *, full: bool) -> Rows:
    """Read the carrier's two files and choose the demo's rows.

    Args:
        folder: holds train.csv and test.csv as the carrier has them.
        full: take every row instead of the first TRAIN_ROWS.
    """
    test = _read(folder / "test.csv")
    held_out = {row.text for row in test}
    pool = [row for row in _read(folder / "train.csv") if row.text not in held_out]
    validation, rest = pool[:VALIDATION_ROWS], pool[VALIDATION_ROWS:]
    return Rows(tuple(rest if full else rest[:TRAIN_ROWS]), tuple(validation), tuple(test))


def write_splits(rows: Rows, folder: Path) -> None:
    """Write train.csv, validation.csv and test.csv; equal rows give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in (("train", rows.train), ("validation", rows.validation), ("test", rows.test)):
        temporary = folder / f".{name}.csv.new"
        _write(split, temporary)
        temporary.replace(folder / f"{name}.csv")


def _write(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((TEXT_COLUMN, LABEL_COLUMN))
        writer.writerows((row.text, row.label) for row in rows)


def _read(path: Path) -> list[Row]:
    """Read one carrier file: distinct texts, in the order of their hashes."""
    with path.open(encoding="utf-8", newline="") as file:
        found = {row["Consumer complaint narrative"].strip(): TEAMS[row["Product"]] for row in csv.DictReader(file)}
    ordered = sorted((text for text in found if text), key=lambda text: hashlib.sha256(text.encode()).digest())
    return [Row(text, found[text]) for text in ordered]
