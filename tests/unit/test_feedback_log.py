"""The log's laws: acknowledged means stored, refused means nothing was dropped in silence, read means exactly once."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard
from pydantic_core import to_json

from ratchet_gateway.log.writer import LogSettings, LogWriter, NotAccepted
from ratchet_jobs.feedback_log.reader import LogReader, list_segments, read_segment
from ratchet_jobs.feedback_log.segment import new_epoch, pack, parse_key, segment_key
from ratchet_jobs.runtime.errors import StoreCorrupt, StoreUnavailable
from ratchet_jobs.runtime.store_directory import DirectoryStore

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
FAST = LogSettings(window_seconds=0.01, pause_seconds=0.001, max_pause_seconds=0.01, patience_seconds=60)


def line(name: str, **more: object) -> bytes:
    return to_json({"id": name, **more})


def ids(store: DirectoryStore) -> list[str]:
    return [event["id"] for event in LogReader(store, "ns").events()]


@asynccontextmanager
async def writing(
    store: DirectoryStore, settings: LogSettings = FAST, *, drain_seconds: float = 5
) -> AsyncIterator[LogWriter]:
    writer = LogWriter(store, namespace="ns", now=lambda: NOW, settings=settings)
    writer.start()
    try:
        yield writer
    finally:
        await writer.close(drain_seconds=drain_seconds)


class Faulty(DirectoryStore):
    """A directory whose creates first do what the list says: fail before or after the write, or say who else won."""

    def __init__(self, root: Path, *plan: str) -> None:
        super().__init__(root)
        self.plan = list(plan)
        self.calls: list[str] = []

    def create(self, key: str, data: bytes) -> bool:
        self.calls.append(key)
        what = self.plan.pop(0) if self.plan else "store"
        if what == "away":
            raise StoreUnavailable("503 SlowDown")
        if what == "taken":
            super().create(key, b"somebody else's")
        done = super().create(key, data)
        if what == "answer lost":
            raise StoreUnavailable("connection reset")
        return done


async def test_many_senders_share_one_segment(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    async with writing(store) as writer:
        await asyncio.gather(*(writer.append([line(f"e{n}")]) for n in range(200)))
    segments, strangers = list_segments(store, "ns")
    assert (len(segments), segments[0].events, strangers) == (1, 200, [])
    assert segments[0].key.startswith("ns/log/2026-11-21/12/30/")


async def test_an_event_is_in_the_store_when_its_sender_is_told_so(tmp_path: Path) -> None:
    """P24: nothing is acknowledged early."""
    store = DirectoryStore(tmp_path)
    async with writing(store) as writer:
        await writer.append([line("first")])
        assert ids(store) == ["first"]


async def test_events_of_one_request_are_not_parted(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    settings = LogSettings(window_seconds=0.01, segment_events=3)
    async with writing(store, settings) as writer:
        await asyncio.gather(*(writer.append([line(f"{n}a"), line(f"{n}b")]) for n in range(4)))
    contents = [[event["id"][0] for event in read_segment(store, s)] for s in list_segments(store, "ns")[0]]
    assert sorted(contents) == [["0", "0", "1", "1"], ["2", "2", "3", "3"]]


@pytest.mark.parametrize(
    ("plan", "want_puts"),
    [
        pytest.param(("away", "away"), 3, id="the store is away for two tries"),
        pytest.param(("answer lost",), 2, id="the answer is lost after the write"),
        pytest.param(("answer lost", "away", "answer lost"), 4, id="all of it"),
    ],
)
async def test_a_segment_is_written_once_whatever_is_lost(
    tmp_path: Path, plan: tuple[str, ...], want_puts: int
) -> None:
    """P26: the same key and bytes until the store confirms."""
    store = Faulty(tmp_path, *plan)
    async with writing(store) as writer:
        await writer.append([line("only")])
        assert writer.stats.failures == len(plan)
    assert (len(store.calls), len(set(store.calls))) == (want_puts, 1)
    assert ids(store) == ["only"]


async def test_a_key_that_somebody_else_took_is_left_alone_and_counted(tmp_path: Path) -> None:
    """P26: no false acknowledgement either."""
    store = Faulty(tmp_path, "taken")
    async with writing(store) as writer:
        await writer.append([line("only")])
        assert writer.stats.collisions == 1
    assert len(set(store.calls)) == 2
    with pytest.raises(StoreCorrupt, match=store.calls[0]):
        ids(store)
    store.delete([store.calls[0]])
    assert ids(store) == ["only"]


async def test_a_full_queue_refuses_with_a_time_to_come_back_and_keeps_what_it_took(tmp_path: Path) -> None:
    """P25."""
    gate = threading.Event()

    class Slow(DirectoryStore):
        def create(self, key: str, data: bytes) -> bool:
            gate.wait(60)
            return super().create(key, data)

    store = Slow(tmp_path)
    settings = LogSettings(window_seconds=0, queue_bytes=40, in_flight=1)
    async with writing(store, settings) as writer:
        taken = [
            asyncio.create_task(writer.append([line(f"e{n}")])) for n in range(3)
        ]  # 12 bytes each, 13 with its end
        await asyncio.sleep(0)
        with pytest.raises(NotAccepted, match="too many events") as refused:
            await writer.append([line("e3")])
        assert refused.value.retry_after >= 1
        gate.set()
        await asyncio.gather(*taken)
        await writer.append([line("e4")])
    assert sorted(ids(store)) == ["e0", "e1", "e2", "e4"]


async def test_who_waited_too_long_is_told_so_and_its_event_is_withdrawn_if_it_still_waited(tmp_path: Path) -> None:
    """P25, and no phantom: what was refused while it waited is never written."""
    gate = threading.Event()

    class Slow(DirectoryStore):
        def create(self, key: str, data: bytes) -> bool:
            gate.wait(60)
            return super().create(key, data)

    store = Slow(tmp_path)
    settings = LogSettings(window_seconds=0, in_flight=1, patience_seconds=0.05)
    async with writing(store, settings) as writer:
        under_way = asyncio.create_task(writer.append([line("under way")]))
        while writer.stats.queued_bytes == 0 or writer._queue:
            await asyncio.sleep(0)
        with pytest.raises(NotAccepted, match=r"did not confirm within 0\.05 s.*same idempotencyKey"):
            await writer.append([line("waiting")])
        with pytest.raises(NotAccepted):
            await under_way
        gate.set()
    assert ids(store) == ["under way"], "its sender does not know, and a retry with the same id is no second event"
    assert writer.stats.queued_bytes == 0


async def test_ten_minutes_without_a_store_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """P25, T7: refused senders come back with the same id; then everybody is stored once."""
    store = Faulty(tmp_path, *["away"] * 400)
    settings = LogSettings(window_seconds=0, pause_seconds=0.001, max_pause_seconds=0.005, patience_seconds=0.1)
    refused = 0

    async def send(name: str) -> None:
        nonlocal refused
        while True:
            try:
                return await writer.append([line(name)])
            except NotAccepted:
                refused += 1

    async with writing(store, settings) as writer:
        await asyncio.gather(*(send(f"e{n}") for n in range(20)))
    assert refused > 0
    assert sorted(ids(store)) == sorted(f"e{n}" for n in range(20))


async def test_a_clean_end_writes_what_is_waiting_and_takes_nothing_more(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    writer = LogWriter(store, namespace="ns", now=lambda: NOW, settings=LogSettings(window_seconds=60))
    writer.start()
    waiting = [asyncio.create_task(writer.append([line(f"e{n}")])) for n in range(5)]
    await asyncio.sleep(0)
    await writer.close(drain_seconds=60)
    await asyncio.gather(*waiting)
    assert len(ids(store)) == 5
    with pytest.raises(NotAccepted, match="shutting down"):
        await writer.append([line("late")])


async def test_an_end_without_a_store_refuses_what_it_could_not_write(tmp_path: Path) -> None:
    store = Faulty(tmp_path, *["away"] * 10_000)
    writer = LogWriter(store, namespace="ns", now=lambda: NOW, settings=FAST)
    writer.start()
    waiting = asyncio.create_task(writer.append([line("e")]))
    while not store.calls:
        await asyncio.sleep(0.001)
    await writer.close(drain_seconds=0.05)
    with pytest.raises(NotAccepted, match="ended before the store confirmed"):
        await waiting


async def test_a_full_disk_is_an_outage_like_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, left, fsync = DirectoryStore(tmp_path), [3], os.fsync

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    async with writing(store) as writer:
        await writer.append([line("e")])
        assert writer.stats.failures == 3
    assert ids(store) == ["e"]


async def test_replicas_share_a_log_without_knowing_of_each_other(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    async with writing(store) as one, writing(store) as two, writing(store) as three:
        assert len({one.epoch, two.epoch, three.epoch}) == 3
        await asyncio.gather(*(w.append([line(f"{n}-{w.epoch}")]) for n in range(50) for w in (one, two, three)))
    assert len(ids(store)) == len(set(ids(store))) == 150


# --- reading ------------------------------------------------------------------------------------------------------


def put(store: DirectoryStore, *events: bytes, epoch: str = "", seq: int = 1, count: int | None = None) -> str:
    data = pack(events)
    events_said = len(events) if count is None else count
    key = segment_key("ns", epoch=epoch or new_epoch(NOW), seq=seq, events=events_said, data=data, at=NOW)
    store.write(key, data)
    return key


def test_of_two_events_with_one_id_the_first_by_writer_and_order_counts(tmp_path: Path) -> None:
    """T22: one record; another body under the same key is counted as a conflict."""
    store = DirectoryStore(tmp_path)
    early, late = "20261121T120000Z" + "0" * 16, "20261121T120001Z" + "0" * 16
    put(store, line("x", fingerprint="b"), epoch=late)
    put(store, line("x", fingerprint="c"), line("y"), epoch=early, seq=2)
    put(store, line("x", fingerprint="a"), line("x", fingerprint="a"), epoch=early, seq=1)
    reader = LogReader(store, "ns")
    assert [(e["id"], e.get("fingerprint")) for e in reader.events()] == [("x", "a"), ("y", None)]
    assert (reader.report.duplicates, reader.report.conflicts) == (3, 2)


def test_a_reader_goes_on_where_it_stopped(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    put(store, line("a"))
    reader = LogReader(store, "ns")
    assert [e["id"] for e in reader.events()] == ["a"]
    put(store, line("a"), line("b"))
    assert [e["id"] for e in reader.events()] == ["b"]
    assert reader.report.segments == 2


def flip(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


@pytest.mark.parametrize(
    ("damage", "want"),
    [
        pytest.param(flip, "sha256 differs", id="one bit flipped"),
        pytest.param(lambda data: data[:-1], "sha256 differs", id="cut by one byte"),
        pytest.param(lambda data: b"", "sha256 differs", id="emptied"),
    ],
)
def test_a_damaged_segment_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], want: str) -> None:
    store = DirectoryStore(tmp_path)
    key = put(store, line("a"))
    store.write(key, damage(store.read(key)))
    with pytest.raises(StoreCorrupt, match=want) as error:
        ids(store)
    assert key in str(error.value)


def nameless_bomb() -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(b"0" * (65 << 20))


@pytest.mark.parametrize(
    ("data", "count", "want"),
    [
        pytest.param(b"not compressed", 1, "cannot be read", id="no zstd"),
        pytest.param(pack([b"no json"]), 1, "cannot be read", id="no JSON"),
        pytest.param(nameless_bomb(), 1, "cannot be read", id="a bomb that hides its size"),
        pytest.param(pack([line("a"), line("b")]), 1, "holds 2 events, its name says 1", id="more than it says"),
        pytest.param(zstandard.compress(b"0" * (65 << 20)), 1, "unpacks to more than", id="a bomb"),
    ],
)
def test_a_planted_segment_with_a_right_checksum_is_refused(tmp_path: Path, data: bytes, count: int, want: str) -> None:
    store = DirectoryStore(tmp_path)
    key = segment_key("ns", epoch=new_epoch(NOW), seq=1, events=count, data=data, at=NOW)
    store.write(key, data)
    with pytest.raises(StoreCorrupt, match=want):
        ids(store)


def test_a_body_that_breaks_off_is_asked_for_again(tmp_path: Path) -> None:
    class Breaking(DirectoryStore):
        reads = 0

        def read(self, key: str) -> bytes:
            self.reads += 1
            return super().read(key)[: -1 if self.reads == 1 else None]

    put(Breaking(tmp_path), line("a"))
    assert ids(Breaking(tmp_path)) == ["a"]


def test_what_is_no_segment_is_reported_and_not_read(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    put(store, line("a"))
    store.write("ns/log/2026-11-21/12/30/notes.txt", b"x")
    reader = LogReader(store, "ns")
    assert [e["id"] for e in reader.events()] == ["a"]
    assert reader.report.strangers == ["ns/log/2026-11-21/12/30/notes.txt"]


def test_a_listing_alone_counts_events(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    key = put(store, line("a"), line("b"))
    segment = parse_key("ns", key)
    assert segment is not None
    assert segment.events == 2
