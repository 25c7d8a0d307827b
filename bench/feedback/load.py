"""A load generator that costs little beside what it loads: HTTP/1.1 on plain connections, requests made beforehand.

Two shapes of load: a closed loop (each connection sends its next request when the last was answered) and the clock
(requests are due at fixed times, whether or not earlier ones were answered).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from bench.feedback.processes import POLICY, TOKEN


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement.

    Attributes:
        events: acknowledged.
        seconds: it took.
        latencies: of the requests, in seconds.
        refused: requests that were not acknowledged.
        lags: how long after they were due requests were sent, in seconds; empty without a clock.
    """

    events: int
    seconds: float
    latencies: Sequence[float]
    refused: int
    lags: Sequence[float] = ()

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds

    def percentile(self, share: float) -> float:
        """Latency that this share of the requests stays below, in milliseconds."""
        return _percentile(self.latencies, share)

    def lag(self, share: float) -> float:
        """Lateness of the sender that this share of the requests stays below, in milliseconds."""
        return _percentile(self.lags, share)


def _percentile(seconds: Sequence[float], share: float) -> float:
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


_EVENT = (
    '{"type":"rating","rating":%d,"policy":"' + POLICY + '","subject":"user-%d","prompt":"where is my parcel, and when '
    'will it be here? It was sent on Monday, they said.","response":"shipping","idempotencyKey":"%s-%d"}'
)
_RUN = itertools.count()
KEPT_OPEN = 256
"""Connections that the clock begins with; more are opened when they are all in use."""


def requests(events: int) -> Iterator[bytes]:
    """Yield requests for ever: one event each, or batches; no two events are alike."""
    run = f"{os.getpid()}-{time.time_ns()}-{next(_RUN)}"
    head = (
        f"POST /v1/feedback HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    )
    for first in itertools.count(0, events):
        made = [_EVENT % (n % 5 + 1, n % 9973, run, n) for n in range(first, first + events)]
        body = (made[0] if events == 1 else '{"events":[' + ",".join(made) + "]}").encode()
        yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Wire(asyncio.Protocol):
    """The two ends of one request at a time, without the framework's streams, which cost as much as the request."""

    def __init__(self) -> None:
        self.lost = False
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[int] | None = None
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one, but no subclass

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, ended, body = self._seen.partition(b"\r\n\r\n")
        if not ended or len(body) < int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            return
        self._seen = b""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionResetError("the server closed the connection before it answered"))


class Connection:
    """One kept connection, one request at a time.

    A server closes what was idle for a while, and may do so while the next request is on its way. As HTTP clients do,
    such a request goes out once more on a new connection: its event has a key, so it counts once.
    """

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._wire: _Wire | None = None

    @property
    def closed(self) -> bool:
        """True once the server has closed it."""
        return self._wire is not None and self._wire.lost

    async def open(self) -> None:
        """Connect, unless it is connected.

        Raises:
            ConnectionError: nobody listens.
        """
        if self._wire is None or self._wire.lost:
            loop = asyncio.get_running_loop()
            _, self._wire = await loop.create_connection(_Wire, self._address.hostname, self._address.port)

    async def ask(self, request: bytes) -> int:
        """Send a request; return the status of its answer.

        Raises:
            ConnectionError: a connection made for this request was closed before the answer.
        """
        if self._wire is not None and not self._wire.lost:
            with contextlib.suppress(ConnectionError):  # closed meanwhile
                return await self._exchange(self._wire, request)
        await self.open()
        assert self._wire is not None
        return await self._exchange(self._wire, request)

    @staticmethod
    async def _exchange(wire: _Wire, request: bytes) -> int:
        assert wire.transport is not None
        wire.answer = asyncio.get_running_loop().create_future()
        wire.transport.write(request)
        return await wire.answer

    def close(self) -> None:
        """Close it."""
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.close()


async def closed_loop(url: str, *, connections: int, events: int, seconds: float) -> Measured:
    """Send from so many connections at once, each its next request when the last is answered."""
    latencies: list[float] = []
    refused = 0
    source = requests(events)
    began = time.perf_counter()

    async def sender() -> None:
        nonlocal refused
        connection = Connection(url)
        while (start := time.perf_counter()) - began < seconds:
            if await connection.ask(next(source)) == 200:
                latencies.append(time.perf_counter() - start)
            else:
                refused += 1
        connection.close()

    await asyncio.gather(*(sender() for _ in range(connections)))
    return Measured(len(latencies) * events, time.perf_counter() - began, latencies, refused)


async def by_the_clock(url: str, *, rate: float, seconds: float) -> Measured:
    """Send single events when they are due, whatever became of earlier ones.

    The time of an answer counts from when its request left. How long after it was due that was is told apart
    (`Measured.lags`): it is this process that was late then, and no longer the load that was asked for.
    """
    latencies: list[float] = []
    lags: list[float] = []
    refused = 0
    made = list(itertools.islice(requests(1), int(rate * seconds)))
    idle = [Connection(url) for _ in range(min(KEPT_OPEN, len(made)))]
    await asyncio.gather(*(connection.open() for connection in idle))

    async def send(request: bytes) -> None:
        nonlocal refused
        connection = idle.pop() if idle else Connection(url)
        sent = time.perf_counter()
        if await connection.ask(request) == 200:
            latencies.append(time.perf_counter() - sent)
        else:
            refused += 1
        idle.append(connection)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, request in enumerate(made):
            due = began + number / rate
            while (left := due - time.perf_counter()) > 0:  # a timer counts from when the loop's turn began
                await asyncio.sleep(left)
            lags.append(time.perf_counter() - due)
            group.create_task(send(request))
    seconds_taken = time.perf_counter() - began
    for connection in idle:
        connection.close()
    return Measured(len(latencies), seconds_taken, latencies, refused, lags)
