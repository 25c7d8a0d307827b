"""Breaks the code on purpose, one small place at a time, and asserts that a test notices.

    python scripts/mutate.py [--jobs 2] [--only WORDS] [tests/mutants/*.toml]

A mutant is a committed row: a file, a text that occurs in it exactly once, what it becomes, and the tests that must
fail. Each runs in a copy of its source root, in a process forked after the slow imports; the work tree is never
touched. Exit 0: all were killed. 1: one survived, or its tests could not even start. 2: a row is stale.
Called by `make mutate` and by tests/recipes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
PAUSE = 0.02
"""Seconds between looks at the running processes."""

SECONDS = 300
"""A mutant that runs longer hangs, which counts as noticed."""
PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout", "_hypothesis_pytestplugin")
"""Plugins that the configuration and the tests need; finding and importing the rest takes longer than most tests."""
PRELOAD = (
    "hypothesis",
    "numpy",
    "peft",
    "pydantic",
    "pytest",
    "safetensors.torch",
    "structlog",
    "torch",
    "transformers.models.llama.modeling_llama",
    "yaml",
)
"""Imported once before forking: they take longer than most tests, and hold no code of ours."""

KILLED, SURVIVED, HUNG = 1, 0, -1
"""pytest's exit codes for failed and passed tests, and ours for a hang; any other means that no test ran."""

WORDS = {KILLED: "killed", SURVIVED: "SURVIVED", HUNG: "hung"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One way to break the code."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def source_root(self) -> str:
        """The first part of its path, such as `jobs`."""
        return self.file.split("/")[0]


class StaleError(Exception):
    """A row that does not fit the code any more."""


def read(files: Sequence[Path], root: Path) -> list[Mutant]:
    """Read and check the rows.

    Raises:
        StaleError: a name is used twice, a text does not occur exactly once, or a change changes nothing.
    """
    mutants = []
    for file in files:
        rows = tomllib.loads(file.read_text())["mutant"]
        mutants += [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in rows]
    names = [mutant.name for mutant in mutants]
    for mutant in mutants:
        count = (root / mutant.file).read_text().count(mutant.old)
        if count != 1:
            raise StaleError(f"{mutant.name}: its text occurs {count} times in {mutant.file}; quote more or less of it")
        if mutant.old == mutant.new:
            raise StaleError(f"{mutant.name}: old and new are equal; change something")
        if names.count(mutant.name) > 1:
            raise StaleError(f"{mutant.name}: two rows have this name; rename one")
        for test in mutant.tests:
            if not (root / test.split("::")[0]).exists():
                raise StaleError(f"{mutant.name}: {test} does not exist; name the tests that must fail")
    return mutants


class Trial:
    """One copy of a source root, perhaps with a mutant in it, and the forked process that tests it."""

    def __init__(self, root: Path, source_root: str, tests: Sequence[str], mutant: Mutant | None = None) -> None:
        self.mutant = mutant
        self._folder = tempfile.TemporaryDirectory(prefix="mutant-")
        copy = Path(self._folder.name) / source_root
        shutil.copytree(root / source_root, copy)  # compiled files, too: all but the mutant's are still right
        if mutant is not None:
            target = Path(self._folder.name) / mutant.file
            target.write_text(target.read_text().replace(mutant.old, mutant.new))
            for compiled in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
                compiled.unlink()
        self._log = Path(self._folder.name) / "log"
        self._deadline = time.monotonic() + SECONDS
        self._pid = os.fork()
        if self._pid == 0:
            _test_in_child(root, copy, tests, self._log)

    def poll(self) -> int | None:
        """pytest's exit code once it ended, HUNG once it took too long, None before."""
        done, status = os.waitpid(self._pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() < self._deadline:
            return None
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        return HUNG

    def close(self) -> str:
        """Remove the copy; returns the end of what the tests printed."""
        printed = self._log.read_text()[-3000:] if self._log.exists() else ""
        self._folder.cleanup()
        return printed


def _test_in_child(root: Path, copy: Path, tests: Sequence[str], log: Path) -> NoReturn:
    """Run pytest on the copy and end this process with its exit code."""
    code = 70
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(root)
        sys.path.insert(0, str(copy))
        sys.dont_write_bytecode = True
        pytest = importlib.import_module("pytest")
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        plugins = [word for name in ("no:cacheprovider", *PLUGINS) for word in ("-p", name)]
        code = int(pytest.main(["-x", "-q", "--no-header", *plugins, *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def check_unbroken(root: Path, mutants: Sequence[Mutant]) -> None:
    """The same tests pass on an unbroken copy, or no kill would mean anything.

    Raises:
        StaleError: they do not.
    """
    for source_root in sorted({mutant.source_root for mutant in mutants}):
        tests = sorted({test for mutant in mutants if mutant.source_root == source_root for test in mutant.tests})
        trial = Trial(root, source_root, tests)
        while (code := trial.poll()) is None:
            time.sleep(PAUSE)
        printed = trial.close()
        if code != SURVIVED:
            print(printed)
            raise StaleError(f"the tests end with {code} on the unbroken code of {source_root}/; mend them first")


def try_all(root: Path, mutants: Sequence[Mutant], jobs: int) -> list[tuple[Mutant, int, str]]:
    """Each mutant with its exit code and what its tests printed, in the order in which they ended."""
    waiting, running, ended = list(mutants), [], []
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop(0)
            running.append((mutant, Trial(root, mutant.source_root, mutant.tests, mutant)))
        for mutant, trial in list(running):
            if (code := trial.poll()) is not None:
                running.remove((mutant, trial))
                ended.append((mutant, code, trial.close()))
                print(f"{len(ended)}/{len(mutants)} {WORDS.get(code, 'no test ran')}: {mutant.name}", flush=True)
        time.sleep(PAUSE)
    return ended


def report(outcomes: Sequence[tuple[Mutant, int, str]]) -> int:
    """Print what was not noticed; 1 if anything was not."""
    failures = 0
    for mutant, code, printed in outcomes:
        if code in (KILLED, HUNG):
            continue
        failures += 1
        if code == SURVIVED:
            print(f"SURVIVED  {mutant.name}: {mutant.file}: {mutant.old.strip()!r} -> {mutant.new.strip()!r}")
        else:
            print(f"NO TEST RAN (exit {code})  {mutant.name}:\n{printed}")
    hung = sum(code == HUNG for _, code, _ in outcomes)
    print(f"{len(outcomes)} mutants, {len(outcomes) - failures} killed ({hung} by hanging), {failures} not")
    return 1 if failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="rows to run; default: all of tests/mutants")
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--jobs", type=int, default=max(1, len(os.sched_getaffinity(0))))
    parser.add_argument("--preload", default=",".join(PRELOAD), help="modules imported before forking")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    wanted = parser.parse_args()
    root = wanted.root.resolve()
    os.environ["OMP_NUM_THREADS"] = "1"
    for module in wanted.preload.split(","):
        importlib.import_module(module)
    try:
        files = wanted.files or sorted((root / "tests" / "mutants").glob("*.toml"))
        mutants = [mutant for mutant in read(files, root) if wanted.only in mutant.name]
        if not mutants:
            raise StaleError("no mutants; name files that hold some")
        check_unbroken(root, mutants)
        return report(try_all(root, mutants, wanted.jobs))
    except StaleError as error:
        print(f"mutate: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
