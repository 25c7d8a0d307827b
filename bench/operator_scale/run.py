"""Races our operator against Kubeflow Trainer's controller on one real API server, and prints a table.

    .venv/bin/python -m bench.operator_scale.run [--count 200] [--rounds 3] [--live 1000] [--no-peer]

etcd and kube-apiserver run alone: no Job controller, no node, so a child is an object and nothing else happens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.ending import end_as_by_ctrl_c
from bench.operator_scale import live as live_bench
from bench.operator_scale import ours, peer
from bench.operator_scale.measure import Burst, Children, burst, idle_cpu_percent, peak_rss_mb, rss_mb
from tests.controlplane import ControlPlane

ALONE = 20
BETWEEN_SECONDS = 75.0
"""What follows a child must not slow the next burst. Here no Job gets a pod, so each is looked at again when it is 15,
45 and 105 s old; looking at 200 takes half as much CPU as starting them, and this pause lies between those looks."""
QUIET_SECONDS = 60.0
IDLE_SECONDS = 60.0
CHANGES_PER_SECOND = 10.0


def say(text: str) -> None:
    """Tell how far the race is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


async def bursts(
    plane: ControlPlane,
    children: Children,
    path: str,
    make: Callable[[str], dict[str, Any]],
    args: argparse.Namespace,
    controller: int,
    requests: Callable[[], dict[str, float]] = dict,
) -> tuple[list[Burst], dict[str, float]]:
    """The rounds of `count` at once, and what `requests` rose by in them, per object."""
    found = []
    counted: dict[str, float] = {}
    for turn in range(args.rounds):
        before = requests()
        manifests = [make(f"r{turn}-{n:04}") for n in range(args.count)]
        found.append(await burst(plane, children, path, manifests, controller=controller))
        for name, value in requests().items():
            rise = (value - before.get(name, 0.0)) / (args.count * args.rounds)
            counted[name] = round(counted.get(name, 0.0) + rise, 2)
        say(f"burst {turn + 1}: {found[-1]}")
        await asyncio.sleep(BETWEEN_SECONDS)
    return found, counted


async def alone(
    plane: ControlPlane, children: Children, path: str, make: Callable[[str], dict[str, Any]], controller: int
) -> list[float]:
    """Milliseconds from creation to child of objects that come one by one."""
    found = []
    for number in range(ALONE):
        one = await burst(plane, children, path, [make(f"alone-{number}")], controller=controller)
        found.append(one.p50 * 1000)
        await asyncio.sleep(0.2)
    say(f"one alone: {spread(found, 'ms')}")
    return found


async def race_ours(plane: ControlPlane, directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured of our operator."""
    namespace = "ours"
    ours.install(plane, namespace)
    operator = ours.Ours(plane, directory)
    make = lambda name: ours.manifest(namespace, name)  # noqa: E731 - one expression, used three times
    path = ours.path(namespace)
    try:
        async with Children(plane, ours.CHILDREN) as children:
            start = rss_mb(operator.pid)
            singles = await alone(plane, children, path, make, operator.pid)
            requests = lambda: operator.writes() | {"reads": operator.reads()}  # noqa: E731 - one expression, used once
            rounds, per_run = await bursts(plane, children, path, make, args, operator.pid, requests)
            made = args.count * args.rounds
            rest = args.live - made - ALONE
            if rest > 0:
                more = [make(f"live-{n:04}") for n in range(rest)]
                await burst(plane, children, path, more, controller=operator.pid)
            live_runs = max(args.live, made + ALONE)
            live, peak = rss_mb(operator.pid), peak_rss_mb(operator.pid)
            operator.stop()
            say(f"starting anew over {live_runs} runs")
            operator, cold = await live_bench.cold_start(plane, directory, live_runs, seconds=300)
            say(f"cold start: {cold:.1f} s; waiting until everything is quiet")
            await asyncio.sleep(QUIET_SECONDS)
            idle = await idle_cpu_percent(operator.pid, IDLE_SECONDS)
            say(f"idle: {idle:.2f} %; changing runs")
            changed = [f"r0-{n:04}" for n in range(min(args.count, 200))]
            lags = await live_bench.lags(plane, path, changed, per_second=CHANGES_PER_SECOND)
            return {
                "alone_ms": singles,
                "bursts": [asdict(each) for each in rounds],
                "requests_per_run": per_run,
                "rss_start_mb": start,
                "rss_live_mb": live,
                "rss_peak_mb": peak,
                "rss_after_cold_start_mb": rss_mb(operator.pid),
                "live": live_runs,
                "idle_cpu_percent": idle,
                "cold_start_seconds": cold,
                "lag_p50": lags[len(lags) // 2],
                "lag_p99": lags[int(len(lags) * 0.99)],
            }
    finally:
        operator.stop()


async def race_peer(plane: ControlPlane, directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The same of Kubeflow Trainer's controller."""
    namespace = "peer"
    controller = peer.Peer(plane, directory, namespace)
    make = lambda name: peer.manifest(namespace, name)  # noqa: E731 - one expression, used twice
    path = peer.path(namespace)
    try:
        async with Children(plane, peer.CHILDREN) as children:
            singles = await alone(plane, children, path, make, controller.pid)
            rounds, _ = await bursts(plane, children, path, make, args, controller.pid)
            return {
                "alone_ms": singles,
                "bursts": [asdict(each) for each in rounds],
                "rss_live_mb": rss_mb(controller.pid),
                "live": args.count * args.rounds + ALONE,
                "idle_cpu_percent": await idle_cpu_percent(controller.pid, IDLE_SECONDS),
            }
    finally:
        controller.stop()


def spread(values: Sequence[float], unit: str = "s") -> str:
    """Median and range."""
    digits = 0 if unit == "ms" else 2
    return f"{statistics.median(values):.{digits}f} {unit} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    names = list(results)
    rows = [("", *names), ("---", *("---" for _ in names))]
    for title, key in (("all", "all_seconds"), ("p50", "p50"), ("p99", "p99")):
        cells = [spread([each[key] for each in results[name]["bursts"]]) for name in names]
        rows.append((f"{results[names[0]]['bursts'][0]['count']} at once, {title}", *cells))
    cells = [spread([each["cpu_seconds"] for each in results[name]["bursts"]]) for name in names]
    rows.append(("CPU of all processes for them", *cells))
    rows.append(("one alone", *(spread(results[name]["alone_ms"], "ms") for name in names)))
    rows.append(("memory", *(f"{results[n]['rss_live_mb']:.0f} MB with {results[n]['live']} live" for n in names)))
    rows.append(("idle CPU", *(f"{results[name]['idle_cpu_percent']:.1f} % of a core" for name in names)))
    first = results[names[0]]
    blank = [""] * (len(names) - 1)
    rows.append(
        (f"start over {first['live']} runs, each with its pass", f"{first['cold_start_seconds']:.1f} s", *blank)
    )
    lag = f"{first['lag_p50'] * 1000:.0f} ms, {first['lag_p99'] * 1000:.0f} ms"
    rows.append((f"lag of {CHANGES_PER_SECOND:.0f} changes/s, p50 and p99", lag, *blank))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


async def race(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Race both on fresh API servers, one after the other, so that neither pays for the other."""
    directory = Path(tempfile.mkdtemp(prefix="ratchet-bench-"))
    results: dict[str, dict[str, Any]] = {}
    try:
        racers: list[tuple[str, Any]] = [("ours", race_ours)]
        if not args.no_peer:
            racers.append((peer.TITLE, race_peer))
        for title, racer in racers:
            say(f"racing {title}")
            with ControlPlane(directory / f"plane-{racer.__name__}") as plane:
                results[title] = await racer(plane, directory, args)
        return results
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Parse the arguments, race, print."""
    end_as_by_ctrl_c()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="objects created at once")
    parser.add_argument("--rounds", type=int, default=3, help="bursts")
    parser.add_argument("--live", type=int, default=1000, help="runs alive when memory and idle CPU are read")
    parser.add_argument("--no-peer", action="store_true", help="only our operator")
    parser.add_argument("--json", type=Path, help="write every number here")
    args = parser.parse_args()
    results = asyncio.run(race(args))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    print(json.dumps(results["ours"]["requests_per_run"], indent=2))


if __name__ == "__main__":
    main()
