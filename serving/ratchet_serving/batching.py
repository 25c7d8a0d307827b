"""Requests that arrive together are answered together: a bounded queue before one thread that owns the model.

Decides how long a request may wait for company, how many texts may wait at all, and what becomes of them at the end.
While the thread computes, whatever arrives is the next batch; so waiting is only worth it when little is there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ratchet_serving.errors import Busy, Leaving
from ratchet_serving.metrics import ServingMetrics

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]


class Model(Protocol):
    """What answers a batch."""

    def logits(self, texts: Sequence[str]) -> Floats:
        """Compute (N, C) logits of N texts."""


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How requests are put together.

    Attributes:
        max_texts: of one batch; one request may bring more.
        max_wait_seconds: that the first text of a batch waits for more.
        max_queue: texts that may wait; beyond, requests are refused with 503.
    """

    max_texts: int = 64
    max_wait_seconds: float = 0.002
    max_queue: int = 2048


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    texts: Sequence[str]
    future: asyncio.Future[Floats]
    since: float


class Batcher:
    """A queue and its thread.

    Args:
        model: asked by the thread alone.
        settings: how requests are put together.
        metrics: where batches are counted.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        model: Model,
        settings: BatchSettings,
        metrics: ServingMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._settings, self._metrics, self._clock = model, settings, metrics, clock
        self._waiting: deque[_Waiting] = deque()
        self._texts = 0
        self._changed = threading.Condition()
        self._ending = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        metrics.queued.set_function(lambda: self._texts)

    def start(self) -> None:
        """Start the thread; answers are given in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; once started it ends only by `close`, or by a defect."""
        return self._thread.is_alive()

    async def ask(self, texts: Sequence[str]) -> Floats:
        """Compute (N, C) logits of N texts, together with those of other requests.

        Raises:
            Busy: too many texts wait.
            Leaving: the server ends.
            Broken: as the model raises.
        """
        assert self._loop is not None, "start() comes first"
        future: asyncio.Future[Floats] = self._loop.create_future()
        with self._changed:
            if self._ending:
                raise Leaving("the server is ending; ask again, another one will answer", retry_after=1)
            if self._texts and self._texts + len(texts) > self._settings.max_queue:
                raise Busy(
                    f"{self._texts} texts wait already, at most {self._settings.max_queue} may; ask later, or run more "
                    "replicas",
                    retry_after=1,
                )
            self._waiting.append(_Waiting(texts, future, self._clock()))
            self._texts += len(texts)
            self._changed.notify()
        return await future

    async def close(self) -> None:
        """Answer what waits, take nothing more, end the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while batch := self._next():
            began = self._clock()
            texts = [text for waiting in batch for text in waiting.texts]
            try:
                rows: Floats | Exception = self._model.logits(texts)
            except Exception as error:  # the outermost loop of the thread: one bad batch must not end all others
                log.exception("batch failed", extra={"texts": len(texts)})
                rows = error
            self._metrics.batch_texts.observe(len(texts))
            self._metrics.batch_seconds.observe(self._clock() - began)
            assert self._loop is not None
            self._loop.call_soon_threadsafe(_deliver, batch, rows)

    def _next(self) -> list[_Waiting]:
        """Wait for requests and take a batch of them; empty at the end."""
        with self._changed:
            while not self._waiting:
                if self._ending:
                    return []
                self._changed.wait()
            end = self._waiting[0].since + self._settings.max_wait_seconds
            while self._texts < self._settings.max_texts and not self._ending and (left := end - self._clock()) > 0:
                self._changed.wait(left)
            batch = [self._take()]
            size = len(batch[0].texts)
            while self._waiting and size + len(self._waiting[0].texts) <= self._settings.max_texts:
                batch.append(self._take())
                size += len(batch[-1].texts)
            return batch

    def _take(self) -> _Waiting:
        taken = self._waiting.popleft()
        self._texts -= len(taken.texts)
        return taken


def _deliver(batch: Sequence[_Waiting], rows: Floats | Exception) -> None:
    """Give each request its rows; one whose client has gone takes none."""
    place = 0
    for waiting in batch:
        if not waiting.future.done():
            if isinstance(rows, Exception):
                waiting.future.set_exception(rows)
            else:
                waiting.future.set_result(rows[place : place + len(waiting.texts)])
        place += len(waiting.texts)
