"""Trackers behind one thread: the stage hands a number over and goes on, whatever becomes of it.

Decides that a tracker which cannot start, or fails a few times, is left alone from then on; that every failure is a
warning in the log and counted; and that the end waits a bounded time. Called by `runtime.main`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import structlog

from ratchet_api.tracking import Tracking
from ratchet_jobs.runtime.tracking.base import Tracked, Tracker
from ratchet_jobs.runtime.tracking.mlflow import MlflowTracker
from ratchet_jobs.runtime.tracking.tensorboard import TensorBoardTracker
from ratchet_jobs.runtime.tracking.wandb import WandbTracker

QUEUE_STEPS = 10_000
"""Steps that wait for a slow tracker; what comes on top is dropped and counted."""
FAILURES = 3
"""In a row, after which a tracker is left alone."""
LEAVE_SECONDS = 20.0

log = structlog.get_logger(__name__)


class _Step(NamedTuple):
    step: int
    metrics: Mapping[str, float]
    time_seconds: float


def trackers_of(tracking: Tracking | None) -> list[Tracker]:
    """The trackers that a spec names."""
    if tracking is None:
        return []
    found: list[Tracker] = [TensorBoardTracker()] if tracking.tensorboard else []
    if tracking.mlflow is not None:
        found.append(MlflowTracker(tracking.mlflow))
    if tracking.wandb is not None:
        found.append(WandbTracker(tracking.wandb))
    return found


class BackgroundTrackers:
    """Any number of trackers; with none, every call does nothing."""

    def __init__(
        self,
        trackers: Sequence[Tracker],
        tracked: Tracked,
        *,
        count_failure: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start the thread.

        Args:
            trackers: not started yet.
            tracked: the stage.
            count_failure: called with a tracker's name for each thing it did not take.
            clock: seconds since 1970.
        """
        self._tracked = tracked
        self._count_failure = count_failure
        self._clock = clock
        self._steps: queue.Queue[_Step | None] = queue.Queue(QUEUE_STEPS)
        self._failures = {each.name: 0 for each in trackers}
        self._alive = list(trackers)
        self._succeeded = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        if trackers:
            self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand the metrics of a step over; never waits."""
        if not self._failures:
            return
        try:
            self._steps.put_nowait(_Step(step, dict(metrics), self._clock()))
        except queue.Full:
            for name in self._failures:
                self._count_failure(name)

    def finish(self, *, succeeded: bool, patience_seconds: float = LEAVE_SECONDS) -> None:
        """Let the thread write what is left, but not for ever."""
        if not self._failures:
            return
        self._succeeded = succeeded
        until = time.monotonic() + patience_seconds
        try:
            self._steps.put(None, timeout=patience_seconds)
        except queue.Full:
            self._leave_unfinished()
            return
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._leave_unfinished()

    def _leave_unfinished(self) -> None:
        """Say and count that what the trackers still hold may be lost."""
        unfinished = tuple(self._alive)
        for tracker in unfinished:
            self._count_failure(tracker.name)
        names = [tracker.name for tracker in unfinished]
        log.warning("tracking is left unfinished", trackers=names, waiting=self._steps.qsize())

    def _work(self) -> None:
        for tracker in tuple(self._alive):
            self._try(tracker, "start", partial(tracker.start, self._tracked))
        while (given := self._steps.get()) is not None:
            for tracker in tuple(self._alive):
                self._try(tracker, "log", partial(tracker.log, *given))
        for tracker in tuple(self._alive):
            self._try(tracker, "finish", partial(tracker.finish, succeeded=self._succeeded))

    def _try(self, tracker: Tracker, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a tracker's library raises, the stage goes on without it
            self._failures[tracker.name] += 1
            self._count_failure(tracker.name)
            is_over = what == "start" or self._failures[tracker.name] >= FAILURES
            if is_over:
                self._alive.remove(tracker)
            hint = {"install": "ratchet[tracking]"} if isinstance(error, ImportError) else {}
            log.warning("tracker failed", tracker=tracker.name, call=what, error=str(error), left_alone=is_over, **hint)
        else:
            self._failures[tracker.name] = 0
