"""The feedback log as tables: every event once, feedback beside the answer that it is about.

Decides which of two events with one id counts (the first in reading order), what was taken back (an event of the same
sender names it in `supersedes`), and that nothing of an erased person is read. DuckDB does the joins and moves to the
scratch disk what does not fit, so memory grows far less than the log does. Nothing here depends on time or
threads: whatever has an order is sorted by one. Called by the snapshot recipe of feedback.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import duckdb

from ratchet_jobs.feedback_log.reader import fetch_segment
from ratchet_jobs.feedback_log.segment import Segment, content_of
from ratchet_jobs.runtime.errors import StoreCorrupt
from ratchet_jobs.runtime.store import Store

MEMORY = "256MB"
"""What DuckDB may hold before it goes to disk."""
_CHUNK_BYTES = 64 << 20
"""Well above what fills one of DuckDB's row groups, or its rows are laid down twice."""
_LONGEST_LINE = 2 << 20
"""Far above what the gateway takes; a chunk is parsed in pieces of twice this size, side by side."""
_AHEAD = 16
"""Segments that are fetched at once: a store answers in milliseconds, a log has many."""

_COLUMNS = {
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

_FEEDBACK = "kind = 'feedback'"
_EVENT: Mapping[str, tuple[str, str]] = {
    "id": ("VARCHAR", "id"),
    "source": ("VARCHAR", "source"),
    "received": ("TIMESTAMP", "received"),
    "feedback": ("BOOLEAN", _FEEDBACK),
    "type": ("VARCHAR", "type"),
    "mine": ("BOOLEAN", "policy IS NOT DISTINCT FROM $policy"),
    "version": ("BIGINT", "version"),
    "subject": ("VARCHAR", "subject"),
    "interaction": ("VARCHAR", "interaction"),
    "supersedes": ("VARCHAR", "supersedes"),
    "asked": ("VARCHAR", f"CASE WHEN {_FEEDBACK} THEN prompt ELSE input END"),
    "answer": ("VARCHAR", f"CASE WHEN {_FEEDBACK} THEN response ELSE coalesce(label, response) END"),
    "is_class": ("BOOLEAN", "label IS NOT NULL"),
    "score": (
        "DOUBLE",
        "coalesce(score, (rating - 1) / 4, CASE type WHEN 'thumbs_up' THEN 1.0 WHEN 'thumbs_down' THEN 0.0 END)",
    ),
    "propensity": ("DOUBLE", "actionPropensity"),
    "correction": ("VARCHAR", "correction"),
    "chosen": ("VARCHAR", "chosen"),
    "rejected": ("VARCHAR", "rejected"),
    "tags": ("JSON", "tags"),
}
"""An event as it is kept: what its kind makes of the columns of the log. Each column costs time and room per event."""
NOT_ALWAYS = ("propensity", "correction", "chosen", "rejected", "tags")
"""Columns that not every data set looks at."""

# A row's number is its place in reading order: rows go in by one statement after the other, each in the order of its
# file. Of two lines with one id the first counts; there are few others, so they are looked up and left out, which
# spares copying the log. Hashes of ids are found to be equal in half the time of ids; the few that are decide by id.
# Nothing is deleted: a row that is leaves a mark of 8 bytes for itself and each of its neighbours, which the database
# holds in memory until the table is gone.
_TWICE = """
CREATE TABLE twice AS SELECT event.rowid AS o
FROM event JOIN (
    SELECT id, min(rowid) AS first FROM event
    WHERE hash(id) IN (SELECT hash(id) AS h FROM event GROUP BY h HAVING count(*) > 1) GROUP BY id HAVING count(*) > 1
) AS earliest USING (id)
WHERE event.rowid > earliest.first
"""
_ONCE = "CREATE VIEW once AS SELECT *, rowid AS o FROM event WHERE mine AND rowid NOT IN (SELECT o FROM twice)"

# What was superseded goes, whoever's turn it was; an undo itself is no row.
_GONE = """
CREATE TABLE gone AS SELECT DISTINCT old.id
FROM once AS old JOIN once AS new ON new.supersedes = old.id AND new.source = old.source
WHERE new.supersedes IS NOT NULL
"""

_ERASED = "CREATE TABLE erased AS SELECT unnest($subjects) AS subject"
_ANSWERED = """
CREATE TABLE answered AS
SELECT DISTINCT interaction FROM once WHERE NOT feedback AND subject IN (SELECT subject FROM erased)
"""
_NOT_ERASED = (
    "(subject IN (SELECT subject FROM erased) OR interaction IN (SELECT interaction FROM answered)) IS NOT TRUE"
)

# The recorded answer is the truth about what was asked and answered; what the feedback repeats fills the gaps.
_VOTES = """
CREATE VIEW vote AS
WITH said AS NOT MATERIALIZED (
    SELECT *, {absent}id IN (SELECT id FROM gone) AS superseded FROM once WHERE {read}
)
SELECT f.o, f.id AS event, f.type, f.received, coalesce(f.subject, i.subject) AS subject, i.subject AS about, f.tags,
    coalesce(f.version, i.version) AS version,
    coalesce(i.asked, f.asked) AS prompt,
    coalesce(i.answer, f.answer) AS answer,
    coalesce(i.is_class, false) AS is_class,
    i.propensity, f.score, f.correction, f.chosen, f.rejected, f.superseded
FROM said AS f LEFT JOIN (SELECT * FROM said WHERE NOT feedback AND NOT superseded) AS i USING (interaction)
WHERE f.feedback AND f.type <> 'undo'
"""


def open_tables(folder: Path, *, threads: int) -> duckdb.DuckDBPyConnection:
    """Open an empty database that lives in memory, and in a folder of its own as far as it does not fit."""
    folder.mkdir(parents=True, exist_ok=True)
    return duckdb.connect(
        config={
            "memory_limit": MEMORY,
            "temp_directory": str(folder / "spill"),
            "threads": threads,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )


def load_events(
    database: duckdb.DuckDBPyConnection,
    store: Store,
    segments: Sequence[Segment],
    *,
    policy: str,
    erased: Sequence[str],
    needs: Collection[str],
    folder: Path,
) -> None:
    """Fill the table `event` from segments in reading order, and lay the view `vote` over it.

    Args:
        database: of `open_tables`.
        store: where the log is.
        segments: sorted.
        policy: whose events are wanted.
        erased: pseudonyms of people of whom nothing may be read.
        needs: which of NOT_ALWAYS the data set looks at; the others are NULL in every vote.
        folder: for two chunks of the log at a time.

    Raises:
        StoreCorrupt: names the segment that cannot be trusted.
    """
    absent = [name for name in NOT_ALWAYS if name not in needs]
    kept = {name: each for name, each in _EVENT.items() if name not in absent}
    database.execute(f"CREATE TABLE event ({', '.join(f'{name} {kind}' for name, (kind, _) in kept.items())})")
    insert = (
        f"INSERT INTO event SELECT {', '.join(value for _, value in kept.values())} FROM "
        f"read_json($path, format = 'newline_delimited', maximum_object_size = {_LONGEST_LINE}, columns = {_COLUMNS!r})"
    )
    try:
        database.begin()  # each insert of its own would copy the row group that it leaves unfilled
        for path in _chunks(store, segments, folder):
            database.execute(insert, {"path": str(path), "policy": policy})
        database.commit()
    except (duckdb.DataError, duckdb.ProgrammingError) as error:  # the others are of this machine, not of the log
        raise StoreCorrupt(f"feedback log: a line is no event of ours: {str(error).splitlines()[0][:300]}") from error
    _check_count(database, segments)
    database.execute(_TWICE)
    database.execute(_ONCE)
    database.execute(_GONE)
    if erased:
        database.execute(_ERASED, {"subjects": list(erased)})
        database.execute(_ANSWERED)
    nulls = "".join(f"NULL::{_EVENT[name][0]} AS {name}, " for name in absent)
    database.execute(_VOTES.format(absent=nulls, read=_NOT_ERASED if erased else "true"))


def drop_events(database: duckdb.DuckDBPyConnection) -> None:
    """Give back the room of all that `load_events` made."""
    for each in ("VIEW vote", "VIEW once", "TABLE event", "TABLE twice", "TABLE gone"):
        database.execute(f"DROP {each}")
    for table in ("erased", "answered"):
        database.execute(f"DROP TABLE IF EXISTS {table}")


def _check_count(database: duckdb.DuckDBPyConnection, segments: Sequence[Segment]) -> None:
    """Refuse lines that hold no event or several."""
    found, want = database.execute("SELECT count(*) FROM event").fetchall()[0][0], sum(each.events for each in segments)
    if found != want:
        raise StoreCorrupt(f"feedback log: its lines hold {found} events, its segments' names say {want}")


def _chunks(store: Store, segments: Sequence[Segment], folder: Path) -> Iterator[Path]:
    """Yield files of lines, some tens of megabytes each; while one is read, the next one is written."""
    rest = _fetched(store, segments)
    with ThreadPoolExecutor(1) as writer:
        turn, ahead = 0, writer.submit(_fill, folder / "chunk0.jsonl", rest)
        while ahead.result():
            path, turn = folder / f"chunk{turn}.jsonl", 1 - turn
            ahead = writer.submit(_fill, folder / f"chunk{turn}.jsonl", rest)
            yield path
            path.unlink()


def _fill(path: Path, rest: Iterator[bytes]) -> int:
    """Write what comes next into a file; returns its size, 0 at the end."""
    size = 0
    with path.open("wb") as file:
        for content in rest:
            size += file.write(content)
            if size > _CHUNK_BYTES:
                break
    return size


def _fetched(store: Store, segments: Sequence[Segment]) -> Iterator[bytes]:
    """Yield each segment's lines in order, fetching some ahead."""
    rest = iter(segments)

    def fetch(segment: Segment) -> bytes:
        return content_of(segment, fetch_segment(store, segment))

    with ThreadPoolExecutor(_AHEAD) as pool:
        under_way = deque(pool.submit(fetch, segment) for segment in islice(rest, _AHEAD))
        while under_way:
            content = under_way.popleft().result()
            under_way.extend(pool.submit(fetch, segment) for segment in islice(rest, 1))
            yield content
