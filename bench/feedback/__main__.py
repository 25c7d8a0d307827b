"""Durable, acknowledged events per second on one core: group commit beside one object per event.

    make bench-feedback            or: python -m bench.feedback [--seconds 20]

Both contenders are this gateway with the same routes, checks and store (one SeaweedFS, the same run), pinned to one
core; the other core is the store's and the senders'. `one object per event` (`per_event.py`) writes each event of a
request as an object of its own, 32 at once.

1. single events, closed loop: 512 connections, each sends its next event when the last was acknowledged;
2. batches of 50: 64 connections. What is under way at once must fill a segment within the writer's window: 32
   connections hold 1,600 events, of which a window of 100 ms makes 16,000 per second at most, however idle the core is;
3. the 99th percentile of the acknowledgement at half of the rate that 1. reached, sent by the clock; it counts only
   if the sender itself kept to its clock, whose lateness stands beside it;
4. memory of the gateway while 3. runs; with `--minutes 10` it runs that long, and memory must stay flat.

On a busy machine compare the events per CPU second of the gateway: its one core is then not its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop

from bench.contenders import cpu_seconds
from bench.ending import end_as_by_ctrl_c
from bench.feedback.load import Measured, by_the_clock, closed_loop
from bench.feedback.processes import GatewayProcess
from bench.feedback.setcheck import credentials
from tests.contract.seaweed import BUCKET, SeaweedServer

GATEWAY_CPU, OTHER_CPU = "0", "1"
SINGLE_CONNECTIONS, BATCH_CONNECTIONS = 512, 64
MEMORY_EVERY_SECONDS = 5.0
LATE_MS = 50.0
"""A sender that is later than this at the 99th percentile did not send the load that was asked of it."""
GROWTH_PERCENT = 5.0
"""Of memory, from the second third of the time to its last third; in the first, caches of a bounded size fill."""


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


async def watched(gateway: GatewayProcess, *, rate: float, seconds: float) -> tuple[Measured, list[float]]:
    """Load the gateway by the clock; also return its memory in MB, looked at every few seconds."""
    seen: list[float] = []

    async def watch() -> None:
        while True:
            seen.append(memory_mb(gateway.pid))
            await asyncio.sleep(MEMORY_EVERY_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        measured = await by_the_clock(gateway.url, rate=rate, seconds=seconds)
    finally:
        watching.cancel()
    return measured, [*seen, memory_mb(gateway.pid)]


def growth_percent(memory: Sequence[float]) -> float:
    """Growth of the mean from the second third of the readings to the last."""
    third = len(memory) // 3
    before, after = statistics.fmean(memory[third : 2 * third]), statistics.fmean(memory[2 * third :])
    return 100 * (after - before) / before


def slope_mb(memory: Sequence[float], seconds: float) -> float:
    """Growth in MB per minute over the last two thirds of the readings: the line of least squares."""
    rest = memory[len(memory) // 3 :]
    minutes = [seconds / 60 * place / (len(memory) - 1) for place in range(len(rest))]
    return statistics.linear_regression(minutes, rest).slope


def contender(folder: Path, store: Mapping[str, str], module: str) -> GatewayProcess:
    """A gateway on its core, started."""
    gateway = GatewayProcess(folder, store, cpus=GATEWAY_CPU, module=module)
    gateway.start()
    return gateway


def compare(folder: Path, store: Mapping[str, str], *, seconds: float, minutes: float) -> bool:
    """Measure both, print the table, and tell whether every target is met.

    Args:
        folder: scratch.
        store: environment that names it.
        seconds: of each measurement.
        minutes: of half load, memory watched; 0 = as the other measurements.
    """
    results: dict[tuple[str, str], Measured] = {}
    per_cpu: dict[tuple[str, str], float] = {}
    memory: list[float] = []
    took = busy = 0.0
    for name, module in (("one object per event", "bench.feedback.per_event"), ("log", "ratchet_gateway")):
        # each in a place of its own: a gateway follows the segments of others, and these are no replicas
        place = {**store, "RATCHET_STORE_URI": f"{store['RATCHET_STORE_URI']}/{module}"}
        gateway = contender(folder, place, module)
        try:
            gateway.wait_ready()
            uvloop.run(closed_loop(gateway.url, connections=16, events=1, seconds=2))  # warm
            for load, connections, events in (
                ("single", SINGLE_CONNECTIONS, 1),
                ("batches of 50", BATCH_CONNECTIONS, 50),
            ):
                used = cpu_seconds(gateway.pid)
                measured = uvloop.run(closed_loop(gateway.url, connections=connections, events=events, seconds=seconds))
                results[name, load] = measured
                per_cpu[name, load] = measured.events / (cpu_seconds(gateway.pid) - used)
            if name == "log":
                half = results["log", "single"].rate / 2
                began, used = time.perf_counter(), cpu_seconds(gateway.pid)
                results[name, "half load"], memory = uvloop.run(
                    watched(gateway, rate=half, seconds=60 * minutes or seconds)
                )
                took, used = time.perf_counter() - began, cpu_seconds(gateway.pid) - used
                per_cpu[name, "half load"] = results[name, "half load"].events / used
                busy = used / took
        finally:
            gateway.stop()
    print("\n| contender | load | events/s | events per CPU second | p50 ms | p99 ms | sender late, p99 ms | refused |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (name, load), measured in results.items():
        p50 = 1000 * statistics.median(measured.latencies)
        late = f"{measured.lag(0.99):.0f}" if measured.lags else ""
        print(
            f"| {name} | {load} | {measured.rate:,.0f} | {per_cpu[name, load]:,.0f} | {p50:.0f} "
            f"| {measured.percentile(0.99):.0f} | {late} | {measured.refused} |"
        )
    for load in ("single", "batches of 50"):
        times = per_cpu["log", load] / per_cpu["one object per event", load]
        print(f"{load}: {times:.1f} x the events per CPU second of the gateway")
    print(f"half load: the gateway had work for {100 * busy:.0f} % of one core")
    thirds = memory[len(memory) // 3], memory[2 * len(memory) // 3]
    print(
        f"\nmemory of the log's gateway in {took:.0f} s of half load: {memory[0]:.0f} MB before, "
        f"{thirds[0]:.0f} and {thirds[1]:.0f} MB after a third and two, {memory[-1]:.0f} MB at the end"
    )

    def ratio(load: str) -> float:
        return results["log", load].rate / results["one object per event", load].rate

    half_load = results["log", "half load"]
    targets = {
        f"single events: {ratio('single'):.1f} x one object per event, at least 5 x": ratio("single") >= 5,
        f"batches of 50: {ratio('batches of 50'):.1f} x one object per event, at least 50 x": ratio("batches of 50")
        >= 50,
        f"p99 at half load: {half_load.percentile(0.99):.0f} ms, at most 300 ms": half_load.percentile(0.99) <= 300,
        f"the sender was late by {half_load.lag(0.99):.0f} ms, at most {LATE_MS:g}, or that p99 is of another load": (
            half_load.lag(0.99) <= LATE_MS
        ),
        "nothing refused": all(measured.refused == 0 for measured in results.values()),
    }
    if minutes:
        grown = growth_percent(memory)
        line = (
            f"{grown:+.1f} % in the last third, at most {GROWTH_PERCENT:g} %; {slope_mb(memory, took):+.2f} MB a minute"
        )
        targets[f"memory of {minutes:g} minutes: {line}"] = grown <= GROWTH_PERCENT
    for text, met in targets.items():
        print(f"{'met   ' if met else 'MISSED'} {text}")
    return all(targets.values())


def _minutes(text: str) -> float:
    """Read --minutes; fewer than one would not fill the caches."""
    if not 1 <= (minutes := float(text)) <= 1440:
        raise argparse.ArgumentTypeError(f"{text}: give 1 to 1440 minutes, or leave it out")
    return minutes


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 1 when a target is missed."""
    end_as_by_ctrl_c()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--minutes", type=_minutes, default=0.0, help="of half load, to see whether memory stays flat")
    options = parser.parse_args(arguments)
    os.environ.update(credentials())
    os.sched_setaffinity(0, {int(OTHER_CPU)})  # the store inherits it
    with tempfile.TemporaryDirectory(prefix="bench-feedback-") as name:
        folder = Path(name)
        with SeaweedServer(folder) as server:
            store = {"RATCHET_STORE_URI": f"s3://{BUCKET}/bench", "RATCHET_STORE_ENDPOINT": server.endpoint}
            return 0 if compare(folder, store, seconds=options.seconds, minutes=options.minutes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
