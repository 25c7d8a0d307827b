"""What benches share about the processes that they compare: started, waited for, ended, and how much CPU they took.

Decides nothing about load or targets. Used by the benches that measure servers.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

END_SECONDS = 60.0
_PORTS = range(11_000, 20_000)


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return different loopback ports that nobody listens on now.

    They are none that the kernel gives to whoever asks for any port: it may take a server a minute until it listens.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):  # two that start at the same moment must not find the same ones
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports on loopback")


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far, those of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_ready(
    url: str, process: subprocess.Popen[bytes], *, seconds: float, log: Path | None = None, path: str = "/readyz"
) -> None:
    """Wait until a server answers well.

    Args:
        url: of the server.
        process: that is to serve it.
        seconds: it may take.
        log: what it prints goes there, and its end into the error; None = to the terminal.
        path: that is asked; `/healthz` where the store may be away.

    Raises:
        RuntimeError: it ended, or was not ready in time.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{url}{path}", timeout=10).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > end:
                said = error.read().decode() if isinstance(error, urllib.error.HTTPError) else str(error)
                printed = f"\n{log.read_text()[-3000:]}" if log else ""
                raise RuntimeError(f"{url} is not ready: {said}{printed}") from error
        time.sleep(0.05)


@contextmanager
def serving(
    command: Sequence[str], port: int, *, environment: Mapping[str, str], seconds: float = 300.0
) -> Iterator[tuple[str, int]]:
    """Start a server on a loopback port; yields its address and process id when it is ready, and ends it.

    Args:
        command: that listens on the port.
        port: of `free_port`.
        environment: beside this process's own.
        seconds: it may take until it is ready.
    """
    process = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, process, seconds=seconds)
        yield url, process.pid
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it may wait for answers that nobody reads any more
            process.kill()
            process.wait()
