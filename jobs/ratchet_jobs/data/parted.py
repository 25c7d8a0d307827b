"""Rows that are too many for memory, laid down in a file for each part they belong to, and read back part by part.

The first half of a join or a sort of more than memory holds: rows that must meet lie in one part, and a part does fit.
Rows of a part keep the order in which they came; a file is an Arrow stream, open until its part is taken. Decides
nothing about which part a row belongs to. Called by `feedback_events` and `feedback_order`.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MOST = 256
"""Parts: as many files are open at once."""
_BUFFER = 64 << 10
"""Bytes: a piece of a part has some sixty small arrays."""


class Parted:
    """Rows in parts.

    Args:
        folder: for the files; made here.
        parts: how many, MOST at most.
        schema: of all rows.
    """

    def __init__(self, folder: Path, parts: int, schema: pa.Schema) -> None:
        self.parts, self.schema, self.rows = parts, schema, 0
        """`rows`: how many were laid down."""
        self._folder, self._lock = folder, Lock()
        self._open: dict[int, tuple[pa.ipc.RecordBatchStreamWriter, pa.BufferedOutputStream]] = {}
        folder.mkdir(parents=True)

    def add(self, table: pa.Table, part: npt.NDArray[np.integer]) -> None:
        """Lay rows down; threads may do so at the same time.

        Args:
            table: n rows.
            part: (n,), of each row, from 0; a row beyond the last part is left out.
        """
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(self.parts + 1))
        rows = table.select(self.schema.names).cast(self.schema).take(pa.array(order[: ends[-1]]))
        with self._lock:
            self.rows += len(rows)
            for number in range(self.parts):
                first, end = int(ends[number]), int(ends[number + 1])
                if first < end:
                    self._stream(number).write_table(rows.slice(first, end - first))

    def take(self, part: int) -> pa.Table:
        """Return a part's rows, and give their room on the disk back."""
        if part not in self._open:
            return self.schema.empty_table()
        for each in self._open.pop(part):
            each.close()
        path = self._path(part)
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_stream(file).read_all()
        path.unlink()
        return table

    def _stream(self, part: int) -> pa.ipc.RecordBatchStreamWriter:
        if part not in self._open:
            file = pa.BufferedOutputStream(pa.OSFile(str(self._path(part)), "wb"), _BUFFER)
            self._open[part] = pa.ipc.new_stream(file, self.schema), file
        return self._open[part][0]

    def _path(self, part: int) -> Path:
        return self._folder / f"{part}.arrows"
