"""The feedback log, part by part: every event once, feedback beside the answer that it is about.

Decides which of two events with one id counts (the first in reading order; one that said something else is told of),
what was taken back (an event of the same sender names it in `supersedes`), and that nothing of an erased person is
read. What is said about one answer lies in one part with it, as do lines with one id in another cut, so DuckDB joins
each part in memory, however long the log is: there are more parts of a longer one. Nothing here depends on time or
threads: whatever has an order is sorted by one. Called by the snapshot recipe of feedback.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from ratchet_jobs.data.parted import MOST, Parted
from ratchet_jobs.feedback_log.reader import fetch_segment
from ratchet_jobs.feedback_log.segment import Segment, content_of
from ratchet_jobs.runtime.errors import StoreCorrupt
from ratchet_jobs.runtime.store import Store

MEMORY = "160MB"
"""What DuckDB may hold before it goes to disk."""
PART_EVENTS = 100_000
"""Events that are joined at once, about: some tens of megabytes of them. More where there were too many parts."""
_CHUNK_BYTES = 32 << 20
"""Lines that are parsed and laid down together."""
_LONGEST_LINE = 2 << 20
"""Far above what the gateway takes; a chunk is parsed in pieces of twice this size, side by side."""
_AHEAD = 16
"""Segments that are fetched at once: a store answers in milliseconds, a log has many."""

_COLUMNS = {
    "id": "VARCHAR",
    "source": "VARCHAR",
    "fingerprint": "VARCHAR",
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
    "tags": ("VARCHAR", "tags::VARCHAR"),
}
"""An event as it is kept: what its kind makes of the columns of the log. Each column costs time and room per event."""
_ARROW: Mapping[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "TIMESTAMP": pa.timestamp("us"),
    "BOOLEAN": pa.bool_(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
}
NOT_ALWAYS = ("propensity", "correction", "chosen", "rejected", "tags")
"""Columns that not every data set looks at."""

# `o` is an event's place in reading order. What lies on the disk in parts is only what a policy's events need; ids are
# looked at over all policies, by the hash of an id, as of two events with one the later may have any interaction.
_IDS = pa.schema([("id", pa.string()), ("said", pa.uint64()), ("o", pa.int64())])
_TWICE = """
INSERT INTO twice SELECT o, said <> earliest.content FROM ids JOIN (
    SELECT id, min(o) AS first, arg_min(said, o) AS content FROM ids GROUP BY id HAVING count(*) > 1
) AS earliest USING (id) WHERE o > earliest.first
"""
_REUSED = """
CREATE OR REPLACE TEMP VIEW reused AS
SELECT o, id AS event FROM event JOIN twice USING (o) WHERE other AND feedback AND type <> 'undo'{others}
"""

# What was superseded goes, whoever's turn it was; an undo itself is no row.
_UNDONE = "CREATE TABLE undone (o BIGINT, id VARCHAR, source VARCHAR)"
_GONE = "DELETE FROM undone WHERE o IN (SELECT o FROM twice)"
_ONCE = """
CREATE OR REPLACE TEMP VIEW once AS
SELECT event.*, coalesce(superseded, false) AS superseded
FROM event ANTI JOIN twice USING (o) LEFT JOIN (SELECT DISTINCT id, source, true AS superseded FROM undone)
    USING (id, source)
"""

_ERASED = "CREATE TABLE erased AS SELECT unnest($subjects) AS subject"
_NOT_ERASED = """
(subject IN (SELECT subject FROM erased) OR interaction IN (
    SELECT interaction FROM once WHERE NOT feedback AND subject IN (SELECT subject FROM erased)
)) IS NOT TRUE
"""

# The recorded answer is the truth about what was asked and answered; what the feedback repeats fills the gaps.
_VOTES = """
CREATE OR REPLACE TEMP VIEW vote AS
WITH said AS NOT MATERIALIZED (SELECT *{absent} FROM once WHERE {read})
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
            "block_allocator_memory": MEMORY,
            "temp_directory": str(folder / "spill"),
            "threads": threads,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )


class Events:
    """A policy's events in parts, and what must be known of all of them.

    Args:
        database: of `open_tables`.
        events: the policy's, by what they are about.
        erased: pseudonyms of people of whom nothing may be read.
        needs: which of NOT_ALWAYS the data set looks at; the others are NULL in every vote.
    """

    def __init__(
        self, database: duckdb.DuckDBPyConnection, events: Parted, *, erased: Sequence[str], needs: Collection[str]
    ) -> None:
        self.parts, self.count = events.parts, events.rows
        self._events = events
        if erased:
            database.execute(_ERASED, {"subjects": list(erased)})
        absent = "".join(f", NULL::{_EVENT[name][0]} AS {name}" for name in NOT_ALWAYS if name not in needs)
        self._votes = _VOTES.format(absent=absent, read=_NOT_ERASED if erased else "true")
        nobodys = " AND (subject IN (SELECT subject FROM erased)) IS NOT TRUE" if erased else ""
        self._reused = _REUSED.format(others=nobodys)

    def lay(self, database: duckdb.DuckDBPyConnection, part: int) -> None:
        """Lay views over a part, once: `vote`, and `reused` of votes that have the name of another one before them.

        Args:
            database: a cursor of the database; others may look at other parts at the same time.
            part: from 0 to `parts`.
        """
        database.register("event", self._events.take(part))
        database.execute(_ONCE)
        database.execute(self._votes)
        database.execute(self._reused)


def load_events(
    database: duckdb.DuckDBPyConnection,
    store: Store,
    segments: Sequence[Segment],
    *,
    policy: str,
    erased: Sequence[str],
    needs: Collection[str],
    folder: Path,
) -> Events:
    """Read segments in reading order into parts.

    Args:
        database: of `open_tables`.
        store: where the log is.
        segments: sorted.
        policy: whose events are wanted.
        erased: see Events.
        needs: see Events.
        folder: for the parts, and for two chunks of the log at a time.

    Raises:
        StoreCorrupt: names the segment that cannot be trusted.
    """
    events = sum(each.events for each in segments)
    parts = min(-(-events // PART_EVENTS), MOST)
    kept = {name: each for name, each in _EVENT.items() if name not in NOT_ALWAYS or name in needs}
    schema = pa.schema([*((name, _ARROW[kind]) for name, (kind, _) in kept.items()), ("o", pa.int64())])
    mine, ids = Parted(folder / "events", parts, schema), Parted(folder / "ids", parts, _IDS)
    database.execute(_UNDONE)
    database.execute("CREATE TABLE twice (o BIGINT, other BOOLEAN)")
    found = 0
    with ThreadPoolExecutor(1) as writer:  # lays a chunk down while the next one is parsed
        under_way: Future[None] | None = None
        for chunk in _parsed(database, store, segments, kept, policy=policy, parts=parts, folder=folder):
            numbered = chunk.append_column("o", pa.array(np.arange(found, found + len(chunk))))
            found += len(chunk)
            _note_undone(database, numbered, parts)
            if under_way is not None:
                under_way.result()
            under_way = writer.submit(_lay_down, numbered, mine, ids)
        if under_way is not None:
            under_way.result()
    if found != events:
        raise StoreCorrupt(f"feedback log: its lines hold {found} events, its segments' names say {events}")
    for part in range(parts):
        database.register("ids", ids.take(part))
        database.execute(_TWICE)
        database.unregister("ids")
    database.execute(_GONE)
    return Events(database, mine, erased=erased, needs=needs)


def _parsed(
    database: duckdb.DuckDBPyConnection,
    store: Store,
    segments: Sequence[Segment],
    kept: Mapping[str, tuple[str, str]],
    *,
    policy: str,
    parts: int,
    folder: Path,
) -> Iterator[pa.Table]:
    """Yield the log as tables, with each event's part and its id's; the part of another policy's is beyond the last."""
    query = (
        f"SELECT {', '.join(f'{value} AS {name}' for name, (_, value) in kept.items())}, "
        f"(hash(id) % {parts})::USMALLINT AS of_id, hash(fingerprint) AS said, "
        "CASE WHEN policy IS NOT DISTINCT FROM $policy "
        f"THEN hash(coalesce(interaction, id)) % {parts} ELSE {parts} END::USMALLINT AS part FROM "
        f"read_json($path, format = 'newline_delimited', maximum_object_size = {_LONGEST_LINE}, columns = {_COLUMNS!r})"
    )
    try:
        for path in _chunks(store, segments, folder):
            yield database.sql(query, params={"path": str(path), "policy": policy}).to_arrow_table()
    except (duckdb.DataError, duckdb.ProgrammingError) as error:  # the others are of this machine, not of the log
        raise StoreCorrupt(f"feedback log: a line is no event of ours: {str(error).splitlines()[0][:300]}") from error


def _note_undone(database: duckdb.DuckDBPyConnection, chunk: pa.Table, parts: int) -> None:
    """Keep what events of the policy take back: of whom, and where it was said."""
    if chunk["supersedes"].null_count < len(chunk):
        database.register("chunk", chunk)
        database.execute(
            "INSERT INTO undone SELECT o, supersedes, source FROM chunk WHERE supersedes IS NOT NULL AND part < $parts",
            {"parts": parts},
        )
        database.unregister("chunk")


def _lay_down(chunk: pa.Table, mine: Parted, ids: Parted) -> None:
    mine.add(chunk, chunk["part"].to_numpy())
    ids.add(chunk, chunk["of_id"].to_numpy())


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
