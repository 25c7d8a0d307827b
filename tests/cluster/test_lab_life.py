"""Down leaves nothing, up is repeatable, and a lab that crashed is cleaned by either."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.pods import shell_pod
from tests.lab import cgroups, components, netns, processes, teardown
from tests.lab.cluster import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def own_lab() -> Iterator[Lab]:
    """A second lab beside the session's: labs do not see each other."""
    lab = Lab(f"lab-life-{os.getpid()}")
    yield lab
    lab.down()
    lab.forget_images()


def run_a_pod(lab: Lab) -> None:
    lab.apply(shell_pod("left-behind", "sleep 600"))
    lab.kubectl("wait", "--for=condition=Ready", "pod/left-behind", "--timeout=60s")


def test_down_leaves_no_process_mount_namespace_or_cgroup_though_a_pod_was_running(own_lab: Lab) -> None:
    own_lab.up()
    run_a_pod(own_lab)
    pids = [record.pid for name in components.ALL if (record := processes.read(own_lab.paths, name)) is not None]
    pods = cgroups.members(own_lab.paths.name)
    assert len(pids) == len(components.ALL)
    assert pods
    own_lab.down()
    assert teardown.traces(own_lab.paths) == []
    assert [pid for pid in [*pids, *pods] if os.path.exists(f"/proc/{pid}/ns/net")] == []
    assert str(own_lab.paths.state) not in Path("/proc/self/mounts").read_text()


def test_up_is_repeatable_and_cleans_a_lab_whose_every_process_was_killed(own_lab: Lab) -> None:
    own_lab.up()
    first = processes.read(own_lab.paths, "kube-apiserver")
    own_lab.up()
    assert processes.read(own_lab.paths, "kube-apiserver") == first
    run_a_pod(own_lab)
    for pid in netns.members(own_lab.paths.netns):
        os.kill(pid, signal.SIGKILL)
    assert not own_lab.is_up()
    own_lab.up()
    assert own_lab.is_up()
    assert own_lab.kubectl("get", "pods", "-o", "name").strip() == ""
    assert own_lab.node_condition("Ready") == "True"


def test_a_frozen_component_is_silent_until_it_is_thawed(own_lab: Lab) -> None:
    own_lab.up()
    own_lab.freeze("kube-apiserver")
    assert own_lab.component_state("kube-apiserver") == "starting"
    own_lab.thaw("kube-apiserver")
    own_lab.wait_for(lambda: own_lab.component_state("kube-apiserver") == "up", "the API server to answer again", 30)


def test_down_of_a_lab_that_never_was_is_fine(own_lab: Lab) -> None:
    own_lab.down()
    assert teardown.traces(own_lab.paths) == []
