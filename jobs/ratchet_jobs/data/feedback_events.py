"""The feedback log as a table on disk: every event once, feedback beside the answer that it is about.

Decides which of two events with one id counts (the first in reading order), what was taken back (an event of the same
sender names it in `supersedes`), and that nothing of an erased person is read. DuckDB does the joins, so memory stays
the same however long the log is. Nothing here depends on time or threads: whatever has an order is sorted by one.
Called by the snapshot recipe of feedback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import duckdb

from ratchet_jobs.feedback_log.reader import fetch_segment
from ratchet_jobs.feedback_log.segment import Segment, lines_of
from ratchet_jobs.runtime.errors import StoreCorrupt
from ratchet_jobs.runtime.store import Store

MEMORY = "1GB"
"""What DuckDB may hold before it goes to disk."""
_CHUNK_BYTES = 64 << 20
_AHEAD = 16
"""Segments that are fetched at once: a store answers in milliseconds, a log has many."""

_COLUMNS = {
    "o": "BIGINT",
    "id": "VARCHAR",
    "source": "VARCHAR",
    "received": "TIMESTAMP",
    "kind": "VARCHAR",
    "type": "VARCHAR",
    "policy": "VARCHAR",
    "version": "BIGINT",
    "subject": "VARCHAR",
    "interaction": "VARCHAR",
    "actionPropensity": "DOUBLE",
    "supersedes": "VARCHAR",
    "prompt": "VARCHAR",
    "response": "VARCHAR",
    "input": "VARCHAR",
    "label": "VARCHAR",
    "rating": "DOUBLE",
    "score": "DOUBLE",
    "correction": "VARCHAR",
    "chosen": "VARCHAR",
    "rejected": "VARCHAR",
    "tags": "JSON",
}

# Of two lines with one id the first counts. What was superseded goes, whoever's turn it was; an undo itself is no row.
_EVENTS = """
CREATE TABLE event AS
WITH first AS (SELECT min(o) AS o FROM raw GROUP BY id),
     once AS (SELECT raw.* FROM raw JOIN first USING (o) WHERE policy = $policy)
SELECT once.*, once.id IN (
    SELECT old.id FROM once AS old JOIN once AS new ON new.supersedes = old.id AND new.source = old.source
) AS superseded
FROM once
"""

_ERASED = """
DELETE FROM event WHERE subject IN (SELECT unnest($subjects)) OR interaction IN (
    SELECT interaction FROM event WHERE kind <> 'feedback' AND subject IN (SELECT unnest($subjects))
)
"""

# The recorded answer is the truth about what was asked and answered; what the feedback repeats fills the gaps.
_VOTES = """
CREATE TABLE vote AS
SELECT f.o, f.id AS event, f.type, f.received, coalesce(f.subject, i.subject) AS subject, i.subject AS about, f.tags,
    coalesce(f.version, i.version) AS version,
    coalesce(i.input, f.prompt) AS prompt,
    coalesce(i.label, i.response, f.response) AS answer,
    i.label IS NOT NULL AS is_class,
    i.actionPropensity AS propensity,
    coalesce(f.score, (f.rating - 1) / 4,
        CASE f.type WHEN 'thumbs_up' THEN 1.0 WHEN 'thumbs_down' THEN 0.0 END) AS score,
    f.correction, f.chosen, f.rejected, f.superseded
FROM event AS f LEFT JOIN (SELECT * FROM event WHERE kind <> 'feedback' AND NOT superseded) AS i USING (interaction)
WHERE f.kind = 'feedback' AND f.type <> 'undo'
"""


def open_tables(folder: Path, *, threads: int) -> duckdb.DuckDBPyConnection:
    """Open an empty database in a folder of its own, which may grow as large as the log."""
    folder.mkdir(parents=True, exist_ok=True)
    database = duckdb.connect(
        folder / "events.duckdb",
        config={
            "memory_limit": MEMORY,
            "temp_directory": str(folder / "spill"),
            "threads": threads,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    columns = ", ".join(f'"{name}" {kind}' for name, kind in _COLUMNS.items())
    database.execute(f"CREATE TABLE raw ({columns})")
    return database


def load_events(
    database: duckdb.DuckDBPyConnection,
    store: Store,
    segments: Sequence[Segment],
    *,
    policy: str,
    erased: Sequence[str],
    folder: Path,
) -> None:
    """Fill the tables `event` and `vote` from segments in reading order.

    Args:
        database: of `open_tables`.
        store: where the log is.
        segments: sorted.
        policy: whose events are wanted.
        erased: pseudonyms of people of whom nothing may be read.
        folder: for one chunk of the log at a time.

    Raises:
        StoreCorrupt: names the segment that cannot be trusted.
    """
    path = folder / "chunk.jsonl"
    insert = f"INSERT INTO raw SELECT * FROM read_json(?, format = 'newline_delimited', columns = {_COLUMNS!r})"
    try:
        for chunk in _chunks(store, segments):
            path.write_bytes(chunk)
            database.execute(insert, [str(path)])
        path.unlink(missing_ok=True)
        database.execute(_EVENTS, {"policy": policy})
    except duckdb.Error as error:
        raise StoreCorrupt(f"feedback log: a line is no event of ours: {str(error).splitlines()[0][:300]}") from error
    database.execute("DROP TABLE raw")
    if erased:
        database.execute(_ERASED, {"subjects": list(erased)})
    database.execute(_VOTES)
    database.execute("DROP TABLE event")


def _chunks(store: Store, segments: Sequence[Segment]) -> Iterator[bytes]:
    """Yield lines, each with its place in the log in front, some tens of megabytes at a time."""
    parts: list[bytes] = []
    size = before = 0
    for lines in _fetched(store, segments):
        parts += [b'{"o":%d,%b\n' % (place, line[1:]) for place, line in enumerate(lines, before)]
        before += len(lines)
        size += sum(map(len, lines))
        if size > _CHUNK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def _fetched(store: Store, segments: Sequence[Segment]) -> Iterator[list[bytes]]:
    """Yield each segment's lines in order, fetching some ahead."""
    rest = iter(segments)
    with ThreadPoolExecutor(_AHEAD) as pool:
        under_way = [(segment, pool.submit(fetch_segment, store, segment)) for segment in islice(rest, _AHEAD)]
        while under_way:
            segment, answer = under_way.pop(0)
            data = answer.result()
            under_way += [(each, pool.submit(fetch_segment, store, each)) for each in islice(rest, 1)]
            yield lines_of(segment, data)
