"""The feedback log as tables: every event once, the first that counts, and no line that is not one event."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from ratchet_jobs.data import feedback_events
from ratchet_jobs.data.feedback_events import load_events, open_tables
from ratchet_jobs.feedback_log.reader import list_segments
from ratchet_jobs.feedback_log.segment import new_epoch, pack, segment_key
from ratchet_jobs.runtime.errors import StoreCorrupt
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.feedback_events import START, LogBuilder

Votes = list[tuple[str, float]]


def votes(store: DirectoryStore, folder: Path) -> Votes:
    """Event and score of each vote, in reading order."""
    database = open_tables(folder, threads=2)
    segments = list_segments(store, "ns")[0]
    load_events(database, store, segments, policy="router", erased=[], needs=["correction"], folder=folder)
    found: Votes = database.execute("SELECT event, score FROM vote ORDER BY o").fetchall()
    database.close()
    return found


@pytest.mark.parametrize("chunk", [1, 3_000, 32 << 20], ids=["a segment", "some segments", "the whole log"])
def test_of_two_events_with_one_id_the_first_counts_however_the_log_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """P24: what is read at once, and by how many threads, changes nothing."""
    monkeypatch.setattr(feedback_events, "_CHUNK_BYTES", chunk)
    store = DirectoryStore(tmp_path / "store")
    log = LogBuilder(store)
    want: Votes = []
    for segment in range(5):
        for number in range(40):
            # keys come back in every segment with another score, and one key in three is new
            key, score = f"k{number if number % 3 else segment * 100 + number}", (segment * 40 + number) / 1000
            name = log.feedback("score", score=score, prompt="q", response="a", idempotencyKey=key)
            if name not in dict(want):
                want.append((name, score))
        log.flush()
    assert votes(store, tmp_path / "tables") == want
    assert len(want) == 26 + 5 * 14


@pytest.mark.parametrize(
    "line",
    [b'{"id":"b","kind":"feedback"}{"id":"c","kind":"feedback"}', b"", b"{", b"[]", b'{"received":"yesterday"}'],
    ids=["two events", "none", "half of one", "a list", "a time that is none"],
)
def test_a_line_that_is_not_one_event_ends_the_reading(tmp_path: Path, line: bytes) -> None:
    store = DirectoryStore(tmp_path / "store")
    data = pack([b'{"id":"a","kind":"feedback","policy":"router"}', line])
    store.write(segment_key("ns", epoch=new_epoch(START), seq=1, events=2, data=data, at=START), data)
    with pytest.raises(StoreCorrupt, match="feedback log"):
        votes(store, tmp_path / "tables")


def test_a_machine_without_room_is_not_taken_for_a_broken_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log would be restored from a backup for nothing; and it is tried again where there is more room."""
    monkeypatch.setattr(feedback_events, "MEMORY", "8MB")
    store = DirectoryStore(tmp_path / "store")
    log = LogBuilder(store)
    log.feedback("score", score=1.0, prompt="q", response="a")
    log.flush()
    with pytest.raises(duckdb.OutOfMemoryException):
        votes(store, tmp_path / "tables")
