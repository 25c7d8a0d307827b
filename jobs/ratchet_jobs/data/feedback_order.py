"""The rows of a data set in the order of its snapshot, when they are too many to be sorted in memory.

Whole rows lie in files by ranges of that order (component, hash of the text), each small enough to be sorted at once. A
sort that goes to disk holds blocks of every run at once, of which a longer log makes more, until none is left. Where a
text's hash is its component, the tables `removed` names the rows that rules have removed since; else the table `placed`
has those that are left, with their components. Called by `feedback_rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ratchet_api.feedback_dataset import Split, SplitName
from ratchet_jobs.data.parted import MOST, Parted
from ratchet_jobs.data.snapshots import SPLITS

_Item = TypeVar("_Item")
WHOLE = pa.schema(
    {
        "o": pa.int64(),
        "event": pa.string(),
        "text": pa.string(),
        "first": pa.string(),
        "second": pa.string(),
        "text_hash": pa.uint64(),
        "score": pa.float64(),
        "propensity": pa.float64(),
        "version": pa.int64(),
        "subject": pa.string(),
        "about": pa.string(),
        "received": pa.timestamp("us"),
    }
)
"""A row; `o` is its event's place in the log."""
_PLACED = pa.schema([*WHOLE, pa.field("component", pa.uint64()), pa.field("split", pa.string())])
_BETWEEN = "text_hash BETWEEN $least AND $most"
_PLACE = f"""
SELECT piece.*, component, split FROM piece
JOIN (SELECT o, component, split FROM placed WHERE {_BETWEEN}) AS placed USING (o)
"""
_LEFT = f"""
SELECT *, text_hash AS component FROM piece ANTI JOIN (SELECT o FROM removed WHERE {_BETWEEN}) AS removed USING (o)
"""

BATCH = 65_536
"""Rows of a table that is written at once: those of a row group."""
_PIECE = 8_192
"""Rows that come out of the database at a time: what is over when a table is full waits in memory, and is small."""
_SORTED = 100_000
"""Rows that are sorted together, about."""
_SAMPLE = 20_000
"""Rows of which the bounds of what is sorted together are taken."""


class WholeRows:
    """Rows on their way into a snapshot's order.

    Args:
        database: in which `placed` will be.
        folder: for the rows.
        rows: how many may come, at most.
        split: how large splits are, where a text's hash is its component and so decides its split; None = both are
            known when all rows are there.
    """

    def __init__(self, database: duckdb.DuckDBPyConnection, folder: Path, *, rows: int, split: Split | None) -> None:
        self._db, self._folder, self._by_text = database, folder, split is not None
        shares = (split.train_percent, split.validation_percent, split.test_percent) if split else (100, 0, 0)
        self._ranges: dict[SplitName, _Ranges] = {}
        for name, share in zip(SPLITS, shares, strict=True):
            many = _pieces(rows * share / 100)
            self._ranges[name] = _Ranges([((part << 64) // many, 0) for part in range(1, many)])
        self._laid = Parted(folder / "whole", sum(each.parts for each in self._ranges.values()), WHOLE)

    def add(self, rows: pa.Table) -> None:
        """Take rows with the columns of WHOLE, and `split` if their texts decide it; threads may do so together."""
        self._laid.add(rows, self._place(rows, "text_hash", splits=rows["split"] if self._by_text else None))

    def place(self) -> None:
        """Lay all rows down once more, by the components that are known now."""
        for name in SPLITS:
            rows = self._db.execute(f"SELECT count(*) FROM placed WHERE split = '{name}'").fetchall()[0][0]
            sample = self._db.execute(
                "SELECT component, text_hash FROM (SELECT component, text_hash FROM placed "
                f"WHERE split = '{name}' USING SAMPLE reservoir({_SAMPLE} ROWS) REPEATABLE (1)) ORDER BY ALL"
            ).fetchall()
            many = _pieces(rows)
            self._ranges[name] = _Ranges([sample[len(sample) * part // many] for part in range(1, many)])
        laid, parts = self._laid, sum(each.parts for each in self._ranges.values())
        self._laid = Parted(self._folder / "placed", parts, _PLACED)
        for part in range(laid.parts):
            rows = self._asked(_PLACE, laid.take(part))
            self._laid.add(rows, self._place(rows, "component", splits=rows["split"]))

    def sorted(self, columns: str, split: SplitName) -> Iterator[pa.Table]:
        """Yield the rows of a split in order, in tables of BATCH rows and a rest; once only.

        Args:
            columns: select list.
            split: whose.
        """
        first = sum(self._ranges[name].parts for name in SPLITS[: SPLITS.index(split)])
        parts = range(first, first + self._ranges[split].parts)
        return whole_tables(piece for part in parts for piece in self._piece(part, columns))

    def _piece(self, part: int, columns: str) -> Iterator[pa.RecordBatch]:
        rows = self._laid.take(part)
        with self._db.cursor() as own:
            own.register("piece", self._asked(_LEFT, rows) if self._by_text else rows)
            order = f"SELECT {columns} FROM piece ORDER BY component, text_hash, first, event"
            yield from own.sql(order).to_arrow_reader(_PIECE)

    def _asked(self, query: str, rows: pa.Table) -> pa.Table:
        """Answer a query about some rows and those of a table whose hashes are among theirs."""
        bounds = pc.min_max(rows["text_hash"]).as_py()
        with self._db.cursor() as own:
            own.register("piece", rows)
            return own.sql(query, params={"least": bounds["min"] or 0, "most": bounds["max"] or 0}).to_arrow_table()

    def _place(self, rows: pa.Table, component: str, *, splits: pa.ChunkedArray | None) -> npt.NDArray[np.uint16]:
        """Return (n,) the part of each row."""
        first, second = rows[component].to_numpy(), rows["text_hash"].to_numpy()
        if splits is None:
            return self._ranges["train"].of(first, second).astype(np.uint16)
        place, start = np.zeros(len(rows), np.uint16), 0
        for name in SPLITS:
            own = np.flatnonzero(pc.equal(splits, name))
            place[own] = start + self._ranges[name].of(first[own], second[own])
            start += self._ranges[name].parts
        return place


class _Ranges:
    """Ranges of an order of two numbers.

    Args:
        bounds: the least of each range but the first, in order.
    """

    def __init__(self, bounds: Sequence[tuple[int, int]]) -> None:
        self.parts = len(bounds) + 1
        self._firsts, self._seconds = np.array([*bounds], np.uint64).reshape(-1, 2).T

    def of(self, first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        """Return (n,) the range of each pair of numbers (n,), (n,): how many bounds are not above it."""
        found = np.searchsorted(self._firsts, first, side="right")
        below = np.searchsorted(self._firsts, first, side="left")
        for low in np.unique(below[below < found]):  # a bound has this first number: the second decides
            high = np.searchsorted(self._firsts, self._firsts[low], side="right")
            same = first == self._firsts[low]
            found[same] = low + np.searchsorted(self._seconds[low:high], second[same], side="right")
        return found


def _pieces(rows: float) -> int:
    return min(max(1, int(-(-rows // _SORTED))), MOST // len(SPLITS))


def ahead(items: Iterable[_Item]) -> Iterator[_Item]:
    """Yield items; while one is worked on, the next one is made."""
    rest = iter(items)
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, rest, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, rest, None)
            yield item


def whole_tables(pieces: Iterable[pa.RecordBatch], rows: int = BATCH) -> Iterator[pa.Table]:
    """Yield rows in tables of exactly so many, and a rest.

    Each table is one piece: where pieces end, Parquet may end a page, and equal rows had other bytes.
    """
    waiting: list[pa.RecordBatch] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(each.num_rows for each in waiting) >= rows:
            table = pa.Table.from_batches(waiting).combine_chunks()
            yield table.slice(0, rows)
            waiting = table.slice(rows).to_batches()
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()
