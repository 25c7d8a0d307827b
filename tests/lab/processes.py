"""Long-running processes of a lab: started inside its namespace, recorded by pid and start time, stopped by record.

A pid alone may have been given to somebody else since, so a record holds the process' start time as well and a
signal is sent only when both agree. Decides nothing about what is started. Called by `tests.lab.cluster`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.settings import LabError, Paths


@dataclass(frozen=True)
class Record:
    """One started process."""

    name: str
    pid: int
    started_ticks: int
    command: tuple[str, ...]


def start(paths: Paths, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Record:
    """Start a process inside the lab's namespace with its output in the lab's log directory."""
    words = [str(word) for word in command]
    paths.logs.mkdir(parents=True, exist_ok=True)
    paths.pids.mkdir(parents=True, exist_ok=True)
    log = str(paths.logs / f"{name}.log")
    # A detached process in a session of its own: it outlives this one, whoever stops it goes by the record.
    pid = os.posix_spawnp(
        "nsenter",
        ["nsenter", f"--net={paths.netns}", f"--wd={paths.state}", "--", *words],
        {**os.environ, **(env or {})},
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    ticks = _start_ticks(pid)
    if ticks is None:
        raise LabError(f"{name} ended at once; its log: {log}")
    record = Record(name, pid, ticks, tuple(words))
    temporary = paths.pids / f".{name}.tmp"
    temporary.write_text(json.dumps(record.__dict__))
    temporary.rename(paths.pids / f"{name}.json")
    return record


def read(paths: Paths, name: str) -> Record | None:
    """Return the record of a component, None when it was never started or was stopped."""
    try:
        raw = json.loads((paths.pids / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return Record(raw["name"], raw["pid"], raw["started_ticks"], tuple(raw["command"]))


def recorded(paths: Paths) -> list[str]:
    """Return the names of all components that have a record."""
    return sorted(path.stem for path in paths.pids.glob("*.json")) if paths.pids.exists() else []


def alive(record: Record | None) -> bool:
    """Tell whether the recorded process still runs (a zombie does not)."""
    return record is not None and _start_ticks(record.pid) == record.started_ticks


def send(record: Record, number: signal.Signals) -> None:
    """Send a signal to the recorded process, to nobody else."""
    if alive(record):
        os.kill(record.pid, number)


def stop(paths: Paths, name: str, *, number: signal.Signals = signal.SIGTERM, patience_seconds: float = 8.0) -> None:
    """Stop a component and wait until it is gone; SIGKILL after the patience. Unknown names are fine."""
    record = read(paths, name)
    if record is not None:
        send(record, number)
        if not _wait_gone(record, patience_seconds):
            send(record, signal.SIGKILL)
            if not _wait_gone(record, 10.0):
                raise LabError(f"{name} (pid {record.pid}) survived SIGKILL for 10 s; look at /proc/{record.pid}/stack")
    (paths.pids / f"{name}.json").unlink(missing_ok=True)


def kill_all(pids: Sequence[int]) -> None:
    """SIGKILL processes known to be the lab's (found by its namespace or its cgroup) and wait for their end."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + 10.0
    while any(_start_ticks(pid) is not None for pid in pids):
        if time.monotonic() > deadline:
            left = [pid for pid in pids if _start_ticks(pid) is not None]
            raise LabError(f"processes {left} survived SIGKILL for 10 s")
        time.sleep(0.02)


def _wait_gone(record: Record, patience_seconds: float) -> bool:
    deadline = time.monotonic() + patience_seconds
    while alive(record):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _start_ticks(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot; None for a gone one or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] == "Z":
        try:
            os.waitpid(pid, os.WNOHANG)  # ours: clear it away
        except ChildProcessError:
            pass
        return None
    return int(fields[19])
