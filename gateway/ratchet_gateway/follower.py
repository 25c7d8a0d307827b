"""Follows what other processes write, so that a reused key is noticed wherever and whenever it was used first.

Decides which segments are read: those of other writers; of the last minutes again and again, and once, from the newest
to the oldest, of the day before this process started. What it learns only makes an answer better: the log's readers
count every event once without it. Runs as two tasks of the application.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from ratchet_gateway.known import KnownEvents
from ratchet_jobs.feedback_log.reader import list_segments, read_segment
from ratchet_jobs.feedback_log.segment import Segment, folder_of
from ratchet_jobs.runtime.errors import StoreCorrupt, StoreError
from ratchet_jobs.runtime.store import Store

log = logging.getLogger(__name__)

FIRST_LOOK = timedelta(minutes=2)
"""Retries come soon; each replica writes up to ten segments a second, and reading one costs milliseconds."""
REMEMBERED = timedelta(hours=24)
"""How long before its start a process knows what was stored, as far as `KnownEvents` has room."""
OVERLAP = timedelta(minutes=1)
"""A segment may appear in a minute's folder after the minute has passed."""
_KEPT = 10_000
_AGAIN_SECONDS = 10.0


class Follower:
    """Reads the segments of everybody but one epoch.

    Args:
        store: where the log is.
        namespace: whose log.
        epoch: our own writer's.
        known: where the names go.
        now: the clock.
    """

    def __init__(
        self, store: Store, *, namespace: str, epoch: str, known: KnownEvents, now: Callable[[], datetime]
    ) -> None:
        self._store, self._namespace, self._epoch, self._known, self._now = store, namespace, epoch, known, now
        self._started = now()
        self._since = self._started - FIRST_LOOK
        self._read: dict[str, None] = {}

    async def run(self, every_seconds: float) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except StoreError as error:
                log.warning("cannot follow the other replicas", extra={"error": str(error)})
            await asyncio.sleep(every_seconds)

    async def recall(self) -> int:
        """Read what others wrote in the day before this process, newest first; return how many segments that was.

        Takes half of the time at most: reading holds the interpreter, and requests come first.
        """
        hour, read = self._started, 0
        while hour > self._started - REMEMBERED - timedelta(hours=1):
            try:
                for segment in await asyncio.to_thread(self._of_hour, hour):
                    if not self._known.has_room:
                        return read
                    began = time.monotonic()
                    for name, fingerprint in await asyncio.to_thread(self._names, segment):
                        self._known.recall(name, fingerprint)
                    read += 1
                    await asyncio.sleep(time.monotonic() - began)
            except StoreError as error:
                log.warning("cannot recall older events; trying again", extra={"error": str(error)})
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                hour -= timedelta(hours=1)
        return read

    def _of_hour(self, hour: datetime) -> list[Segment]:
        found = list_segments(self._store, self._namespace, folder=folder_of(hour).rpartition("/")[0])[0]
        return sorted((each for each in found if each.epoch != self._epoch), key=lambda each: each.key, reverse=True)

    async def look(self) -> int:
        """Read what is new; return how many segments that was."""
        until = self._now()
        since = max(self._since - OVERLAP, until - FIRST_LOOK)  # after a long outage, not everything since then
        news = await asyncio.to_thread(self._fetch, since, until)
        for names in news:
            for name, fingerprint in names:
                self._known.stored(name, fingerprint)
        self._since = until
        return len(news)

    def _fetch(self, since: datetime, until: datetime) -> list[list[tuple[str, str]]]:
        found: list[list[tuple[str, str]]] = []
        minute = since
        while minute <= until + OVERLAP:
            for segment in list_segments(self._store, self._namespace, folder=folder_of(minute))[0]:
                if segment.epoch == self._epoch or segment.key in self._read:
                    continue
                self._read[segment.key] = None
                found.append(self._names(segment))
            minute += timedelta(minutes=1)
        for key in list(self._read)[:-_KEPT]:
            del self._read[key]
        return found

    def _names(self, segment: Segment) -> list[tuple[str, str]]:
        try:
            events = read_segment(self._store, segment)
        except StoreCorrupt as error:  # whoever builds a data set must stop at it; here it only costs early answers
            log.error("segment cannot be followed", extra={"error": str(error)})
            return []
        return [(name, event["fingerprint"]) for event in events for name in (event["id"], event.get("key")) if name]
