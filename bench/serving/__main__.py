"""Requests per second at 64 concurrent clients: the policy server beside a FastAPI app with transformers.pipeline.

    make bench-serving            or: python -m bench.serving [--seconds 10] [--rounds 3] [--threads 2]

Both serve an encoder of MiniLM's size with ten classes, on the same threads, one after the other in every round; the
senders are a third process's. A client sends its next text when the last was answered. Targets: 3 x the requests per
second at up to 16 tokens, 1.3 x at 128, and a lower 99th percentile at both; 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench.contenders import free_port, serving
from bench.ending import end_as_by_ctrl_c
from bench.feedback.load import Connection, Measured
from bench.serving import model

CLIENTS = 64
WANTED = {16: 3.0, 128: 1.3}


def request(text: str) -> bytes:
    body = json.dumps({"text": text}).encode()
    head = "POST /v1/classify HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def load(url: str, requests: Sequence[bytes], *, seconds: float) -> Measured:
    """Send from all clients at once, each its next request when the last is answered."""
    latencies: list[float] = []
    refused, sent, began = 0, 0, time.perf_counter()

    async def client() -> None:
        nonlocal refused, sent
        connection = Connection(url)
        while (start := time.perf_counter()) - began < seconds:
            sent += 1
            if await connection.ask(requests[sent % len(requests)]) == 200:
                latencies.append(time.perf_counter() - start)
            else:
                refused += 1
        connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return Measured(len(latencies), time.perf_counter() - began, latencies, refused)


def measure(module: str, arguments: Sequence[Path], *, threads: int, seconds: float) -> dict[int, Measured]:
    """Start a contender, load it with texts of each length, end it."""
    port = free_port()
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", module, *map(str, arguments), str(port)]
    with serving(command, port, environment=environment) as (url, _):
        found = {}
        for tokens in WANTED:
            requests = [request(text) for text in model.texts(512, tokens=tokens)]
            uvloop.run(load(url, requests, seconds=1))  # warm
            found[tokens] = uvloop.run(load(url, requests, seconds=seconds))
        return found


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 1 when a target is missed."""
    end_as_by_ctrl_c()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    runs: dict[str, list[dict[int, Measured]]] = {"policy server": [], "pipeline per request": []}
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as name:
        base, policy, peer = model.write(Path(name))
        for _ in range(options.rounds):
            for contender, module, folders in (
                ("policy server", "bench.serving.ours", (policy, base)),
                ("pipeline per request", "bench.serving.peer", (peer,)),
            ):
                runs[contender].append(measure(module, folders, threads=options.threads, seconds=options.seconds))
    print(
        f"\n{os.cpu_count()} cores, {options.threads} threads, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds"
    )
    print(
        "\n| tokens | contender | requests/s | p50 ms | p99 ms | refused |\n| ---: | --- | ---: | ---: | ---: | ---: |"
    )
    targets: dict[str, bool] = {}
    for tokens, wanted in WANTED.items():
        rates, tails = {}, {}
        for contender, rounds in runs.items():
            seen = [each[tokens] for each in rounds]
            rates[contender] = statistics.median(each.rate for each in seen)
            tails[contender] = statistics.median(each.percentile(0.99) for each in seen)
            half = statistics.median(each.percentile(0.5) for each in seen)
            refused = sum(each.refused for each in seen)
            row = f"{rates[contender]:,.0f} | {half:.0f} | {tails[contender]:.0f} | {refused}"
            print(f"| {tokens} | {contender} | {row} |")
            targets[f"{tokens} tokens, {contender}: nothing refused"] = refused == 0
        ours, theirs = runs
        times = rates[ours] / rates[theirs]
        targets[f"{tokens} tokens: {times:.2f} x the requests per second, at least {wanted} x"] = times >= wanted
        targets[f"{tokens} tokens: lower 99th percentile"] = tails[ours] < tails[theirs]
    print()
    for text, met in targets.items():
        print(f"{'met   ' if met else 'MISSED'} {text}")
    return 0 if all(targets.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
