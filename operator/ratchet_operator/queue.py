"""The keyed work queue: decides when a key's pass runs, and never what the pass does.

Whoever learns that something about a key may have changed marks it; a bounded number of workers call `work(key)`.
A key is in work at most once, so an object has one writer and passes need no locks. A key marked while it is in
work runs once more afterwards; a key marked twice while it waits runs once. News go before second looks: of four keys
that a free worker takes, at most three were marked for now while one waits whose time has come, so a thousand runs that
are looked at again delay no change, and no look is put off for ever. A failed pass is repeated with exponential backoff
and jitter. Pure asyncio: knows neither kopf nor Kubernetes, and its only clock is the running
loop's, so tests run it in virtual time. Used by the operator's process and by `ratchet run`.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)
K_contra = TypeVar("K_contra", bound=Hashable, contravariant=True)

_LOOK_TURN = 4

Work = Callable[[K], Awaitable[timedelta | None]]
"""One pass; the returned time asks for another pass after it, None waits for the next mark."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pause before the n-th repeat of a failed pass: `base * 2**(n-1)`, at most `cap`, half of it random.

    An error that carries `retry_after_seconds` (the server's own wish) lengthens the pause to it.
    """

    base_seconds: float = 0.25
    cap_seconds: float = 120.0

    def pause(self, failures: int, rng: random.Random, error: BaseException | None = None) -> float:
        """Return the pause in seconds after this many failures in a row (from 1)."""
        whole = min(self.cap_seconds, self.base_seconds * 2.0 ** min(failures - 1, 32))
        wanted = getattr(error, "retry_after_seconds", None) or 0.0
        return max(whole * (0.5 + 0.5 * rng.random()), min(float(wanted), self.cap_seconds))


class QueueObserver(Protocol[K_contra]):
    """What the queue tells about itself; called in the loop, so it must be quick and must not raise."""

    def depth_changed(self, waiting: int, in_work: int) -> None:
        """The number of keys that could run now, and of those that do."""

    def pass_ended(
        self,
        key: K_contra,
        *,
        waited_seconds: float,
        took_seconds: float,
        error: Exception | None,
        retry_seconds: float,
    ) -> None:
        """A pass ended; with an error, the key is repeated after `retry_seconds` at the latest."""


class KeyedQueue(Generic[K]):
    """De-duplicating queue of keys over a fixed number of workers.

    Args:
        work: one pass over a key.
        workers: how many keys are in work at once.
        rng: source of jitter.
        backoff: pauses after failures.
        pass_timeout_seconds: a pass that takes longer is cut and counts as failed, so a hung call frees its worker.
        observer: hears about depths and passes.
    """

    def __init__(
        self,
        work: Work[K],
        *,
        workers: int,
        rng: random.Random,
        backoff: Backoff | None = None,
        pass_timeout_seconds: float = 120.0,
        observer: QueueObserver[K] | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self._work = work
        self._workers = workers
        self._rng = rng
        self._backoff = backoff or Backoff()
        self._pass_timeout = pass_timeout_seconds
        self._observer = observer
        self._news: OrderedDict[K, float] = OrderedDict()  # keys marked for now -> since when they wait
        self._looks: OrderedDict[K, float] = OrderedDict()  # keys whose time has come, none of them in _news
        self._taken = 0
        self._timers: dict[K, asyncio.TimerHandle] = {}  # keys that become ready later
        self._active: dict[K, bool] = {}  # keys in work -> marked again meanwhile
        self._failures: dict[K, int] = {}
        self._some_ready = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._stopping = False

    @property
    def waiting(self) -> int:
        """Keys that could run now but have no worker yet."""
        return len(self._news) + len(self._looks)

    @property
    def in_work(self) -> int:
        """Keys whose pass runs now."""
        return len(self._active)

    @property
    def scheduled(self) -> int:
        """Keys that become ready at a later time."""
        return len(self._timers)

    def oldest_wait_seconds(self) -> float:
        """How long the key that waits longest has waited; 0 if none waits."""
        heads = [next(iter(line.values())) for line in (self._news, self._looks) if line]
        return asyncio.get_running_loop().time() - min(heads) if heads else 0.0

    def mark(self, key: K, *, after: timedelta = timedelta(0)) -> None:
        """Ask for a pass over the key, at once or after a time; of several wishes the earliest holds.

        A mark without delay also overtakes a key's backoff: something changed, so it is worth a try.
        """
        if self._stopping:
            return
        delay = after.total_seconds()
        if delay > 0:
            self._mark_later(key, delay)
        elif key in self._active:
            self._active[key] = True
        elif key not in self._news:
            self._make_ready(key, self._news, since=self._looks.pop(key, None))

    def forget(self, key: K) -> None:
        """Drop what is remembered of a key that no longer exists: its later pass and its failures."""
        self._cancel_timer(key)
        self._failures.pop(key, None)

    async def run(self) -> None:
        """Work until `stop`; ends when no pass is left in work."""
        async with asyncio.TaskGroup() as workers:
            for number in range(self._workers):
                workers.create_task(self._worker(), name=f"ratchet queue worker {number}")

    def stop(self) -> None:
        """Take no further key; passes in work go on to their end, and `run` returns after the last one."""
        self._stopping = True
        self._news.clear()
        self._looks.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._some_ready.set()
        self._note_depth()

    async def settled(self) -> None:
        """Wait until no key is ready or in work (later ones may be scheduled)."""
        await self._settled.wait()

    def _mark_later(self, key: K, delay: float) -> None:
        if key in self._news or key in self._looks:
            return  # runs before that anyway
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= due:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_at(due, self._timer_fired, key)

    def _timer_fired(self, key: K) -> None:
        del self._timers[key]
        if key in self._active:
            self._active[key] = True
        else:
            self._make_ready(key, self._looks)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _make_ready(self, key: K, line: OrderedDict[K, float], *, since: float | None = None) -> None:
        self._cancel_timer(key)
        line[key] = asyncio.get_running_loop().time() if since is None else since
        self._some_ready.set()
        self._note_depth()

    async def _worker(self) -> None:
        while True:
            while not self.waiting:
                if self._stopping:
                    return
                self._some_ready.clear()
                await self._some_ready.wait()
            self._taken += 1
            look = self._looks and (not self._news or self._taken % _LOOK_TURN == 0)
            key, since = (self._looks if look else self._news).popitem(last=False)
            await self._pass(key, asyncio.get_running_loop().time() - since)

    async def _pass(self, key: K, waited: float) -> None:
        loop = asyncio.get_running_loop()
        self._active[key] = False
        self._note_depth()
        began = loop.time()
        error: Exception | None = None
        again: timedelta | None = None
        try:
            async with asyncio.timeout(self._pass_timeout):
                again = await self._work(key)
        except Exception as caught:  # the outermost loop: one key's bug must not stop the others
            error = caught
        finally:
            marked = self._active.pop(key)
        retry = self._next(key, error=error, again=again, marked=marked)
        self._note_depth()
        if self._observer is not None:
            took = loop.time() - began
            self._observer.pass_ended(key, waited_seconds=waited, took_seconds=took, error=error, retry_seconds=retry)

    def _next(self, key: K, *, error: Exception | None, again: timedelta | None, marked: bool) -> float:
        """Schedule the key's next pass; returns the pause after a failure, else 0."""
        retry = 0.0
        if error is None:
            self._failures.pop(key, None)
            if again is not None:
                self.mark(key, after=again)
        else:
            self._failures[key] = self._failures.get(key, 0) + 1
            retry = self._backoff.pause(self._failures[key], self._rng, error)
            self.mark(key, after=timedelta(seconds=retry))
        # A failed pass that was marked meanwhile still pauses: the pass itself may cause the marks.
        if marked and error is None:
            self.mark(key)
        return retry

    def _note_depth(self) -> None:
        if self.waiting or self._active:
            self._settled.clear()
        else:
            self._settled.set()
        if self._observer is not None:
            self._observer.depth_changed(self.waiting, len(self._active))
