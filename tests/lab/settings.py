"""Where a lab keeps things, and the addresses everything in it uses.

Decides paths and numbers only; never touches the disk beyond reading the environment. Every other module of the
lab reads them from here. Addresses are constants: each lab has its own network namespace, so two labs may use
the same ones at the same time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BINARIES = Path(__file__).resolve().parent / "binaries"

DEFAULT_NAME = "ratchet-lab"
NODE = "lab-node"
NODE_DEVICE = "lab0"
NODE_IP = "10.88.0.2"
POD_CIDR = "10.244.0.0/22"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
API_URL = f"https://{NODE_IP}:6443"
S3_ENDPOINT = f"http://{NODE_IP}:8333"
S3_BUCKET = "ratchet"
S3_TEAM = "support-team"  # the namespace whose gateway has credentials of its own
PROMETHEUS_URL = f"http://{NODE_IP}:9090"

PAUSE_IMAGE = "docker.io/lab/pause:1"
BUSYBOX_IMAGE = "docker.io/lab/busybox:1"
OPERATOR_IMAGE = "localhost/ratchet/operator:dev"
JOBS_IMAGE = "localhost/ratchet/jobs:dev"
GATEWAY_IMAGE = "localhost/ratchet/gateway:dev"
ROUTER_IMAGE = "localhost/ratchet/router:dev"
SERVING_IMAGE = "localhost/ratchet/serving:dev"


class LabError(RuntimeError):
    """The lab cannot do what was asked; the message says what was seen and what helps."""


def cache_root() -> Path:
    """Directory of everything that is slow to make and keyed by content: binaries, base, layers, images."""
    if explicit := os.environ.get("RATCHET_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ratchet"


def state_root() -> Path:
    """Directory under which running labs keep their state; removed by `down`."""
    return Path(os.environ.get("RATCHET_LAB_STATE", "/var/lib/ratchet-lab"))


@dataclass(frozen=True)
class Paths:
    """All paths of one lab. `state` lives as long as the lab runs, `cache` outlives it."""

    name: str
    state: Path
    cache: Path

    @classmethod
    def of(cls, name: str) -> Paths:
        """Return the paths of the lab called `name`.

        Raises:
            LabError: the name cannot be a network namespace, cgroup and directory name at once, or the state would be
                below /tmp.
        """
        if not name or len(name) > 24 or not all(c.isalnum() or c == "-" for c in name) or name[0] == "-":
            raise LabError(f"lab name {name!r} is not usable: use 1 to 24 letters, digits or dashes")
        state = state_root() / name
        if state.is_relative_to("/tmp"):
            raise LabError(
                f"RATCHET_LAB_STATE={state_root()} is below /tmp, which the S3 server cannot see; choose another"
            )
        return cls(name=name, state=state, cache=cache_root())

    @property
    def netns(self) -> Path:
        """The mounted network namespace."""
        return Path("/run/netns") / self.name

    @property
    def pki(self) -> Path:
        """Certificates, keys and kubeconfigs."""
        return self.state / "pki"

    @property
    def config(self) -> Path:
        """Rendered configuration of the components."""
        return self.state / "config"

    @property
    def logs(self) -> Path:
        """One log file per component."""
        return self.state / "logs"

    @property
    def pids(self) -> Path:
        """One JSON file per started component."""
        return self.state / "pids"

    @property
    def data(self) -> Path:
        """Data directories of etcd, S3 and Prometheus."""
        return self.state / "data"

    @property
    def kubelet(self) -> Path:
        """kubelet's root directory (pod volumes)."""
        return self.state / "kubelet"

    @property
    def containerd_state(self) -> Path:
        """containerd's run-time state: task mounts and pod network namespaces."""
        return self.state / "containerd"

    @property
    def containerd_socket(self) -> Path:
        """containerd's socket, for ctr and kubelet."""
        return self.containerd_state / "containerd.sock"

    @property
    def containerd_root(self) -> Path:
        """Images and snapshots. In the cache, so that the next `up` has nothing to import."""
        return self.cache / "containerd" / self.name

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.pki / "admin.kubeconfig"

    @property
    def s3_config(self) -> Path:
        """SeaweedFS' identities, generated at first start."""
        return self.config / "s3.json"
