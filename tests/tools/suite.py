"""The runner behind `make test` and `make verify`: two lanes of phases, a time table, one closing line.

    python -m tests.tools.suite              every check, then every tier
    python -m tests.tools.suite verify       the checks alone
    TIERS="unit world" ...                   these tiers alone (with the checks; TIERS=unit CHECKS=0: without)

The tiers that need a control plane or a cluster wait most of the time (for pods, for faults to pass), the checks and
the other tiers compute. So they run beside each other, each lane in its own order: the waiting lane prints as it goes,
the computing one has a lower priority and prints a phase when it ended.

Every phase runs even when an earlier one failed, so that one CI run shows everything. A few failed tests get a second
try, alone on the machine when both lanes have ended: what fell only because a neighbour held the processor passes then
and is named below the table, what is broken fails again. More than a few are not tried again. Skips and their meaning
in CI are in tests/conftest.py.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.tools.files import ROOT

TIERS = ("unit", "world", "contract", "recipes", "cluster", "e2e")
# Tiers whose tests run programs that are built first (a control plane, helm, the one-node cluster, our images).
BUILT_TIERS = frozenset({"contract", "cluster", "e2e"})
# Tiers that share nothing but the processor: their files are spread over all of its cores, one thread of torch each.
SPREAD_TIERS = frozenset({"unit", "world", "recipes"})
BIN = Path(sys.executable).parent
GIVE_WAY = ("nice", "-n", "5")
"""Before what computes beside the other lane: a test that measures a pause must not wait for a training step."""
FEW = 3
"""Failed tests of a tier that are tried again; where more fail it is not the machine."""

CHECKS: Mapping[str, tuple[str, ...]] = {
    "generated files": (sys.executable, "-m", "tests.tools.generate", "--check"),
    "ruff check": (str(BIN / "ruff"), "check", "--output-format=concise", "."),
    "ruff format": (str(BIN / "ruff"), "format", "--check", "--output-format=concise", "."),
    "mypy": (str(BIN / "mypy"),),
    "import layers": (str(BIN / "lint-imports"), "--no-logo"),
    "spelling": (str(BIN / "codespell"),),
}


@dataclass(frozen=True, slots=True)
class Result:
    """One phase: its name, how long it took, and how many checks or tests ended in which way.

    `again` names what failed first and passed alone.
    """

    name: str
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    again: tuple[str, ...] = ()


def run(title: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None, behind: bool) -> int:
    """Run one phase's command; `behind` = give way to the other lane and print only at the end. Returns its code."""
    if not behind:
        print(f"\n=== {title}", flush=True)
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        code = subprocess.run(
            [*GIVE_WAY, *command], cwd=ROOT, env=environment, check=False, stdout=log, stderr=subprocess.STDOUT
        ).returncode
        log.seek(0)
        print(f"\n\n=== {title}\n{log.read()}", end="", flush=True)
    return code


def run_check(name: str, command: Sequence[str], *, behind: bool = False) -> Result:
    """Run one check; it counts as one passed or one failed."""
    start = time.monotonic()
    code = run(f"{name}: {shlex.join([Path(command[0]).name, *command[1:]])}", command, behind=behind)
    return Result(name, time.monotonic() - start, passed=int(code == 0), failed=int(code != 0))


def read_junit(report: Path) -> tuple[list[str], list[str], int]:
    """Name the test cases that passed and failed in a JUnit report, and count the skipped; errors are failures.

    Raises:
        FileNotFoundError: pytest ended before it could write a report.
    """
    passed, failed, skipped = list[str](), list[str](), 0
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        outcomes = {child.tag for child in case}
        if "skipped" in outcomes and not outcomes & {"failure", "error"}:
            skipped += 1
            continue
        (failed if outcomes & {"failure", "error"} else passed).append(
            f"{case.get('classname', '')}::{case.get('name', '')}"
        )
    return passed, failed, skipped


def run_tier(tier: str, scratch: Path, *, behind: bool = False, again: bool = False) -> Result:
    """Run pytest on one tier, or `again` on what failed of it. A crash, or a tier without a test, is a failure, too."""
    title = f"tests/{tier}{', what failed again' if again else ''}"
    report = scratch / f"{tier}{'-again' if again else ''}.xml"
    start = time.monotonic()
    # lanes share the checkout, so each tier keeps by itself which of its tests failed
    cache = f"cache_dir={scratch / tier}.cache"
    command = [sys.executable, "-m", "pytest", f"tests/{tier}", f"--junitxml={report}", "-q", "-o", cache]
    environment = dict(os.environ)
    if again:
        command += ["--last-failed", "--last-failed-no-failures=none"]
    elif tier in SPREAD_TIERS:
        command += ["-n", "auto", "--maxprocesses", "8", "--dist", "loadfile"]
    if tier in SPREAD_TIERS:
        environment.setdefault("OMP_NUM_THREADS", "1")
    code = run(title, command, environment=environment, behind=behind)
    seconds = time.monotonic() - start
    passed, failed, skipped = read_junit(report) if report.exists() else ([], [], 0)
    if code != 0 and not failed:
        print(f"{title}: pytest ended with code {code} and no failed test (5: it found no test)", flush=True)
        return Result(title, seconds, len(passed), 1, skipped)
    return Result(title, seconds, len(passed), len(failed), skipped, again=tuple(passed) if again else ())


def try_again(results: Sequence[Result], scratch: Path) -> list[Result]:
    """Run the failed tests of each tier once more, one after another; returns the results with what that changed.

    A tier of which more than `FEW` failed, or which crashed without naming a test, keeps its failures.
    """
    after: list[Result] = []
    for result in results:
        tier = result.name.removeprefix("tests/")
        if tier == result.name or not 0 < result.failed <= FEW:
            after.append(result)
            continue
        second = run_tier(tier, scratch, again=True)
        saved = min(second.passed, result.failed) if second.failed + second.passed == result.failed else 0
        after.append(replace(result, passed=result.passed + saved, failed=result.failed - saved))
        after.append(Result(second.name, second.seconds, again=second.again if saved else ()))
    return after


def selected_tiers(wanted: str | None) -> tuple[str, ...]:
    """Parse TIERS: names separated by spaces or commas; empty or unset means all, always in the fixed order.

    Raises:
        ValueError: a name is not a tier.
    """
    names = (wanted or "").replace(",", " ").split()
    if unknown := sorted(set(names) - set(TIERS)):
        raise ValueError(f"TIERS names {', '.join(unknown)}, which is no tier; the tiers are: {' '.join(TIERS)}")
    return tuple(tier for tier in TIERS if not names or tier in names)


Phase = Callable[[], Result]


def lanes(tiers: Sequence[str], scratch: Path, *, checks: bool) -> tuple[list[Phase], list[Phase]]:
    """The phases that wait and those that compute, each in order; where one lane is empty, nothing runs behind."""
    waiting: list[Phase] = []
    if built := [tier for tier in tiers if tier in BUILT_TIERS]:
        waiting.append(partial(run_check, "set-up: binaries and images", (sys.executable, "-m", "tests.tools.prepare")))
        waiting += [partial(run_tier, tier, scratch) for tier in built]
    behind = bool(waiting)
    computing: list[Phase] = []
    if checks:
        computing += [partial(run_check, name, command, behind=behind) for name, command in CHECKS.items()]
    computing += [partial(run_tier, tier, scratch, behind=behind) for tier in tiers if tier not in BUILT_TIERS]
    return waiting, computing


def run_lanes(*phases: Sequence[Phase]) -> list[Result]:
    """Run the lanes beside each other; results come lane after lane."""
    with ThreadPoolExecutor(max_workers=len(phases)) as pool:
        return [result for lane in pool.map(lambda lane: [phase() for phase in lane], phases) for result in lane]


def print_summary(results: Sequence[Result], *, seconds: float) -> None:
    """Print the time table and the closing line; `seconds` from the first start to the last end."""
    table = Table(title="What ran")
    table.add_column("phase")
    for column in ("minutes", "passed", "failed", "skipped"):
        table.add_column(column, justify="right")
    for result in results:
        counts = (result.passed, result.failed, result.skipped)
        style = "red" if result.failed else None
        table.add_row(result.name, f"{result.seconds / 60:.1f}", *(str(count or "") for count in counts), style=style)
    totals = [sum(getattr(result, kind) for result in results) for kind in ("passed", "failed", "skipped")]
    table.add_section()
    table.add_row("all, two lanes at once", f"{seconds / 60:.1f}", *map(str, totals))
    Console(width=90).print(table)
    for name in (name for result in results for name in result.again):
        print(f"failed beside the other lane and passed alone: {name}", flush=True)
    print("{} passed, {} failed, {} skipped".format(*totals), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; 0 when nothing failed, 2 on a usage error."""
    try:
        tiers = selected_tiers(os.environ.get("TIERS"))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    results: list[Result] = []
    if setup := float(os.environ.get("RATCHET_SETUP_SECONDS", "0")):
        results.append(Result("set-up: virtual environment", setup, passed=1))
    start = time.monotonic()
    checks = os.environ.get("CHECKS", "1") != "0"
    with tempfile.TemporaryDirectory(prefix="ratchet-test-") as scratch:
        wanted = () if list(arguments) == ["verify"] else tiers
        results += try_again(run_lanes(*lanes(wanted, Path(scratch), checks=checks)), Path(scratch))
    print_summary(results, seconds=setup + time.monotonic() - start)
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
