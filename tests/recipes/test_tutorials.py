"""Every tutorial, typed from top to bottom into one shell: each command works, and prints what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.tools.files import ROOT
from tests.unit.test_docs import Block, blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
COMMANDS = {"ratchet": "from ratchet_cli.main import app; app()"}
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


def typed(steps: list[Step], folder: Path) -> list[str]:
    """Run all blocks in one shell that stops at the first failure; returns what each printed."""
    mark = "--- the next block ---"
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, code in COMMANDS.items():
        (bin_folder / name).write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
        (bin_folder / name).chmod(0o755)
    work = folder / "work"
    work.mkdir()
    unset = ("RATCHET_HOME", "RATCHET_STORE", "RATCHET_LOG_LEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    path = f"{bin_folder}:{Path(sys.executable).parent}:{environment['PATH']}"
    script = f"\necho '{mark}'\n".join(step.block.text for step in steps)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=work,
        env=environment | {"PATH": path, "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    printed = done.stdout.split(f"{mark}\n")
    at = steps[min(len(printed), len(steps)) - 1].block
    assert done.returncode == 0, f"{at} ended with {done.returncode}:\n{printed[-1]}"
    return printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    steps = steps_of(page)
    assert sum(bool(step.shown) for step in steps) >= 4
    printed = typed(steps, tmp_path)
    assert len(printed) == len(steps)
    wrong = {
        str(step.block): absent
        for step, seen in zip(steps, printed, strict=True)
        if (absent := missing(step.shown, seen))
    }
    assert wrong == {}, "\n".join(printed)


def test_output_that_a_page_only_claims_is_noticed() -> None:
    printed = "rl  0.912 better\nversion 2 published at /tmp/x/1-abcdef0123456\n"
    assert missing("rl 0.4 better\nversion 1 published at …\n", printed) == []
    assert missing("rl 0.4 worse\n", printed) == ["rl # worse"]
    assert missing("version 2 published at …\nrl 0.9 better\n", printed) == ["rl # better"], "in this order"
