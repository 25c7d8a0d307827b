"""What was answered, told to the gateway beside the answers: a bounded buffer and a thread that empties it.

Decides that no answer ever waits for the gateway: what does not fit into the buffer, or is refused, is dropped and
counted, and a drop is seen (`ratchet_serving_records_total`), and told of the records of the same experiment that come
after it, so that whoever reads the log knows what it lacks. Sending again is safe, since every record carries its own
key. Never decides whether texts are kept; that is the gateway's collection rate.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ratchet_api.client import GatewayError
from ratchet_serving.metrics import ServingMetrics

log = logging.getLogger(__name__)

Record = Mapping[str, Any]
AT_ONCE = 500
"""Records of one request to the gateway, which takes 1000."""
AGAIN_SECONDS = 2.0
"""Pause after the gateway could not be reached."""


class Gateway(Protocol):
    """The part of `ratchet_api.client.GatewayClient` that is used."""

    def record_all(self, interactions: Sequence[Record]) -> object:
        """Store records, all or none."""


class Recorder:
    """Sends records of answers in the background.

    Args:
        gateway: where to; it tries a while by itself.
        size: records that may wait.
        metrics: where they are counted.
        gather_seconds: that a first record waits for more.
    """

    def __init__(self, gateway: Gateway, *, size: int, metrics: ServingMetrics, gather_seconds: float = 0.2) -> None:
        self._gateway, self._size, self._metrics, self._gather = gateway, size, metrics, gather_seconds
        self._waiting: deque[Record] = deque()
        self._changed = threading.Condition()
        self._ends_at: float | None = None
        self._name, self._lost = secrets.token_hex(8), Counter[str]()
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        metrics.records_waiting.set_function(lambda: len(self._waiting))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, record: Record) -> None:
        """Take a record, or drop and count it."""
        with self._changed:
            if len(self._waiting) >= self._size or self._ends_at is not None:
                self._count_lost(record)
                return
            # fixed here, and not when it is sent: a record that is sent again must be the same
            if lost := self._lost[str(record.get("experiment", ""))]:
                record = {**record, "recorder": self._name, "dropped": lost}
            self._waiting.append(record)
            self._changed.notify()

    def close(self, *, seconds: float) -> None:
        """Send what waits for at most so long, then drop and count the rest."""
        with self._changed:
            self._ends_at = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            self._drop(len(self._waiting))

    def _run(self) -> None:
        while batch := self._next():
            try:
                self._gateway.record_all(batch)
            except GatewayError as error:
                if self._keeps(batch, error) and self._rest():
                    return
            else:
                self._done(len(batch))
                self._metrics.records.labels("stored").inc(len(batch))

    def _keeps(self, batch: Sequence[Record], error: GatewayError) -> bool:
        """Whether it is worth sending the batch again: the gateway is away, or asked for patience."""
        if error.status in (None, 429, 503):
            log.warning("gateway away", extra={"error": str(error), "waiting": len(self._waiting)})
            return True
        log.error("records refused", extra={"error": str(error), "records": len(batch)})
        with self._changed:
            self._drop(len(batch))
        return False

    def _next(self) -> list[Record]:
        """Wait for records and show a batch of them, which stays in the buffer until it is stored; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._ends_at is not None)
            if self._ends_at is None:
                self._changed.wait_for(lambda: len(self._waiting) >= AT_ONCE or self._ends_at is not None, self._gather)
            if self._ends_at is not None and time.monotonic() >= self._ends_at:
                return []
            return [self._waiting[place] for place in range(min(AT_ONCE, len(self._waiting)))]

    def _done(self, count: int) -> None:
        with self._changed:
            for _ in range(min(count, len(self._waiting))):
                self._waiting.popleft()

    def _drop(self, count: int) -> None:
        for _ in range(min(count, len(self._waiting))):
            self._count_lost(self._waiting.popleft())

    def _count_lost(self, record: Record) -> None:
        if "experiment" in record:
            self._lost[str(record["experiment"])] += 1
        self._metrics.records.labels("dropped").inc()

    def _rest(self) -> bool:
        """Wait before the next attempt; True = the end came, and there is none."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ends_at is not None, AGAIN_SECONDS)
