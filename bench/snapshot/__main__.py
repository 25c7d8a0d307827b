"""`python -m bench.snapshot`: feedback logs of two sizes to Parquet by the snapshot stage, in processes of their own.

Prints events per second of wall and of CPU time, and the peak memory of each; the second log is several times as long
as the first, so that memory which grew with the log would be seen, and the first is long enough for its events to have
filled what the database may hold. Exits 1 when a target is missed. The log is made here, with the gateway's own
segments, half interactions and half scores on them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ratchet_api.feedback_dataset import FeedbackDatasetSpec
from ratchet_api.stage import Owner, SnapshotConfig, StageInput, StoreConfig
from ratchet_jobs.feedback_log.segment import new_epoch, pack, segment_key
from ratchet_jobs.runtime.main import run_stage
from ratchet_jobs.runtime.store_directory import DirectoryStore

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
SEGMENT_EVENTS = 2_000
SPEED = 200_000
"""Events per second of wall time that both logs should reach."""
GROWTH = 1.1
"""The longer log's peak of memory over the shorter one's, at most."""
WORDS = "the card was charged twice and support never called me back about my account since last month".split()


def make_log(store: DirectoryStore, events: int) -> int:
    """Write a log of pairs (interaction, score); returns its bytes as stored."""
    epoch, size = new_epoch(START), 0
    for seq, first in enumerate(range(0, events, SEGMENT_EVENTS), 1):
        lines: list[bytes] = []
        for number in range(first // 2, min(first + SEGMENT_EVENTS, events) // 2):
            lines += _pair(number)
        data = pack(lines)
        key = segment_key("ns", epoch=epoch, seq=seq, events=len(lines), data=data, at=START + timedelta(seconds=seq))
        store.write(key, data)
        size += len(data)
    return size


def _pair(number: int) -> list[bytes]:
    text = " ".join(WORDS[(number * step) % len(WORDS)] for step in (1, 3, 5, 7, 9, 11, 13, 17)) + f" {number:x}"
    if number % 20 == 0:
        text += f" write to person{number}@example.org"
    common = {"source": "bench", "received": "2026-11-21T12:00:00.000Z", "fingerprint": "0" * 16, "policy": "router"}
    about = {"version": 3, "subject": f"2026-11:{number % 50_000:032x}", "interaction": f"{number:032x}"}
    answer = {"kind": "interaction", "input": text, "label": WORDS[number % 9], "actionPropensity": 0.8}
    verdict = {"kind": "feedback", "type": "score", "score": (number % 11) / 10}
    return [
        json.dumps({"id": f"a{number:031x}"} | common | about | answer).encode(),
        json.dumps({"id": f"b{number:031x}"} | common | about | verdict).encode(),
    ]


def measure(root: Path) -> None:
    """Run the stage and print seconds, CPU seconds, peak memory in MiB and rows."""
    spec = FeedbackDatasetSpec.model_validate(
        {"type": "ratings", "source": {"feedback": {"policyRef": {"name": "router"}}}}
    )
    config = SnapshotConfig(
        type=spec.type, source=spec.source, columns=spec.columns, labels=None, filters=spec.filters, split=spec.split
    )
    job = StageInput(
        owner=Owner(kind="FeedbackDataset", namespace="ns", name="bench", uid="u" * 8),
        attempt=1,
        prefix="ns/datasets/bench/snapshot/t",
        store=StoreConfig(uri=(root / "store").as_uri()),
        config=config,
    )
    (root / "stage.json").write_text(job.model_dump_json(by_alias=True, exclude_none=True))
    places = {"STAGE_FILE": root / "stage.json", "TERMINATION_PATH": root / "end", "SCRATCH": root}
    env = {f"RATCHET_{name}": str(path) for name, path in places.items()}
    env |= {"RATCHET_POD_UID": "bench", "RATCHET_PROGRESS_HOST": "127.0.0.1", "RATCHET_PROGRESS_PORT": "0"}
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    code = run_stage(env)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    if code:
        sys.stderr.write((root / "end").read_text())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    kept = json.loads((root / "end").read_text())["result"]["snapshot"]["counts"]["kept"] if not code else 0
    sys.stdout.write(json.dumps([wall, cpu, after.ru_maxrss / 1024, kept]) + "\n")


def main() -> int:
    """Measure a log and one several times as long; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=3_200_000, help="of the shorter log")
    parser.add_argument("--times", type=int, default=4, help="how much longer the other one is")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.measure)
        return 0
    short, long = (measured(events) for events in (arguments.events, arguments.events * arguments.times))
    slowest, growth = min(short[0], long[0]), long[1] / short[1]
    fast, flat = slowest >= SPEED, growth <= GROWTH
    sys.stdout.write(
        f"{'holds ' if fast else 'MISSED'} {slowest:,.0f} events/s at least (wanted: {SPEED:,})\n"
        f"{'holds ' if flat else 'MISSED'} {growth:.2f} x the memory for {arguments.times} x the log"
        f" (at most {GROWTH:g})\n"
    )
    return 0 if fast and flat else 1


def measured(events: int) -> tuple[float, float]:
    """Make a log, run the stage over it; events per second of wall time, and peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = make_log(DirectoryStore(root / "store"), events)
        command = [sys.executable, "-m", "bench.snapshot", "--measure", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        wall, cpu, memory, kept = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(
        f"{events:,} events ({size / 1e6:,.0f} MB stored) -> {kept:,} rows: {events / wall:,.0f} events/s in "
        f"{wall:.1f} s, {events / cpu:,.0f} per CPU second, {memory:,.0f} MiB at most\n"
    )
    sys.stdout.flush()
    return events / wall, memory


if __name__ == "__main__":
    sys.exit(main())
