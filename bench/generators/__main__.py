"""Generated tokens per second at 8 concurrent streams: the policy server beside FastAPI and model.generate per request.

    make bench-generators         or: python -m bench.generators [--rounds 3] [--requests 2] [--tokens 64] [--threads 2]

Both serve the same model on the same threads, one after the other in every round. Each of 8 clients asks a number of
prompts of 32 tokens, the next when the last was answered, and reads 64 tokens of each answer as a stream. The peer runs
twice: one request at a time, and all at once; the better counts. Greedy answers must be the same texts. Targets: 3 x
the tokens per second, and a sooner first token at the median; 1 when one is missed.
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
from dataclasses import dataclass
from pathlib import Path

import httpx2
import uvloop

from bench.contenders import cpu_seconds, free_port, serving
from bench.ending import end_as_by_ctrl_c
from bench.generators import model

CLIENTS, PROMPT = 8, 32
WANTED = 3.0
CONTENDERS = {
    "policy server": ("bench.generators.ours", ()),
    "generate, one at a time": ("bench.generators.peer", ("1",)),
    "generate, all at once": ("bench.generators.peer", (str(CLIENTS),)),
}
OURS = "policy server"


@dataclass(frozen=True, slots=True)
class Round:
    """What one contender did in one round.

    Attributes:
        rate: tokens per second of all clients.
        per_cpu_second: tokens for each CPU second of the server, which other processes disturb little.
        first: seconds from a request to its first token, the median.
        texts: the answers, in the order of their prompts.
    """

    rate: float
    per_cpu_second: float
    first: float
    texts: tuple[str, ...]


async def ask(client: httpx2.AsyncClient, number: int, *, tokens: int) -> tuple[str, float]:
    """Read one streamed answer; return its text and the seconds to its first token."""
    body = {"prompt": model.prompt(number, tokens=PROMPT), "max_tokens": tokens, "temperature": 0, "stream": True}
    began, first, said = time.perf_counter(), 0.0, []
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                if text := json.loads(line.removeprefix("data: "))["choices"][0]["text"]:
                    first = first or time.perf_counter() - began
                    said.append(text)
    return "".join(said).strip(), first


async def load(url: str, pid: int, *, requests: int, tokens: int) -> Round:
    """Let all clients ask their prompts."""
    answers: dict[int, tuple[str, float]] = {}
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:

        async def one(place: int) -> None:
            for turn in range(requests):
                number = turn * CLIENTS + place
                answers[number] = await ask(client, number, tokens=tokens)

        began, spent = time.perf_counter(), cpu_seconds(pid)
        await asyncio.gather(*(one(place) for place in range(CLIENTS)))
        seconds, spent = time.perf_counter() - began, cpu_seconds(pid) - spent
    texts = tuple(answers[number][0] for number in sorted(answers))
    words = sum(len(text.split()) for text in texts)  # a word is a token
    first = statistics.median(first for _, first in answers.values())
    return Round(words / seconds, words / spent, first, texts)


def measure(contender: str, folder: Path, *, threads: int, requests: int, tokens: int) -> Round:
    """Start a contender, load it, end it."""
    module, more = CONTENDERS[contender]
    port = free_port()
    command = [sys.executable, "-m", module, str(folder), str(port), *more]
    with serving(command, port, environment={"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}) as (url, pid):
        return uvloop.run(load(url, pid, requests=requests, tokens=tokens))


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 1 when a target is missed."""
    end_as_by_ctrl_c()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2, help="of each client")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--layers", type=int, default=30, help="of the model; fewer make it smaller")
    options = parser.parse_args(arguments)
    runs: dict[str, list[Round]] = {contender: [] for contender in CONTENDERS}
    with tempfile.TemporaryDirectory(prefix="bench-generators-") as name:
        folder = model.write(Path(name) / "model", layers=options.layers)
        for turn in range(options.rounds):
            order = list(CONTENDERS) if turn % 2 == 0 else list(reversed(CONTENDERS))
            for contender in order:
                asked = {"threads": options.threads, "requests": options.requests, "tokens": options.tokens}
                runs[contender].append(measure(contender, folder, **asked))
    return report(runs, threads=options.threads)


def report(runs: dict[str, list[Round]], *, threads: int) -> int:
    """Print table and targets."""
    print(f"\n{os.cpu_count()} cores, {threads} threads, load {os.getloadavg()[0]:.1f}, {len(runs[OURS])} rounds")
    print("\n| contender | tokens/s | range | tokens/CPU s | p50 first token, s |\n| --- | ---: | ---: | ---: | ---: |")
    rates, firsts = {}, {}
    for contender, rounds in runs.items():
        seen = [each.rate for each in rounds]
        rates[contender] = statistics.median(seen)
        firsts[contender] = statistics.median(each.first for each in rounds)
        frugal = statistics.median(each.per_cpu_second for each in rounds)
        row = f"{rates[contender]:.1f} | {min(seen):.1f}-{max(seen):.1f} | {frugal:.1f} | {firsts[contender]:.2f}"
        print(f"| {contender} | {row} |")
    best = max(rates[contender] for contender in runs if contender != OURS)
    soonest = min(firsts[contender] for contender in runs if contender != OURS)
    times = rates[OURS] / best
    expected = runs["generate, one at a time"][0].texts
    same = sum(one == other for one, other in zip(runs[OURS][0].texts, expected, strict=True))
    targets = {
        f"{times:.2f} x the better peer's tokens per second, at least {WANTED:g} x": times >= WANTED,
        f"first token after {firsts[OURS]:.2f} s, the sooner peer's after {soonest:.2f} s": firsts[OURS] < soonest,
        f"{same} of {len(expected)} answers are the same text": same == len(expected),
    }
    print()
    for text, met in targets.items():
        print(f"{'met   ' if met else 'MISSED'} {text}")
    return 0 if all(targets.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
