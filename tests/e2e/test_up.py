"""`ratchet up` as the README shows it: its commands, typed in order, against one process."""

from __future__ import annotations

import json
import re
import shlex
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest

from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.e2e.shell import PATIENCE_SECONDS, Shell
from tests.gateway_app import read_log
from tests.tools.files import ROOT

SECTION = "## Feedback on a laptop\n"


def commands_of_the_readme() -> list[list[str]]:
    """The section's commands, split as a shell would."""
    section = (ROOT / "README.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    lines = [line for block in re.findall(r"```\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


@dataclass
class Up:
    """A running `ratchet up`."""

    shell: Shell
    process: Popen[str]
    url: str

    def type(self, words: list[str]) -> str:
        """Run one command of the page against this process's port; returns what it prints."""
        if words[0] == "ratchet":
            return self.shell(*words[1:])
        assert words[0] == "curl"
        body = words[words.index("--json") + 1].encode() if "--json" in words else None
        address = words[-1].replace("http://127.0.0.1:8000", self.url)
        request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as refused:
            return f"{refused.code} {refused.read().decode()}"

    def press_ctrl_c(self) -> str:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0, err
        return out


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """The first command of the page, in a home of its own and on a free port."""
    shell = Shell(ROOT)
    shell.environment |= {"RATCHET_HOME": str(tmp_path / "home")}
    first = commands_of_the_readme()[0]
    assert first[:2] == ["ratchet", "up"]
    process = shell.start(*first[1:], "--port", "0")
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"up +(http://127\.0\.0\.1:\d+)", line):
                shell.environment |= {"RATCHET_GATEWAY": found[1]}
                yield Up(shell, process, found[1])
                break
        else:
            raise AssertionError(process.communicate()[1])
    finally:
        process.kill()
        process.communicate()


def test_the_readmes_quick_start_works_as_written_and_ctrl_c_keeps_every_event(up: Up, tmp_path: Path) -> None:
    _, add, *rest = commands_of_the_readme()
    refused = up.type(rest[2])
    assert json.loads(refused.removeprefix("400 "))["detail"].startswith("Insufficient feedback: 0 samples")
    assert json.loads(up.type(add))["status"] == "stored"
    imported, stats, estimate, versions = (up.type(words) for words in rest)
    assert "12" in imported
    assert "13" in stats
    answer = json.loads(estimate)
    assert (answer["status"], answer["feedbackCount"]) == ("dry_run", 13)
    assert answer["modelConfig"]["learning_rate"] == 0.001
    assert json.loads(versions) == []

    second = up.shell("up", "--port", "0", code=1)
    assert f"in use by process {up.process.pid}" in second
    assert "everything is saved" in up.press_ctrl_c()
    assert len(read_log(DirectoryStore(tmp_path / "home" / "store"), "default")) == 13
