"""What a thousand live runs cost: the start over them, the lag of a change, and the silence between changes (P18).

A change is `spec.ttlSecondsAfterFinished`, which may be changed at any time; it is answered when the run's status
says `observedGeneration` of the changed spec. The lag thus holds the watch, the queue, the pass and its status write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from bench.operator_scale.measure import events_of, session
from bench.operator_scale.ours import Ours
from tests.controlplane import ControlPlane


async def cold_start(plane: ControlPlane, directory: Path, runs: int, *, seconds: float) -> tuple[Ours, float]:
    """Start an operator over existing runs; returns it and the seconds until every run had its pass.

    Raises:
        TimeoutError: not every run had one in time.
    """
    began = time.perf_counter()
    operator = Ours(plane, directory)
    try:
        async with asyncio.timeout(seconds):
            while operator.passes() < runs:
                await asyncio.sleep(0.1)
    except BaseException:
        operator.stop()
        raise
    return operator, time.perf_counter() - began


async def lags(plane: ControlPlane, path: str, names: Sequence[str], *, per_second: float) -> list[float]:
    """Change each run once, at this rate; returns the sorted seconds from the server's answer to the new status.

    Raises:
        TimeoutError: a change has no answer a minute after the last one.
    """
    changed: dict[str, tuple[int, float]] = {}  # name -> generation, when
    answered: dict[str, tuple[int, float]] = {}
    listening = asyncio.Event()
    watch = asyncio.create_task(_watch(plane, path, answered, listening))
    await listening.wait()
    try:
        async with session(plane) as client:
            began = time.perf_counter()
            for number, name in enumerate(names):
                await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
                patch = {"spec": {"ttlSecondsAfterFinished": 100_000 + number}}
                headers = {"Content-Type": "application/merge-patch+json"}
                async with client.patch(f"{plane.url}{path}/{name}", json=patch, headers=headers) as answer:
                    made = await answer.json()
                    if answer.status != 200:
                        raise RuntimeError(f"PATCH {path}/{name}: {answer.status} {made}")
                    changed[name] = (made["metadata"]["generation"], time.perf_counter())
        async with asyncio.timeout(60):
            while any(answered.get(name, (0, 0.0))[0] < generation for name, (generation, _) in changed.items()):
                await asyncio.sleep(0.05)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    return sorted(max(0.0, answered[name][1] - at) for name, (_, at) in changed.items())


async def _watch(
    plane: ControlPlane, path: str, answered: dict[str, tuple[int, float]], listening: asyncio.Event
) -> None:
    """Note when each run's status first speaks of each generation of its spec."""
    async for event, now in events_of(plane, path, listening=listening):
        run = event["object"]
        generation = run.get("status", {}).get("observedGeneration", 0)
        if generation > answered.get(run["metadata"]["name"], (0, 0.0))[0]:
            answered[run["metadata"]["name"]] = (generation, now)
