"""A load generator that costs little beside what it loads: HTTP/1.1 on plain connections, requests made beforehand.

Two shapes of load: a closed loop (each connection sends its next request when the last was answered) and the clock
(requests are due at fixed times, whether or not earlier ones were answered, and lateness counts).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """

    events: int
    seconds: float
    latencies: Sequence[float]
    refused: int

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds

    def percentile(self, share: float) -> float:
        """Latency that this share of the requests stays below, in milliseconds."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


_EVENT = (
    '{"type":"rating","rating":%d,"policy":"' + POLICY + '","subject":"user-%d","prompt":"where is my parcel, and when '
    'will it be here? It was sent on Monday, they said.","response":"shipping","idempotencyKey":"%s-%d"}'
)
_RUN = itertools.count()


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


class Connection:
    """One kept connection, one request at a time.

    A server closes what was idle for a while, and may do so while the next request is on its way. As HTTP clients do,
    such a request goes out once more on a new connection: its event has a key, so it counts once.
    """

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def closed(self) -> bool:
        """True once the server has closed it."""
        return self._streams is not None and self._streams[0].at_eof()

    async def ask(self, request: bytes) -> int:
        """Send a request; return the status of its answer.

        Raises:
            ConnectionError, IncompleteReadError: a connection made for this request was closed before the answer.
        """
        if self._streams is not None and not self.closed:
            try:
                return await self._exchange(*self._streams, request)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass  # closed meanwhile
        await self.close()
        self._streams = await asyncio.open_connection(self._address.hostname, self._address.port)
        return await self._exchange(*self._streams, request)

    @staticmethod
    async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        return int(head[9:12])

    async def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(ConnectionError):
                await self._streams[1].wait_closed()


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
        await connection.close()

    await asyncio.gather(*(sender() for _ in range(connections)))
    return Measured(len(latencies) * events, time.perf_counter() - began, latencies, refused)


async def by_the_clock(url: str, *, rate: float, seconds: float) -> Measured:
    """Send single events when they are due; the time of an answer counts from when its request was due."""
    latencies: list[float] = []
    refused = 0
    source = requests(1)
    idle: list[Connection] = []
    began = time.perf_counter()

    async def send(due: float) -> None:
        nonlocal refused
        connection = idle.pop() if idle else Connection(url)
        if await connection.ask(next(source)) == 200:
            latencies.append(time.perf_counter() - due)
        else:
            refused += 1
        idle.append(connection)

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            group.create_task(send(due))
    seconds_taken = time.perf_counter() - began
    for connection in idle:
        await connection.close()
    return Measured(len(latencies), seconds_taken, latencies, refused)
