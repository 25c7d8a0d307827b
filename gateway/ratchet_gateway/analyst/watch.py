"""Looks for new segments of the log, has them folded, and answers what is known of an experiment.

Decides which folders are listed (all of them at first and now and then, the newest hours in between), that a segment is
folded once, and what is said of one that cannot be trusted: nothing is decided while there is one. Never writes to the
store. A look runs in a thread; questions wait for the piece that is being folded, not for the whole look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from threading import Event, RLock
from typing import Any

from ratchet_api.evidence import ExperimentEvidence, ExperimentPoint, ExperimentSeries
from ratchet_api.signing import CLOCK_SKEW
from ratchet_gateway.analyst.counts import count
from ratchet_gateway.analyst.metrics import AnalystMetrics
from ratchet_gateway.analyst.series import points
from ratchet_gateway.analyst.settings import Settings
from ratchet_gateway.analyst.tables import Tables, experiment_key, milliseconds
from ratchet_jobs.feedback_log.erasures import erased_subjects
from ratchet_jobs.feedback_log.reader import fetch_segment, list_segments
from ratchet_jobs.feedback_log.segment import Segment, folder_of, unpack
from ratchet_jobs.runtime.errors import StoreCorrupt, StoreError, StoreNotFound
from ratchet_jobs.runtime.store import Store

log = logging.getLogger(__name__)

LIST_ALL_SECONDS = 600.0
"""Segments of a writer that was cut off come late, under the minute in which they were sealed."""
_RECENT = CLOCK_SKEW + timedelta(minutes=2)
_AT_ONCE = 8
_FETCHERS = 8
_MOST_KEPT = 100
"""Answers that are kept until the log changes."""

Events = Sequence[dict[str, Any]]


class NotCaughtUp(Exception):
    """The log was not read to its end yet; the text says why."""


class Watch:
    """One namespace's log, and what it says.

    Args:
        store: where the log is; read alone.
        settings: namespace, windows, how much is read.
        tables: where it is folded.
        metrics: where looks are counted.
        now: the clock, for the names of folders and for events from the future.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        tables: Tables,
        metrics: AnalystMetrics,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._store, self._settings, self._tables, self._metrics = store, settings, tables, metrics
        self._now, self._monotonic = now, monotonic
        self._one, self._ends = RLock(), Event()
        self._troubles: dict[str, str] = {}
        self._listed_at = float("-inf")
        self._seen_at: dict[int, tuple[int, float]] = {}
        """Per experiment, its newest answer and when that was seen."""
        self._kept: dict[tuple[int, str, str], ExperimentEvidence] = {}
        self._curves: dict[tuple[int, str, str], tuple[ExperimentPoint, ...]] = {}
        self.caught_up = False
        self.error = "the log is being read"
        """Why the last look failed; empty if it did not."""

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.look)
            except StoreError as error:
                self._metrics.failures.inc()
                log.warning("the log cannot be read", extra={"error": str(error)})
            await asyncio.sleep(self._settings.look_seconds)

    def stop(self) -> None:
        """End a look after the piece that is being folded."""
        self._ends.set()

    def look(self) -> int:
        """Fold what is new; return how many segments that was.

        Raises:
            StoreError: the store does not answer; what was folded until then stays.
        """
        with self._metrics.look_seconds.time():
            try:
                found = self._look()
            except StoreError as error:
                self.error = str(error)
                raise
        self.error = ""
        return found

    def evidence(self, policy: str, experiment: str) -> ExperimentEvidence:
        """Return what the log says about an experiment.

        Raises:
            NotCaughtUp: a part of the log was not read yet.
        """
        if not self.caught_up:
            raise NotCaughtUp(f"the log was not read to its end yet: {self.error}")
        with self._one:
            name = (self._tables.generation, policy, experiment)
            if (made := self._kept.get(name)) is None:
                since = milliseconds_of(self._first_day() + timedelta(days=1))
                made = count(
                    self._tables, policy, experiment, settle_seconds=self._settings.settle_seconds, since=since
                )
                self._kept = {key: kept for key, kept in islice(self._kept.items(), _MOST_KEPT) if key[0] == name[0]}
                self._kept[name] = made
            seen = self._seen_at.get(experiment_key(policy, experiment))
            trouble = next(iter(self._troubles.values()), "")
        age = None if seen is None else max(0.0, self._monotonic() - seen[1])
        return made.model_copy(update={"age_seconds": age, "problem": (trouble or made.problem)[:1024]})

    def series(self, policy: str, experiment: str) -> ExperimentSeries:
        """Return the same, and what was known at earlier moments.

        Raises:
            NotCaughtUp: a part of the log was not read yet.
        """
        with self._one:
            now = self.evidence(policy, experiment)
            name = (self._tables.generation, policy, experiment)
            if (made := self._curves.get(name)) is None:
                made = points(self._tables, policy, experiment, settle_seconds=self._settings.settle_seconds)
                self._curves = {
                    key: kept for key, kept in islice(self._curves.items(), _MOST_KEPT) if key[0] == name[0]
                }
                self._curves[name] = made
        return ExperimentSeries(now=now, points=made)

    def _look(self) -> int:
        began, whole = self._monotonic(), self._monotonic() - self._listed_at >= LIST_ALL_SECONDS
        segments = self._listed(whole=whole)
        if whole:
            self._troubles = {name: text for name, text in self._troubles.items() if name in map(_name, segments)}
            erased = erased_subjects(self._store, self._settings.namespace)
            with self._one:
                self._tables.forget(erased=erased, before=milliseconds_of(self._first_day()))
        with self._one:
            news = [segment for segment in segments if not self._tables.has_read(_name(segment))]
        folded = 0
        with ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch") as pool:
            for first in range(0, len(news), _AT_ONCE):
                if self._ends.is_set():
                    return folded
                folded += self._fold(dict(self._fetched(pool, news[first : first + _AT_ONCE])))
        if whole:
            self._listed_at = began
        self._note_news()
        self.caught_up = True
        self._metrics.caught_up.set(1)
        self._metrics.troubled.set(len(self._troubles))
        return folded

    def _listed(self, *, whole: bool) -> list[Segment]:
        """List the days that are read, or the hours that are written to now."""
        now = self._now()
        if whole:
            days = (now - self._first_day()).days + 1
            folders = [folder_of(self._first_day() + timedelta(days=day))[:10] for day in range(days + 1)]
        else:
            folders = sorted({folder_of(at)[:13] for at in (now - _RECENT, now, now + _RECENT)})
        return [each for folder in folders for each in list_segments(self._store, self._namespace, folder=folder)[0]]

    @property
    def _namespace(self) -> str:
        return self._settings.namespace

    def _first_day(self) -> datetime:
        day = self._now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day - timedelta(days=self._settings.days)

    def _fetched(self, pool: ThreadPoolExecutor, segments: Sequence[Segment]) -> Iterator[tuple[str, Events]]:
        """Yield the events of the segments that can be trusted."""
        latest = milliseconds_of(self._now() + CLOCK_SKEW)
        for segment, data in zip(segments, pool.map(self._bytes_of, segments), strict=True):
            if data is None:
                continue
            try:
                events = unpack(segment, data)
                newest = max((milliseconds(str(event["received"])) for event in events), default=0)
            except StoreCorrupt as error:
                self._distrust(_name(segment), str(error))
            except (KeyError, TypeError, ValueError) as error:
                self._distrust(_name(segment), f"log segment {segment.key}: an event has no time ({error!r})")
            else:
                if newest <= latest:
                    yield _name(segment), events
                    continue
                when = datetime.fromtimestamp(newest / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                self._distrust(
                    _name(segment),
                    f"log segment {segment.key}: was received at {when}, which is yet to come; set the clock of the "
                    "gateway that wrote it, or of the analyst",
                )

    def _bytes_of(self, segment: Segment) -> bytes | None:
        """Return a segment's bytes; None when an erasure just put another in its place, which the next look finds."""
        try:
            return fetch_segment(self._store, segment)
        except StoreNotFound:
            return None

    def _fold(self, segments: dict[str, Events]) -> int:
        if not segments:
            return 0
        try:
            with self._one:
                events = self._tables.fold(segments)
        except (KeyError, ValueError, TypeError) as error:
            if len(segments) > 1:  # find the one that is no segment of ours
                return sum(self._fold({name: each}) for name, each in segments.items())
            self._distrust(
                next(iter(segments)), f"log segment {next(iter(segments))}: an event cannot be read ({error!r})"
            )
            return 0
        for name in segments:
            self._troubles.pop(name, None)
        self._metrics.segments.inc(len(segments))
        self._metrics.events.inc(events)
        return len(segments)

    def _distrust(self, name: str, text: str) -> None:
        if self._troubles.get(name) != text:
            log.error("a segment cannot be trusted", extra={"error": text})
        self._troubles[name] = text

    def _note_news(self) -> None:
        """Remember when each experiment's newest answer was seen: an age by this clock alone, whatever others show."""
        at, now = self._monotonic(), milliseconds_of(self._now())
        with self._one:
            rows = self._tables.database.execute("SELECT id, newest FROM experiment").fetchall()
            for experiment, newest in rows:
                before = self._seen_at.get(experiment)
                if before is None and not self.caught_up:  # found when starting: as old as it must be, clocks aside
                    old = max(0.0, (now - newest) / 1000 - CLOCK_SKEW.total_seconds())
                    self._seen_at[experiment] = (newest, at - old)
                elif before is None or before[0] < newest:
                    self._seen_at[experiment] = (newest, at)
            self._seen_at = {experiment: self._seen_at[experiment] for experiment, _ in rows}


def milliseconds_of(at: datetime) -> int:
    """Return a time in milliseconds since 1970."""
    return round(at.timestamp() * 1000)


def _name(segment: Segment) -> str:
    """Who wrote it and which of theirs it is: the same after an erasure rewrote it."""
    return f"{segment.epoch}-{segment.seq:08d}"
