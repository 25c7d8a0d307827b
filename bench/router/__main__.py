"""What the router costs: beside Envoy with one plain route in the same run, and beside calling the server directly.

    make bench-router            or: python -m bench.router [--seconds 10] [--rounds 3]

The router is the container that the operator renders, with a candidate at 25 % and the cookie of ours; its requests
name 10,000 subjects. The proxy is an Envoy with one listener, one route, one cluster. Each has one worker on a core of
its own; the other core is the server's (an Envoy that answers at once) and the senders'.

1. 64 connections in a closed loop: requests per second, and per CPU second of the router or proxy, which is what
   counts where the other core is the one that is busy;
2. one connection: latency through each of them, and without. Beside them a bare relay, which hands
   bytes on and reads none: what any process between would add here. All of it once more on one core for all, where no
   idle core has to be woken: a virtual machine may take longer for that than Envoy does for a request.

Targets: 0.9 x the plain route's requests, per second and per CPU second; at most 0.5 ms more at the median than
without. What it is of the plain proxy's is told, too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop

from bench.contenders import cpu_seconds, free_ports
from bench.ending import end_as_by_ctrl_c
from bench.router import plain
from bench.router.load import Measured, closed_loop
from ratchet_api.assign import canary_split, salt_of
from ratchet_operator.desired.router_table import SUBJECT_HEADER, Backend, RouterTable
from tests.contract.envoys import Router, wait_for

ROUTER_CPU, OTHER_CPU = 0, 1
CONNECTIONS = 64
WAYS = ("router", "plain route", "plain proxy", "no router")
RELAY = "bare relay"
REQUESTS = [
    f"GET /v1/classify HTTP/1.1\r\nhost: bench\r\n{SUBJECT_HEADER}: user-{number}\r\n\r\n".encode()
    for number in range(10_000)
]


def listening(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a port answers.

    Raises:
        RuntimeError: the process has ended.
    """

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}; see the log beside its file")
        try:
            return bool(uvloop.run(closed_loop(port, REQUESTS, connections=1, seconds=0)).latencies)
        except OSError:
            return False

    wait_for(f"an answer on port {port}", answers)


def move(process: subprocess.Popen[bytes], cpu: int) -> None:
    """Have every thread of a process run on a core."""
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})


def measure(folder: Path, *, seconds: float, rounds: int) -> bool:
    """Measure all ways, print the tables, and tell whether every target is met."""
    many: dict[str, list[Measured]] = {way: [] for way in WAYS}
    one: dict[str, list[Measured]] = {way: [] for way in (*WAYS, RELAY)}
    together: dict[str, list[Measured]] = {way: [] for way in (*WAYS, RELAY)}
    used: dict[str, list[float]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        first, second, route_port, proxy_port, relay_port = free_ports(5)
        processes = {}
        for name, cpu, config in (
            ("no router", OTHER_CPU, plain.server((first, second))),
            ("plain route", ROUTER_CPU, plain.proxy(route_port, first, edge=True)),
            ("plain proxy", ROUTER_CPU, plain.proxy(proxy_port, first)),
        ):
            processes[name] = stack.enter_context(plain.start(folder / name.replace(" ", "-"), config, cpu=cpu))
            stack.callback(processes[name].terminate)
        listening(processes["no router"], first)
        listening(processes["plain route"], route_port)
        listening(processes["plain proxy"], proxy_port)
        command = ["taskset", "-c", str(ROUTER_CPU), sys.executable, "-m", "bench.router.relay"]
        processes[RELAY] = stack.enter_context(subprocess.Popen([*command, str(relay_port), str(first)]))
        stack.callback(processes[RELAY].terminate)
        listening(processes[RELAY], relay_port)
        split = canary_split(salt_of("bench", "1-v1-v2"), champion=1, candidate=2, share=2500)
        backends = (Backend(1, "127.0.0.1", first), Backend(2, "127.0.0.1", second))
        router = Router(folder / "router", RouterTable("bench", 1, backends, split=split))
        router.command[:0] = ["taskset", "-c", str(ROUTER_CPU)]
        stack.enter_context(router)
        assert router.process is not None
        processes["router"] = router.process
        ports = {"router": router.port, "plain route": route_port, "plain proxy": proxy_port}
        ports |= {"no router": first, RELAY: relay_port}
        for turn in range(rounds):
            for way in WAYS if turn % 2 == 0 else reversed(WAYS):
                uvloop.run(closed_loop(ports[way], REQUESTS, connections=CONNECTIONS, seconds=1))  # warm
                before = cpu_seconds(processes[way].pid)
                many[way].append(
                    uvloop.run(closed_loop(ports[way], REQUESTS, connections=CONNECTIONS, seconds=seconds))
                )
                used[way].append(cpu_seconds(processes[way].pid) - before)
            for way in one if turn % 2 == 0 else reversed(one):
                one[way].append(uvloop.run(closed_loop(ports[way], REQUESTS, connections=1, seconds=seconds / 2)))
                if way != "no router":
                    move(processes[way], OTHER_CPU)
                together[way].append(uvloop.run(closed_loop(ports[way], REQUESTS, connections=1, seconds=seconds / 2)))
                if way != "no router":
                    move(processes[way], ROUTER_CPU)
    return report(many, one, together, used)


def report(
    many: dict[str, list[Measured]],
    one: dict[str, list[Measured]],
    together: dict[str, list[Measured]],
    used: dict[str, list[float]],
) -> bool:
    """Print what was measured; True when every target is met."""
    rates = {way: statistics.median(each.rate for each in many[way]) for way in WAYS}
    halves, shared = ({way: _median(found[way]) for way in found} for found in (one, together))
    per_cpu = {
        way: statistics.median(len(each.latencies) / cpu for each, cpu in zip(many[way], used[way], strict=True))
        for way in WAYS
    }
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {len(many['router'])} rounds")
    print(f"\n| way | requests/s | per CPU second | its core busy | p99 ms at {CONNECTIONS} | refused |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for way in WAYS:
        busy = statistics.median(cpu / each.seconds for each, cpu in zip(many[way], used[way], strict=True))
        tail = statistics.median(each.percentile(0.99) for each in many[way])
        refused = sum(each.refused for each in many[way])
        print(f"| {way} | {rates[way]:,.0f} | {per_cpu[way]:,.0f} | {busy:.0%} | {tail:.2f} | {refused} |")
    print("\n| one connection | p50 ms | more than none | p99 ms | p50 ms on one core | more than none | refused |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for way in one:
        alone = statistics.median(each.percentile(0.99) for each in one[way])
        refused = sum(each.refused for each in one[way] + together[way])
        print(
            f"| {way} | {halves[way]:.3f} | {halves[way] - halves['no router']:.3f} | {alone:.3f} "
            f"| {shared[way]:.3f} | {shared[way] - shared['no router']:.3f} | {refused} |"
        )
    share, share_of_cpu = (each["router"] / each["plain route"] for each in (rates, per_cpu))
    of_proxy, of_proxy_cpu = (each["router"] / each["plain proxy"] for each in (rates, per_cpu))
    print(f"\n{of_proxy:.2f} x the plain proxy's requests per second, {of_proxy_cpu:.2f} x per CPU second")
    added = halves["router"] - halves["no router"]
    targets = {
        f"{share:.2f} x the plain route's requests per second, at least 0.9 x": share >= 0.9,
        f"{share_of_cpu:.2f} x the plain route's requests per CPU second, at least 0.9 x": share_of_cpu >= 0.9,
        f"{added:.3f} ms more at the median than without a router, at most 0.5 ms": added <= 0.5,
        "nothing refused": not any(
            each.refused for found in (many, one, together) for measured in found.values() for each in measured
        ),
    }
    print()
    for text, met in targets.items():
        print(f"{'met   ' if met else 'MISSED'} {text}")
    return all(targets.values())


def _median(measured: Sequence[Measured]) -> float:
    return statistics.median(each.percentile(0.5) for each in measured)


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 1 when a target is missed."""
    end_as_by_ctrl_c()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement with many connections")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {OTHER_CPU})
    with tempfile.TemporaryDirectory(prefix="bench-router-") as name:
        return 0 if measure(Path(name), seconds=options.seconds, rounds=options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
