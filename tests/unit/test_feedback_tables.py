"""The feedback log as tables: every event once, the first that counts, and no line that is not one event."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pytest

from ratchet_jobs.data import feedback_events
from ratchet_jobs.data.feedback_events import load_events, open_tables
from ratchet_jobs.feedback_log.reader import list_segments
from ratchet_jobs.feedback_log.segment import new_epoch, pack, segment_key
from ratchet_jobs.runtime.errors import StoreCorrupt
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.feedback_events import START, LogBuilder, stored_as

Votes = list[tuple[str, float]]


def votes(store: DirectoryStore, folder: Path, erased: Sequence[str] = ()) -> Votes:
    """Event and score of each vote that nobody took back, in reading order."""
    database = open_tables(folder, threads=2)
    segments = list_segments(store, "ns")[0]
    events = load_events(database, store, segments, policy="router", erased=erased, needs=["correction"], folder=folder)
    found: list[tuple[int, str, float]] = []
    for part in range(events.parts):
        with database.cursor() as own:
            events.lay(own, part)
            found += own.execute("SELECT o, event, score FROM vote WHERE NOT superseded").fetchall()
    database.close()
    return [(event, score) for _, event, score in sorted(found)]


@pytest.mark.parametrize("part", [7, 100_000], ids=["many parts", "one part"])
@pytest.mark.parametrize("chunk", [1, 3_000, 32 << 20], ids=["a segment", "some segments", "the whole log"])
def test_of_two_events_with_one_id_the_first_counts_however_the_log_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, part: int
) -> None:
    """P24: what is read and joined at once, and by how many threads, changes nothing."""
    monkeypatch.setattr(feedback_events, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(feedback_events, "PART_EVENTS", part)
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


@pytest.mark.parametrize("part", [5, 100_000], ids=["many parts", "one part"])
def test_answer_feedback_and_undo_find_each_other_whatever_parts_they_lie_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """P30: and nothing is read of the erased, neither what they said nor what was said about their questions."""
    monkeypatch.setattr(feedback_events, "PART_EVENTS", part)
    store = DirectoryStore(tmp_path / "store")
    log = LogBuilder(store)
    want: Votes = []
    for number in range(60):
        asker, rater = f"asker {number % 10}", f"rater {number % 7}"
        signed = log.interaction(input=f"q{number}", label="a", subject=asker)
        name = log.feedback("score", score=number / 100, interactionId=signed, subject=rater)
        if number % 4 == 0:
            log.feedback("undo", supersedes=name)
        elif number % 10 and number % 7:
            want.append((name, number / 100))
        if number % 9 == 0:
            log.flush()
    log.flush()
    erased = [stored_as("asker 0"), stored_as("rater 0")]
    assert votes(store, tmp_path / "tables", erased) == want


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
