"""Measuring that both controllers share: creating objects at once, watching children, memory and CPU of a process."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from bench.contenders import cpu_seconds
from tests.controlplane import ControlPlane

AT_ONCE = 32
"""Requests in flight while objects are created."""


class Children:
    """Notes when the first child of each owner appears; use it as an async context manager."""

    def __init__(self, plane: ControlPlane, path: str) -> None:
        self._plane, self._path = plane, path
        self.first_seen: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        started = asyncio.Event()
        self._task = asyncio.create_task(self._watch(started))
        await started.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def all_of(self, names: Sequence[str], *, seconds: float) -> None:
        """Wait until every owner has a child."""
        try:
            async with asyncio.timeout(seconds):
                while not all(name in self.first_seen for name in names):
                    await asyncio.sleep(0.005)
        except TimeoutError:
            missing = [name for name in names if name not in self.first_seen]
            raise RuntimeError(
                f"{len(missing)} of {len(names)} have no child after {seconds} s: {missing[:3]}"
            ) from None

    async def _watch(self, started: asyncio.Event) -> None:
        async for event, now in events_of(self._plane, self._path, listening=started):
            if event["type"] == "ADDED":
                self.first_seen.setdefault(event["object"]["metadata"]["ownerReferences"][0]["name"], now)


async def events_of(
    plane: ControlPlane, path: str, *, listening: asyncio.Event
) -> AsyncIterator[tuple[dict[str, Any], float]]:
    """Every event of a collection from now on, with the time at which its bytes came.

    Args:
        plane: the API server.
        path: of the collection.
        listening: is set as soon as the watch stands.
    """
    async with session(plane) as client:
        async with client.get(f"{plane.url}{path}", params={"limit": "1"}) as answer:
            version = (await answer.json())["metadata"]["resourceVersion"]
        query = {"watch": "true", "resourceVersion": version}
        async with client.get(f"{plane.url}{path}", params=query) as stream:
            listening.set()
            buffer = b""
            async for chunk in stream.content.iter_any():
                now = time.perf_counter()
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line), now


def session(plane: ControlPlane) -> aiohttp.ClientSession:
    """An HTTP session that is admin."""
    connection = plane.connection()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=connection.tls or True, limit=0),
        headers=connection.headers(),
        timeout=aiohttp.ClientTimeout(total=300),
    )


async def create_at_once(plane: ControlPlane, path: str, manifests: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Create the objects, 32 requests at a time; returns when the API server had each, by name."""
    created: dict[str, float] = {}
    waiting = list(reversed(manifests))

    async def creator(client: aiohttp.ClientSession) -> None:
        while waiting:
            manifest = waiting.pop()
            async with client.post(f"{plane.url}{path}", json=manifest) as answer:
                created[manifest["metadata"]["name"]] = time.perf_counter()
                if answer.status != 201:
                    raise RuntimeError(f"POST {path}: {answer.status} {await answer.text()}")

    async with session(plane) as client:
        await asyncio.gather(*(creator(client) for _ in range(min(AT_ONCE, len(manifests)))))
    return created


@dataclass(frozen=True)
class Burst:
    """Times of one burst, in seconds: whole, and per object from its creation to its first child."""

    count: int
    all_seconds: float
    p50: float
    p99: float
    cpu_seconds: float
    """Of the controller, the API server, etcd and this bench together: what a busy host changes least."""

    @classmethod
    def of(cls, began: float, created: Mapping[str, float], seen: Mapping[str, float], cpu: float) -> Burst:
        """Sum up: `began` is when the first request was sent, `cpu` the CPU seconds since."""
        delays = sorted(max(0.0, seen[name] - at) for name, at in created.items())
        whole = max(seen[name] for name in created) - began
        p99 = delays[min(len(delays) - 1, int(len(delays) * 0.99))]
        return cls(len(delays), whole, statistics.median(delays), p99, round(cpu, 2))


async def burst(
    plane: ControlPlane, children: Children, path: str, manifests: Sequence[Mapping[str, Any]], *, controller: int
) -> Burst:
    """Create the objects at once and wait for every first child; `controller` is the process that makes them."""
    everyone = (controller, plane.pid("kube-apiserver"), plane.pid("etcd"), os.getpid())
    before = sum(map(cpu_seconds, everyone))
    began = time.perf_counter()
    created = await create_at_once(plane, path, manifests)
    await children.all_of(list(created), seconds=300)
    return Burst.of(began, created, children.first_seen, sum(map(cpu_seconds, everyone)) - before)


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MB (10^6 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_rss_mb(pid: int) -> float:
    """Highest resident memory of a process so far in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


async def idle_cpu_percent(pid: int, seconds: float) -> float:
    """Share of one core that a process uses while nothing happens."""
    before = cpu_seconds(pid)
    await asyncio.sleep(seconds)
    return (cpu_seconds(pid) - before) / seconds * 100
