"""A tutorial as a person types it: its blocks into one shell, what is printed held against what the page shows.

Used by the tests of the tiers in which a page can be typed: most on any machine, `ON_A_CLUSTER` on the lab.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from tests.tools.files import ROOT
from tests.unit.test_docs import Block, blocks_of

FOLDER = ROOT / "docs" / "tutorials"
ON_A_CLUSTER = frozenset({"from-feedback-to-promotion"})
"""Pages that tests/e2e types; every other one is typed by tests/recipes."""
COMMANDS = {"ratchet": "from ratchet_cli.main import app; app()"}
UNSET = ("RATCHET_HOME", "RATCHET_STORE", "RATCHET_LOG_LEVEL")
_MARK = "--- the next block ---"
_NUMBER = re.compile(r"[-+]?\d[\d,.:e-]*")
_DIGEST = re.compile(r"\b[0-9a-f]{12,}\b")


class Step(NamedTuple):
    """A block that is typed, and what the page shows of its output."""

    block: Block
    shown: str


def steps_of(page: Path) -> list[Step]:
    """The bash blocks of a page, each with the text block that follows it; Python blocks name the file they are."""
    found: list[Step] = []
    for block in blocks_of(str(page.relative_to(ROOT)), page.read_text()):
        if block.language == "python":
            name = re.match(r"# (\w+\.py)\n", block.text)
            assert name is not None, f"{block}: a Python block begins with its file's name"
            found.append(Step(Block(block.page, block.line, "bash", f"cat > {name[1]} <<'END'\n{block.text}END\n"), ""))
        elif block.language == "bash":
            found.append(Step(block, ""))
        elif block.language == "text":
            assert found, f"{block}: output of nothing"
            found[-1] = found[-1]._replace(shown=block.text)
    return found


def masked(line: str) -> str:
    """A line without what differs from machine to machine: numbers, digests, widths of columns."""
    return " ".join(_NUMBER.sub("#", _DIGEST.sub("#", line)).split())


def missing(shown: str, printed: str) -> list[str]:
    """The lines shown that were not printed, in this order; `…` stands for anything."""
    lines, place, absent = [masked(line) for line in printed.splitlines()], 0, []
    for line in filter(None, (masked(line) for line in shown.splitlines())):
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("…")))
        later = next((i for i in range(place, len(lines)) if pattern.fullmatch(lines[i])), None)
        if later is None:
            absent.append(line)
        else:
            place = later + 1
    return absent


class Typist:
    """Types a page into one shell that stops at the first failure; what the shell started ends with it.

    Args:
        page: the page.
        folder: where the shell works.
        environment: its variables; `ratchet` and this Python come first on the PATH.
        enter: words before the shell's own, as of another network.
    """

    def __init__(self, page: Path, folder: Path, environment: Mapping[str, str], *, enter: Sequence[str] = ()) -> None:
        self.steps, self.work = steps_of(page), folder / "work"
        self.printed: list[str] = []
        """What each block printed that was typed."""
        self.work.mkdir()
        self._page, bin_folder = page, folder / "bin"
        bin_folder.mkdir()
        for name, code in COMMANDS.items():
            (bin_folder / name).write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
            (bin_folder / name).chmod(0o755)
        path = f"{bin_folder}:{Path(sys.executable).parent}:{environment['PATH']}"
        self._environment = dict(environment) | {"PATH": path, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
        self._enter = enter

    def __enter__(self) -> Self:
        """Start the shell; it waits for a line of file descriptor 3 before each block."""
        reads, self._go = os.pipe()
        script = "trap 'kill $(jobs -p) 2> /dev/null' EXIT\n"  # or whoever reads would wait for what is left
        script += "".join(f"read -r _ <&{reads}\n{step.block.text}\necho '{_MARK}'\n" for step in self.steps)
        self._shell = subprocess.Popen(
            [*self._enter, "bash", "-euo", "pipefail", "-c", script],
            cwd=self.work,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=(reads,),
            start_new_session=True,
        )
        os.close(reads)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._go)
        self._end()
        self._shell.wait()
        assert self._shell.stdout is not None
        self._shell.stdout.close()

    def type_until(self, heading: str = "", *, patience_seconds: float) -> dict[str, list[str]]:
        """Type the blocks before a heading that are not typed yet.

        Args:
            heading: the line, as it stands on the page; empty = to the page's end.
            patience_seconds: for all of them.

        Returns:
            The lines that the page shows and no block printed, by block.
        """
        lines = self._page.read_text().splitlines()
        last = lines.index(heading) + 1 if heading else len(lines)
        alarm = threading.Timer(patience_seconds, self._end)
        alarm.start()
        try:
            return {
                str(step.block): absent
                for step in self.steps[len(self.printed) :]
                if step.block.line < last and (absent := missing(step.shown, self._type(step)))
            }
        finally:
            alarm.cancel()

    def _type(self, step: Step) -> str:
        assert self._shell.stdout is not None
        os.write(self._go, b"\n")
        seen = ""
        for line in self._shell.stdout:
            if line == f"{_MARK}\n":
                self.printed.append(seen)
                return seen
            seen += line
        raise AssertionError(f"{step.block} ended with {self._shell.wait()}:\n{seen}")

    def _end(self) -> None:
        with suppress(ProcessLookupError):  # everything has ended by itself
            os.killpg(self._shell.pid, signal.SIGKILL)
