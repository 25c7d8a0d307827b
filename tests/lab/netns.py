"""The lab's network namespace: one bridge device with the node's address, a default route, forwarding on.

Decides nothing about who runs inside. `nsenter --net` is used and never `ip netns exec`, which remounts /sys and
hides the cgroups from kubelet. Called by `tests.lab.cluster`.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.progress import run
from tests.lab.settings import NODE_DEVICE, NODE_IP, LabError

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def enter_prefix(netns: Path) -> list[str]:
    """Words to put before a command so that it runs inside the namespace."""
    return ["nsenter", f"--net={netns}", "--"]


def create(netns: Path) -> None:
    """Make the namespace and its device; a complete one is left as it is."""
    inside = enter_prefix(netns)
    if netns.exists():
        if NODE_IP in run([*inside, "ip", "-o", "-4", "address"], check=False):
            return
        delete(netns)
    run(["ip", "netns", "add", netns.name])
    run([*inside, "ip", "link", "set", "lo", "up"])
    # Devices of type dummy are missing from some kernels; a bridge without ports carries an address as well.
    run([*inside, "ip", "link", "add", NODE_DEVICE, "type", "bridge"])
    run([*inside, "ip", "address", "add", f"{NODE_IP}/24", "dev", NODE_DEVICE])
    run([*inside, "ip", "link", "set", NODE_DEVICE, "up"])
    # kubelet and the API server pick their address by the default route; nothing answers behind it.
    run([*inside, "ip", "route", "add", "default", "dev", NODE_DEVICE])
    run([*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1"])


def delete(netns: Path) -> None:
    """Remove the namespace if it exists; its devices go with the last process inside."""
    if netns.exists():
        run(["ip", "netns", "delete", netns.name])


def members(netns: Path) -> list[int]:
    """Return the pids of all processes inside the namespace, this process and its parents left out."""
    if not netns.exists():
        return []
    wanted = netns.stat()
    mine = _own_line()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in mine:
            continue
        try:
            seen = (entry / "ns/net").stat()
        except OSError:  # it ended meanwhile
            continue
        if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(int(entry.name))
    return found


def _own_line() -> set[int]:
    """This process and all its ancestors."""
    line, pid = set(), os.getpid()
    while pid > 0 and pid not in line:
        line.add(pid)
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            break
        pid = int(fields[1])
    return line


@contextmanager
def inside(netns: Path) -> Iterator[None]:
    """Move the calling thread, and threads it starts, into the namespace for the time of the block.

    Lets a test use an ordinary HTTP or S3 client against pods and services. Sockets opened inside stay inside.
    """
    before = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    try:
        target = os.open(netns, os.O_RDONLY)
    except FileNotFoundError as error:
        os.close(before)
        raise LabError(f"network namespace {netns.name!r} does not exist; run `python -m tests.lab up`") from error
    try:
        _setns(target)
        try:
            yield
        finally:
            _setns(before)
    finally:
        os.close(target)
        os.close(before)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise LabError(f"setns failed: {os.strerror(code)}; the lab needs root")
