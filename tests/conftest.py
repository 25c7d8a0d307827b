"""What every tier shares: when a cluster, a GPU or real time is available, and what a skip means in CI.

A test marked `cluster` needs root and network namespaces. On a machine without them it is skipped with the
reason; with CI=true such a skip, wherever it comes from, is a failure, because CI must prove those promises.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

# Like hypothesis' own profile of CI machines in this alone: how fast the machine is fails no test.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if os.environ.get("CI", "").lower() not in {"1", "true"}:
    settings.load_profile("shared machine")

CI_TIME_SCALE = 0.05  # time-based faults run 20 times faster than in production; `make soak` sets 1


@functools.cache
def cluster_unavailable() -> str | None:
    """Say why the one-node cluster cannot run here, or None when it can."""
    if sys.platform != "linux":
        return f"the one-node cluster needs Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "the one-node cluster needs root (network namespaces, containerd)"
    if shutil.which("apt-get") is None:
        return "the one-node cluster needs a Debian-like system: apt-get is not found"
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--net", "true"], capture_output=True, check=False).returncode:
        return "this machine does not allow new network namespaces (unshare --net failed)"
    return None


@functools.cache
def gpu_unavailable() -> str | None:
    """Say why no CUDA device can be used, or None when one can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed (extra `jobs`)"
    return None if torch.cuda.is_available() else "no CUDA device"


def in_ci() -> bool:
    """Tell whether a skipped cluster test must count as a failure."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.fixture(scope="session")
def time_scale() -> float:
    """Factor on every real-time setting of a timed test: 0.05 in `make test`, 1 in `make soak`."""
    return float(os.environ.get("RATCHET_TEST_TIME_SCALE", CI_TIME_SCALE))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Give torch one thread: with matrices this small others only wait for each other, longest on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _logs_as_found() -> Iterator[None]:
    """Take away what a test put on the root logger and into structlog.

    Programs set up their logs on the standard output of the moment, which in a test is closed when the test ends; a
    later test's log line, from any thread, would then print a traceback into that test's output.
    """
    root = logging.getLogger()
    before, level = set(root.handlers), root.level
    configured = structlog.get_config() if structlog.is_configured() else None
    yield
    structlog.configure(**configured) if configured else structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    for handler in [each for each in root.handlers if type(each) is logging.StreamHandler and each not in before]:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark users of `time_scale` as timed, so that `make soak` finds them, and skip what cannot run here."""
    for item in items:
        if "time_scale" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timed)
        for marker, why_not in (("cluster", cluster_unavailable), ("gpu", gpu_unavailable)):
            if item.get_closest_marker(marker) and (reason := why_not()):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, turn the skip of a cluster test into a failure that keeps the reason."""
    report = yield
    if in_ci() and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("cluster"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} may not be skipped in CI. {reason}"
    return report
