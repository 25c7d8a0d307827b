"""Two hundred runs at once on a real API server: what each costs, in requests and in memory. Times are printed only.

The full size, side by side with a peer, is `bench/operator_scale`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.operator_scale import live, ours
from bench.operator_scale.measure import Children, burst, rss_mb
from bench.operator_scale.run import say
from tests.controlplane import ControlPlane

pytestmark = pytest.mark.cluster

RUNS = 200
IDLE_SECONDS = 8.0


async def test_two_hundred_runs_cost_few_requests_and_little_memory(tmp_path: Path) -> None:
    """P18 at a fifth of its size."""
    with ControlPlane(tmp_path / "plane") as plane:
        ours.install(plane, "scale")
        path, names = ours.path("scale"), [f"r{number:03}" for number in range(RUNS)]
        operator = ours.Ours(plane, tmp_path)
        try:
            async with Children(plane, ours.CHILDREN) as children:
                manifests = [ours.manifest("scale", name) for name in names]
                whole = await burst(plane, children, path, manifests, controller=operator.pid)
            writes, reads = await _counted(operator), operator.reads()
            say(f"all {RUNS}: {whole.all_seconds:.1f} s, p99 {whole.p99:.1f} s; writes {writes}, reads {reads:.0f}")
            assert writes["create jobs"] == RUNS
            # one before the Job; a slow machine gives some Jobs the time for their second look
            assert writes["update-status rltrainingruns"] <= 2 * RUNS
            assert sum(writes.values()) <= 3 * RUNS  # one of them before the Job
            assert reads <= 7 * RUNS
            assert rss_mb(operator.pid) < 130
        finally:
            operator.stop()
        operator, seconds = await live.cold_start(plane, tmp_path, RUNS, seconds=120)
        try:
            say(f"started over {RUNS} runs in {seconds:.1f} s, {rss_mb(operator.pid):.0f} MB")
            assert rss_mb(operator.pid) < 130
            before = operator.reads() + sum(operator.writes().values())
            await asyncio.sleep(IDLE_SECONDS)
            asked = operator.reads() + sum(operator.writes().values()) - before
            say(f"{asked:.0f} requests in {IDLE_SECONDS:.0f} idle seconds")
            assert asked <= 4 * RUNS  # nobody is looked at twice, and a look is four reads
            lags = await live.lags(plane, path, names[:50], per_second=10)
            say(f"lag of a change: p50 {lags[25]:.2f} s, p99 {lags[49]:.2f} s")
            assert len(lags) == 50
        finally:
            operator.stop()


async def _counted(operator: ours.Ours) -> dict[str, float]:
    """Its writes once it counted every Job: each is seen here before the operator has the answer to its request."""
    async with asyncio.timeout(60):
        while (writes := operator.writes()).get("create jobs", 0.0) < RUNS:
            await asyncio.sleep(0.1)
    return writes
