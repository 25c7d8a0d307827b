"""Progress lines with elapsed time, commands with readable failures, and the disk check.

Every slow part of the lab goes through here, so that a person who waits sees what for. Never decides what is run.
"""

from __future__ import annotations

import fcntl
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab.settings import LabError, cache_root

_START = time.monotonic()
_BEAT_SECONDS = 15.0


def say(text: str) -> None:
    """Print one line with the seconds since the lab's code was loaded."""
    print(f"lab [{time.monotonic() - _START:6.1f} s] {text}", flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step, say every 15 s that it is still running, and how long it took."""
    say(title)
    started = time.monotonic()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT_SECONDS):
            say(f"  {title}: still running, {time.monotonic() - started:.0f} s")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    say(f"  {title}: {time.monotonic() - started:.1f} s")


def run(
    command: Sequence[str | Path],
    *,
    input_text: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_seconds: float = 600.0,
    check: bool = True,
) -> str:
    """Run a command and return its standard output.

    Raises:
        LabError: it failed or ran past the timeout; the message holds the command and its last output.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=input_text,
            env=env,
            cwd=cwd,
            timeout=timeout_seconds,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(
            f"command {words[0]!r} not found; run `python -m tests.lab up` once, it installs what is missing"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{shlex.join(words)}` did not end within {timeout_seconds:.0f} s") from error
    if check and done.returncode != 0:
        tail = (done.stderr or done.stdout)[-4000:].strip()
        raise LabError(f"`{shlex.join(words)}` ended with {done.returncode}:\n{tail}")
    return done.stdout


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time do what is called `name` with this cache; the others wait."""
    directory = cache_root() / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / name).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def free_gib(path: Path) -> float:
    """Free space, GiB, of the file system that holds `path` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / 2**30


def require_disk(path: Path, need_gib: float, what: str) -> None:
    """Stop before a heavy step that would run out of disk half-way.

    Raises:
        LabError: less than `need_gib` is free where `path` is.
    """
    have = free_gib(path)
    if have < need_gib:
        raise LabError(
            f"{what} needs {need_gib:.0f} GiB free at {path}, found {have:.1f}; "
            "free some space, or set RATCHET_CACHE to another disk"
        )
