"""Process groups that outlive whoever started them: found again by pid and start time, asked to leave, waited for.

Decides nothing about Jobs. Used by `cluster.jobrunner` only; reads /proc, so it is for Linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.2


@dataclass(slots=True)
class ProcessGroup:
    """A live process group; `ours` is None for one that an earlier runner started."""

    pid: int
    start_ticks: int
    ours: asyncio.subprocess.Process | None

    def alive(self) -> bool:
        """Tell whether the group's leader runs (a reused pid does not count)."""
        return start_ticks(self.pid) == self.start_ticks

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; gone already is success."""
        if self.alive() or (self.ours is not None and self.ours.returncode is None):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def wait(self) -> int | None:
        """Return the exit code (128 + n for signal n), or None where only the end can be seen."""
        if self.ours is not None:
            code = await self.ours.wait()
            return 128 - code if code < 0 else code
        while self.alive():
            await asyncio.sleep(_POLL_SECONDS)
        return None


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, or None if it is gone; tells a reused pid apart."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def find_by_pod_uid(pod_uid: str) -> ProcessGroup | None:
    """Find a process that was started but not recorded, by the pod uid in its environment."""
    mark = f"RATCHET_POD_UID={pod_uid}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            ticks = start_ticks(int(entry.name))
            if (
                mark in (entry / "environ").read_bytes().split(b"\0")
                and os.getpgid(int(entry.name)) == int(entry.name)
                and ticks
            ):
                return ProcessGroup(int(entry.name), ticks, None)
    return None


def free_port() -> int:
    """Return a loopback port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_json(path: Path, value: Any) -> None:
    """Replace a file in one step: a reader sees the old or the new content, never half of one."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)
