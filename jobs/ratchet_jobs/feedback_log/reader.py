"""Reading the log: every stored event exactly once, whoever wrote it and however often it was sent.

Decides which of two events with one id counts: the first by (epoch, seq), which any reader of the same segments finds
alike. Never changes the log. A segment that cannot be trusted is named and ends the reading, since a data set that
silently lacks events is worse than none. Called by estimates, statistics, checks and data sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ratchet_jobs.feedback_log.segment import Segment, is_whole, log_prefix, parse_key, unpack
from ratchet_jobs.runtime.store import Store

_READ_TRIES = 3


@dataclass(slots=True)
class ReadReport:
    """What a reading found.

    Attributes:
        segments: read.
        events: yielded.
        duplicates: left out, because an event with the same id came before.
        conflicts: of these, how many differ from the one that counts.
        strangers: keys in the log's folder that no writer of ours made; not read.
    """

    segments: int = 0
    events: int = 0
    duplicates: int = 0
    conflicts: int = 0
    strangers: list[str] = field(default_factory=list)


def list_segments(store: Store, namespace: str, *, folder: str = "") -> tuple[list[Segment], list[str]]:
    """List the log in reading order.

    Args:
        store: the store.
        namespace: whose log.
        folder: a day, an hour or a minute, such as `2026-11-21/12/30`; empty = everything.

    Returns:
        The segments, and the keys that are none.
    """
    prefix = log_prefix(namespace) + (f"/{folder}" if folder else "")
    segments, strangers = [], []
    for info in store.list(prefix):
        segment = parse_key(namespace, info.key, info.size)
        if segment is None:
            strangers.append(info.key)
        else:
            segments.append(segment)
    return sorted(segments), strangers


def fetch_segment(store: Store, segment: Segment) -> bytes:
    """Return a segment's bytes; those that broke off on the way are asked for again."""
    data = store.read(segment.key)
    for _ in range(_READ_TRIES - 1):
        if is_whole(segment, data):
            break
        data = store.read(segment.key)
    return data


def read_segment(store: Store, segment: Segment) -> list[dict[str, Any]]:
    """Return a segment's events.

    Raises:
        StoreCorrupt: the stored bytes are not those that were written.
    """
    return unpack(segment, fetch_segment(store, segment))


class LogReader:
    """One pass over a log, or several that continue each other: segments once read are not read again.

    Holds about 200 bytes per event that has been seen, to know it again.
    """

    def __init__(self, store: Store, namespace: str) -> None:
        """Name the log; nothing is read yet."""
        self.report = ReadReport()
        self._store, self._namespace = store, namespace
        self._read: set[str] = set()
        self._seen: dict[str, str] = {}

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events of all segments that were not read before, in reading order, each id once.

        Raises:
            StoreCorrupt: names the segment that cannot be trusted.
        """
        segments, self.report.strangers = list_segments(self._store, self._namespace)
        for segment in segments:
            if segment.key in self._read:
                continue
            for event in read_segment(self._store, segment):
                if self._is_new(event):
                    self.report.events += 1
                    yield event
            self._read.add(segment.key)
            self.report.segments += 1

    def _is_new(self, event: dict[str, Any]) -> bool:
        name, content = str(event["id"]), str(event.get("fingerprint", ""))
        if (first := self._seen.get(name)) is None:
            self._seen[name] = content
            return True
        self.report.duplicates += 1
        self.report.conflicts += first != content
        return False
