"""Durable, acknowledged events per second on one core: group commit beside one object per event.

    make bench-feedback            or: python -m bench.feedback [--seconds 20]

Both contenders are this gateway with the same routes, checks and store (one SeaweedFS, the same run), pinned to one
core; the other core is the store's and the senders'. `one object per event` (`per_event.py`) writes each event of a
request as an object of its own, 32 at once.

1. single events, closed loop: 256 connections, each sends its next event when the last was acknowledged;
2. batches of 50: 32 connections;
3. the 99th percentile of the acknowledgement at half of the rate that 1. reached, sent by the clock;
4. memory of the gateway while 3. runs.

On a busy machine compare the events per CPU second of the gateway: its one core is then not its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop

from bench.ending import end_as_by_ctrl_c
from bench.feedback.load import Measured, by_the_clock, closed_loop
from bench.feedback.processes import GatewayProcess
from bench.feedback.setcheck import credentials
from tests.contract.seaweed import BUCKET, SeaweedServer

GATEWAY_CPU, OTHER_CPU = "0", "1"
SINGLE_CONNECTIONS, BATCH_CONNECTIONS = 256, 32


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def contender(folder: Path, store: Mapping[str, str], module: str) -> GatewayProcess:
    """A gateway on its core, started."""
    gateway = GatewayProcess(folder, store, cpus=GATEWAY_CPU, module=module)
    gateway.start()
    return gateway


def compare(folder: Path, store: Mapping[str, str], *, seconds: float) -> bool:
    """Measure both, print the table, and tell whether every target is met."""
    results: dict[tuple[str, str], Measured] = {}
    per_cpu: dict[tuple[str, str], float] = {}
    memory: list[float] = []
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
                memory = [memory_mb(gateway.pid)]
                results[name, "half load"] = uvloop.run(by_the_clock(gateway.url, rate=half, seconds=seconds))
                memory.append(memory_mb(gateway.pid))
        finally:
            gateway.stop()
    print("\n| contender | load | events/s | events per CPU second | p50 ms | p99 ms | refused |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for (name, load), measured in results.items():
        p50 = 1000 * statistics.median(measured.latencies)
        cpu = f"{per_cpu[name, load]:,.0f}" if (name, load) in per_cpu else ""
        print(
            f"| {name} | {load} | {measured.rate:,.0f} | {cpu} | {p50:.0f} | {measured.percentile(0.99):.0f} "
            f"| {measured.refused} |"
        )
    for load in ("single", "batches of 50"):
        times = per_cpu["log", load] / per_cpu["one object per event", load]
        print(f"{load}: {times:.1f} x the events per CPU second of the gateway")
    print(f"\nmemory of the log's gateway at half load: {memory[0]:.0f} MB before, {memory[1]:.0f} MB after")

    def ratio(load: str) -> float:
        return results["log", load].rate / results["one object per event", load].rate

    targets = {
        f"single events: {ratio('single'):.1f} x one object per event, at least 5 x": ratio("single") >= 5,
        f"batches of 50: {ratio('batches of 50'):.1f} x one object per event, at least 50 x": ratio("batches of 50")
        >= 50,
        "p99 at half load: at most 300 ms": results["log", "half load"].percentile(0.99) <= 300,
        "nothing refused": all(measured.refused == 0 for measured in results.values()),
    }
    for text, met in targets.items():
        print(f"{'met   ' if met else 'MISSED'} {text}")
    return all(targets.values())


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 1 when a target is missed."""
    end_as_by_ctrl_c()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    options = parser.parse_args(arguments)
    os.environ.update(credentials())
    os.sched_setaffinity(0, {int(OTHER_CPU)})  # the store inherits it
    with tempfile.TemporaryDirectory(prefix="bench-feedback-") as name:
        folder = Path(name)
        with SeaweedServer(folder) as server:
            store = {"RATCHET_STORE_URI": f"s3://{BUCKET}/bench", "RATCHET_STORE_ENDPOINT": server.endpoint}
            return 0 if compare(folder, store, seconds=options.seconds) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
