"""Removing a lab without a trace, whatever state it is in.

Works from what is really there (records, the lab's cgroup, its namespace, the mount table), not from what should be,
so it also cleans after a crash. Only things that carry the lab's own name or path are touched. The cache stays.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab import cgroups, netns, processes
from tests.lab.progress import run
from tests.lab.settings import LabError, Paths

# First whoever would start something anew, then the pods, then what they stand on.
_RESTARTERS = ("kubelet", "kube-controller-manager", "kube-scheduler")
_LAST = ("kube-apiserver", "etcd")


def traces(paths: Paths) -> list[str]:
    """Return what is left of the lab on this machine, in words; empty when nothing is."""
    found = []
    pids = sorted({*netns.members(paths.netns), *cgroups.members(paths.name)})
    if pids:
        found.append(f"processes {pids}")
    if points := _mounts(paths):
        found.append(f"mounts {[str(point) for point in points]}")
    if paths.netns.exists():
        found.append(f"network namespace {paths.netns}")
    if cgroups.exists(paths.name):
        found.append(f"cgroup {paths.name}")
    if paths.state.exists():
        found.append(f"directory {paths.state}")
    return found


def clean(paths: Paths) -> None:
    """Stop and remove everything that belongs to the lab.

    Raises:
        LabError: something could not be removed; the message names it.
    """
    _stop(paths, _RESTARTERS)
    _remove_containers(paths)
    processes.kill_all(cgroups.members(paths.name))
    _stop(paths, [name for name in processes.recorded(paths) if name not in _LAST])
    _stop(paths, _LAST)
    _end_members(paths)
    _unmount(paths)
    netns.delete(paths.netns)
    cgroups.remove(paths.name)
    _remove_log_links(paths)
    shutil.rmtree(paths.state, ignore_errors=True)
    if left := traces(paths):
        raise LabError(f"lab {paths.name!r} could not be removed completely: {'; '.join(left)}")


def _stop(paths: Paths, names: Sequence[str]) -> None:
    """Stop components together; their data goes too, so nobody gets long to say goodbye."""
    records = [record for name in names if (record := processes.read(paths, name)) is not None]
    for record in records:
        processes.send(record, signal.SIGCONT)  # a frozen process would sleep through SIGTERM
        processes.send(record, signal.SIGTERM)
    for record in records:
        processes.stop(paths, record.name, patience_seconds=2.0)


def _remove_containers(paths: Paths) -> None:
    """Let containerd end tasks and forget containers, so that the next start finds images only."""
    if not processes.alive(processes.read(paths, "containerd")):
        return
    ctr = ["ctr", "-a", str(paths.containerd_socket), "-n", "k8s.io"]
    containers = run([*ctr, "containers", "list", "-q"], check=False, timeout_seconds=60).split()
    processes.kill_all(cgroups.members(paths.name))
    for container in containers:
        run([*ctr, "tasks", "delete", "-f", container], check=False, timeout_seconds=60)
    if containers:
        run([*ctr, "containers", "delete", *containers], check=False, timeout_seconds=120)


def _end_members(paths: Paths) -> None:
    """End what has no record but is the lab's: shims, and anything left in its namespace or cgroup."""
    processes.kill_all(_shims(paths))
    processes.kill_all(cgroups.members(paths.name))
    processes.kill_all(netns.members(paths.netns))


def _shims(paths: Paths) -> list[int]:
    """containerd's shims name their containerd by its socket."""
    wanted = str(paths.containerd_socket)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if words[0].endswith("containerd-shim-runc-v2") and wanted in words:
                found.append(int(entry.name))
    return found


def _mounts(paths: Paths) -> list[Path]:
    """Mount points below the lab's state or its containerd root, deepest first."""
    roots = (f"{paths.state}/", f"{paths.containerd_root}/")
    points = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        point = line.split()[1].encode().decode("unicode_escape")
        if point.startswith(roots):
            points.append(Path(point))
    return sorted(points, key=lambda point: -len(point.parts))


def _unmount(paths: Paths) -> None:
    for attempt in range(20):
        points = _mounts(paths)
        if not points:
            return
        for point in points:
            # Lazily on the last attempts: a mount somebody still looks at goes when they are done.
            run(["umount", *(["-l"] if attempt > 15 else []), point], check=False)
        if _mounts(paths):
            time.sleep(0.1)


def _remove_log_links(paths: Paths) -> None:
    """kubelet leaves links to our pod logs in a directory that it does not let us choose."""
    links = Path("/var/log/containers")
    if not links.is_dir():
        return
    for link in links.iterdir():
        if link.is_symlink() and os.readlink(link).startswith(f"{paths.state}/"):
            link.unlink()
