"""The lab's own cgroup: kubelet puts every pod below it, so every container process can be found and ended.

Works on cgroup v1 (one directory per controller), v2, and machines that mount both. Called by `tests.lab.cluster`.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.lab.settings import LabError


def _hierarchies() -> list[tuple[Path, bool]]:
    """Mounted cgroup hierarchies as (mount point, is cgroup v2)."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            found.append((Path(point), kind == "cgroup2"))
    if not found:
        raise LabError("no cgroup file system is mounted; kubelet cannot run on this machine")
    return found


def create(name: str) -> None:
    """Make the cgroup in every hierarchy."""
    for mount, unified in _hierarchies():
        if unified and (mount / "cgroup.controllers").exists():
            wanted = (mount / "cgroup.controllers").read_text().split()
            _enable(mount, wanted)
            (mount / name).mkdir(exist_ok=True)
            _enable(mount / name, wanted)
            continue
        (mount / name).mkdir(exist_ok=True)
        # A new v1 cpuset is empty and refuses processes until it has CPUs and memory nodes.
        for key in ("cpuset.cpus", "cpuset.mems"):
            source, target = mount / key, mount / name / key
            if source.exists() and not target.read_text().strip():
                target.write_text(source.read_text())


def _enable(directory: Path, controllers: list[str]) -> None:
    if controllers:
        (directory / "cgroup.subtree_control").write_text(" ".join(f"+{one}" for one in controllers))


def members(name: str) -> list[int]:
    """Return the pids of all processes in the cgroup and below it."""
    pids: set[int] = set()
    for mount, _ in _hierarchies():
        for listing in (mount / name).rglob("cgroup.procs"):
            try:
                pids.update(int(line) for line in listing.read_text().split())
            except OSError:  # removed meanwhile
                continue
    return sorted(pid for pid in pids if pid > 0)


def remove(name: str) -> None:
    """Remove the empty cgroup and everything below it.

    Raises:
        LabError: a directory stayed busy for 10 s; its processes were not ended first.
    """
    for mount, _ in _hierarchies():
        top = mount / name
        if not top.is_dir():
            continue
        below = sorted((path for path in top.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        for directory in [*below, top]:
            _remove_one(directory)


def _remove_one(directory: Path) -> None:
    deadline = time.monotonic() + 10.0
    while directory.is_dir():
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise LabError(f"cgroup {directory} cannot be removed: {error.strerror}") from error
            time.sleep(0.05)


def exists(name: str) -> bool:
    """Tell whether any hierarchy still has the cgroup."""
    return any((mount / name).is_dir() for mount, _ in _hierarchies())
