"""The few kinds of content that a page has: tables, plots, figures in a row, and sentences. Pure data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ratchet_jobs.report.charts import Chart

Tone = Literal["", "good", "bad", "faint"]
CELL_LENGTH = 240
NOTHING = "\N{EN DASH}"
"""In place of a number that there is not."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        tone: how it is meant.
        heat: 0..1, how strongly it is coloured; None = not at all.
    """

    text: str
    tone: Tone = ""
    heat: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns; the first cell of each row names the row.

    Attributes:
        caption: what it lists.
        columns: their titles.
        rows: of cells.
        numeric: whether all columns but the first hold numbers.
        folded: whether it is closed until somebody opens it.
        note: a sentence below it.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: bool = True
    folded: bool = False
    note: str = ""
    kind: Literal["table"] = field(default="table", init=False)


@dataclass(frozen=True, slots=True)
class Plots:
    """Plots beside each other."""

    title: str
    charts: Sequence[Chart]
    kind: Literal["plots"] = field(default="plots", init=False)


@dataclass(frozen=True, slots=True)
class Text:
    """A sentence."""

    text: str
    tone: Tone = ""
    kind: Literal["text"] = field(default="text", init=False)


@dataclass(frozen=True, slots=True)
class Figures:
    """Headline numbers: name, value, and what it means."""

    numbers: Sequence[tuple[str, str, str]]
    kind: Literal["figures"] = field(default="figures", init=False)


Block = Table | Plots | Text | Figures


def row(name: str, *cells: str | Cell) -> list[Cell]:
    """Make a row; texts are cut to what a table can hold."""
    return [cut(name), *(each if isinstance(each, Cell) else cut(each) for each in cells)]


def cut(text: str) -> Cell:
    """Make a cell of a text of any length."""
    return Cell(text if len(text) <= CELL_LENGTH else f"{text[: CELL_LENGTH - 1]}…")


def number(value: float | None) -> str:
    """Format a measured number: four decimals, more for what is very small."""
    if value is None or value != value:
        return NOTHING
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.3g}"


def change(value: float, baseline: float) -> str:
    """By how much a number changed, in percent of what it was; a dash where it was 0."""
    return f"{100 * (value - baseline) / abs(baseline):+.1f} %" if baseline else NOTHING
