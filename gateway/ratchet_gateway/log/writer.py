"""Group commit: many requests wait for one segment, and each is answered only when that segment is in the store.

Decides when a segment is sealed (a short window after its first event, or 1 MiB), how many are under way at once,
what is retried, and when a request is refused instead of queued. Never drops an event that it acknowledged and never
acknowledges one before the store has confirmed it. Called by the routes; made and closed by the application.

A failed PUT is repeated with the same key and the same bytes, for as long as it takes; `Store.create` reads back when
an answer leaves it open who won. So a segment is in the log once or not at all, whatever was lost on the way.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from ratchet_jobs.feedback_log.segment import new_epoch, pack, segment_key
from ratchet_jobs.runtime.errors import StoreError
from ratchet_jobs.runtime.store import Store

log = logging.getLogger(__name__)


class NotAccepted(Exception):
    """Events were not acknowledged: the sender shall come back.

    Attributes:
        retry_after: seconds.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the writer batches and how much it holds.

    Attributes:
        window_seconds: how long the first event of a segment waits for others.
        segment_bytes: a segment is sealed at this size, before compression.
        segment_events: and at this count.
        queue_bytes: events waiting or under way; more are refused.
        queue_requests: requests waiting; more are refused.
        in_flight: segments written at once.
        patience_seconds: how long a request waits for its segment before it is told to come back.
        pause_seconds: first pause after a failed write; doubles up to `max_pause_seconds`.
        max_pause_seconds: longest pause.
    """

    window_seconds: float = 0.1
    segment_bytes: int = 1 << 20
    segment_events: int = 20_000
    queue_bytes: int = 32 << 20
    queue_requests: int = 10_000
    in_flight: int = 4
    patience_seconds: float = 15.0
    pause_seconds: float = 0.1
    max_pause_seconds: float = 5.0


@dataclass(slots=True)
class WriterStats:
    """What the writer did, for metrics and readiness."""

    events: int = 0
    segments: int = 0
    stored_bytes: int = 0
    failures: int = 0
    collisions: int = 0
    queued_bytes: int = 0
    failing: str = ""
    """Why the last write failed; empty when it did not."""
    commit_seconds: Callable[[float], None] = field(default=lambda _: None)
    """Told how long each segment took from sealing to confirmation."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """One request's events and who waits for them."""

    lines: Sequence[bytes]
    size: int
    since: float
    done: asyncio.Future[None]


class LogWriter:
    """Writes one namespace's events under an epoch of its own; any number of writers may share a log.

    Args:
        store: where segments go; its methods run in threads of the writer.
        namespace: whose log.
        now: the clock, for folder names alone.
        settings: batching and bounds.
    """

    def __init__(
        self, store: Store, *, namespace: str, now: Callable[[], datetime], settings: LogSettings | None = None
    ) -> None:
        self.stats = WriterStats()
        self.epoch = new_epoch(now())
        self._store, self._namespace, self._now = store, namespace, now
        self._settings = settings or LogSettings()
        self._queue: deque[_Waiting] = deque()
        self._unsealed = 0  # bytes in the queue, those of a segment under way not counted
        self._events = 0
        self._seq = 0
        self._some, self._enough = asyncio.Event(), asyncio.Event()
        self._collecting = asyncio.Lock()
        self._closing = False
        self._give_up = asyncio.Event()
        self._threads = ThreadPoolExecutor(self._settings.in_flight, thread_name_prefix="log")
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._settings.in_flight)]
        for worker in self._workers:
            worker.add_done_callback(_tell)

    @property
    def healthy(self) -> bool:
        """False when a worker ended that should not have: a defect, after which nothing would be acknowledged."""
        return not any(worker.done() for worker in self._workers) or self._closing

    async def append(self, lines: Sequence[bytes]) -> None:
        """Return when these events are in the store, all of them in one segment.

        Raises:
            NotAccepted: too much is waiting, the store does not confirm, or the process is about to end. The events
                may still arrive if their segment was under way; a retry with the same event ids is then no second one.
        """
        size = sum(map(len, lines)) + len(lines)
        if self._closing:
            raise NotAccepted("the gateway is shutting down; send it again", retry_after=1)
        if (
            self.stats.queued_bytes + size > self._settings.queue_bytes
            or len(self._queue) >= self._settings.queue_requests
        ):
            raise NotAccepted(
                f"too many events are waiting for the store{self._because()}", retry_after=self._pause_hint()
            )
        loop = asyncio.get_running_loop()
        entry = _Waiting(lines, size, loop.time(), loop.create_future())
        self._queue.append(entry)
        self._count(entry, +1)
        try:
            async with asyncio.timeout(self._settings.patience_seconds):
                await asyncio.shield(entry.done)
        except TimeoutError:
            self._withdraw(entry)
            raise NotAccepted(
                f"the store did not confirm within {self._settings.patience_seconds:g} s{self._because()}; "
                "send it again with the same idempotencyKey",
                retry_after=self._pause_hint(),
            ) from None
        except asyncio.CancelledError:  # the sender is gone: what nobody waits for and nobody wrote need not be written
            self._withdraw(entry)
            raise

    async def close(self, *, drain_seconds: float) -> None:
        """Accept nothing more, write what is waiting, and end; what cannot be written in time is refused."""
        self._closing = True
        self._some.set()
        self._enough.set()
        if self._workers:
            _, late = await asyncio.wait(self._workers, timeout=drain_seconds)
            if late:
                self._give_up.set()
                await asyncio.wait(late)
        for entry in self._queue:
            if not entry.done.done():
                entry.done.set_exception(_ending())
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while (entries := await self._next_batch()) is not None:
            if entries:
                await self._commit(entries)

    async def _next_batch(self) -> list[_Waiting] | None:
        """Wait for the next segment's events; empty when their senders went away, None when the writer is closed."""
        async with self._collecting:
            while not self._queue:
                if self._closing:
                    return None
                self._some.clear()
                await self._some.wait()
            left = self._queue[0].since + self._settings.window_seconds - asyncio.get_running_loop().time()
            if left > 0 and not self._enough.is_set():
                try:
                    async with asyncio.timeout(left):
                        await self._enough.wait()
                except TimeoutError:
                    pass
            return self._take()

    def _take(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        size = events = 0
        while self._queue and size < self._settings.segment_bytes and events < self._settings.segment_events:
            entry = self._queue.popleft()
            self._unsealed -= entry.size
            self._events -= len(entry.lines)
            taken.append(entry)
            size += entry.size
            events += len(entry.lines)
        if not self._closing and not self._is_enough():
            self._enough.clear()
        return taken

    async def _commit(self, entries: list[_Waiting]) -> None:
        """Write one segment, however often it takes, and tell everybody who waits for it."""
        lines = [line for entry in entries for line in entry.lines]
        loop = asyncio.get_running_loop()
        began = loop.time()
        data = await loop.run_in_executor(self._threads, pack, lines)
        failures = 0
        key = self._next_key(len(lines), data)
        while not self._give_up.is_set():
            try:
                ours = await loop.run_in_executor(self._threads, self._store.create, key, data)
            except (StoreError, OSError) as error:
                failures += 1
                self.stats.failures += 1
                self.stats.failing = str(error)
                log.warning("segment was not confirmed", extra={"segment": key, "tries": failures, "error": str(error)})
                await self._pause(failures)
                continue
            if ours:
                self._confirm(entries, len(lines), len(data))
                self.stats.commit_seconds(loop.time() - began)
                return
            self.stats.collisions += 1  # somebody else's bytes under a name that only we can make: an alarm
            log.error("segment's key holds other bytes; writing it under the next one", extra={"segment": key})
            key = self._next_key(len(lines), data)
        for entry in entries:
            self._settle(entry, _ending())

    def _next_key(self, events: int, data: bytes) -> str:
        self._seq += 1
        return segment_key(self._namespace, epoch=self.epoch, seq=self._seq, events=events, data=data, at=self._now())

    def _confirm(self, entries: list[_Waiting], events: int, stored: int) -> None:
        self.stats.failing = ""
        self.stats.events += events
        self.stats.segments += 1
        self.stats.stored_bytes += stored
        for entry in entries:
            self._settle(entry, None)

    def _settle(self, entry: _Waiting, error: NotAccepted | None) -> None:
        self.stats.queued_bytes -= entry.size
        if entry.done.done():
            return
        if error is None:
            entry.done.set_result(None)
        else:
            entry.done.set_exception(error)

    def _withdraw(self, entry: _Waiting) -> None:
        entry.done.cancel()
        try:
            self._queue.remove(entry)
        except ValueError:
            return  # its segment is under way
        self._count(entry, -1)

    def _count(self, entry: _Waiting, sign: int) -> None:
        self.stats.queued_bytes += sign * entry.size
        self._unsealed += sign * entry.size
        self._events += sign * len(entry.lines)
        if sign > 0:
            self._some.set()
            if self._is_enough():
                self._enough.set()

    def _is_enough(self) -> bool:
        return self._unsealed >= self._settings.segment_bytes or self._events >= self._settings.segment_events

    async def _pause(self, failures: int) -> None:
        longest = min(self._settings.pause_seconds * 2.0 ** min(failures - 1, 16), self._settings.max_pause_seconds)
        try:
            async with asyncio.timeout(longest * random.uniform(0.5, 1.0)):
                await self._give_up.wait()
        except TimeoutError:
            pass

    def _because(self) -> str:
        return f" ({self.stats.failing})" if self.stats.failing else ""

    def _pause_hint(self) -> int:
        return max(1, round(self._settings.max_pause_seconds)) if self.stats.failing else 1


def _tell(worker: asyncio.Task[None]) -> None:
    if not worker.cancelled() and (error := worker.exception()) is not None:
        log.error("the log's writer ended by a defect", exc_info=error)


def _ending() -> NotAccepted:
    return NotAccepted(
        "the gateway ended before the store confirmed; send it again with the same idempotencyKey", retry_after=1
    )
