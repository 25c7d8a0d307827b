"""Every process of the lab: its command line, what must answer before it counts as up, and in which order they start.

Decides how components are run; `tests.lab.cluster` decides when. A command is rendered from the lab's paths each time,
so stop and start (a fault) run exactly what `up` ran.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab import binaries, netns
from tests.lab.settings import NODE, NODE_IP, PROMETHEUS_URL, S3_ENDPOINT, SERVICE_CIDR, Paths


@dataclass(frozen=True)
class Component:
    """One process.

    Attributes:
        name: also the stem of its log and pid file.
        command: renders its command line.
        ready: address that answers 200 once it works; None when being alive is all there is to see.
        accepts: address that must take a PUT, for a store that answers before it can store.
        socket: unix socket that must exist, for what speaks no HTTP.
    """

    name: str
    command: Callable[[Paths], list[str | Path]]
    ready: str | None = None
    accepts: str | None = None
    socket: Callable[[Paths], Path] | None = None


def _etcd(paths: Paths) -> list[str | Path]:
    # Without fsync: a lab never survives its machine, and test disks are slow.
    return [
        binaries.ETCD.directory() / "etcd",
        f"--data-dir={paths.data / 'etcd'}",
        "--unsafe-no-fsync",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--log-level=warn",
    ]


def _kube(name: str) -> Path:
    return binaries.KUBERNETES.directory() / name


def _apiserver(paths: Paths) -> list[str | Path]:
    pki = paths.pki
    return [
        _kube("kube-apiserver"),
        "--etcd-servers=http://127.0.0.1:2379",
        f"--advertise-address={NODE_IP}",
        f"--bind-address={NODE_IP}",
        "--secure-port=6443",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        # `kubectl logs` fails when kubelet is looked up by a name that nobody resolves.
        "--kubelet-preferred-address-types=InternalIP",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'apiserver-to-kubelet.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-to-kubelet.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
    ]


def _controller_manager(paths: Paths) -> list[str | Path]:
    # The default of 20 requests a second is for one controller of a large control plane; here it would be what a
    # bench of Jobs measures.
    return [
        _kube("kube-controller-manager"),
        f"--kubeconfig={paths.pki / 'controller-manager.kubeconfig'}",
        f"--authentication-kubeconfig={paths.pki / 'controller-manager.kubeconfig'}",
        f"--authorization-kubeconfig={paths.pki / 'controller-manager.kubeconfig'}",
        f"--root-ca-file={paths.pki / 'ca.crt'}",
        f"--service-account-private-key-file={paths.pki / 'service-account.key'}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _scheduler(paths: Paths) -> list[str | Path]:
    return [
        _kube("kube-scheduler"),
        f"--kubeconfig={paths.pki / 'scheduler.kubeconfig'}",
        f"--authentication-kubeconfig={paths.pki / 'scheduler.kubeconfig'}",
        f"--authorization-kubeconfig={paths.pki / 'scheduler.kubeconfig'}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _containerd(paths: Paths) -> list[str | Path]:
    return ["containerd", "--config", paths.config / "containerd.toml"]


def _kubelet(paths: Paths) -> list[str | Path]:
    return [
        _kube("kubelet"),
        f"--config={paths.config / 'kubelet.json'}",
        f"--kubeconfig={paths.pki / 'kubelet.kubeconfig'}",
        f"--root-dir={paths.kubelet}",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_IP}",
    ]


def _kube_proxy(paths: Paths) -> list[str | Path]:
    return [_kube("kube-proxy"), f"--config={paths.config / 'kube-proxy.json'}", f"--hostname-override={NODE}"]


def _coredns(paths: Paths) -> list[str | Path]:
    return [binaries.COREDNS.directory() / "coredns", "-conf", paths.config / "Corefile"]


def _s3(paths: Paths) -> list[str | Path]:
    # SeaweedFS keeps its local sockets in /tmp under names that two labs would share, so it gets a /tmp of its own; its
    # program is opened first, in case it lies below /tmp itself. A lone master need not wait long for its election.
    own_tmp = 'exec 9<"$1"; shift; mount --bind "$0" /tmp && exec /proc/self/fd/9 "$@"'
    return [
        *("unshare", "--mount", "--propagation=private"),
        *("bash", "-c", own_tmp, paths.data / "s3-tmp", binaries.tools() / "weed"),
        f"-logdir={paths.logs}",
        "server",
        f"-dir={paths.data / 's3'}",
        f"-ip={NODE_IP}",
        f"-ip.bind={NODE_IP}",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=0",
        "-volume.port=8380",
        "-volume.preStopSeconds=0",
        "-master.electionTimeout=1s",
        "-master.resumeState=false",
        "-master.telemetry=false",
        "-filer",
        "-s3",
        "-s3.port=8333",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={paths.s3_config}",
    ]


def _prometheus(paths: Paths) -> list[str | Path]:
    return [
        binaries.PROMETHEUS.directory() / "prometheus",
        f"--config.file={paths.config / 'prometheus.yml'}",
        f"--storage.tsdb.path={paths.data / 'prometheus'}",
        f"--web.listen-address={NODE_IP}:9090",
        "--log.level=warn",
    ]


ETCD = Component("etcd", _etcd, ready="http://127.0.0.1:2379/health")
APISERVER = Component("kube-apiserver", _apiserver, ready=f"https://{NODE_IP}:6443/readyz")
CONTAINERD = Component("containerd", _containerd, socket=lambda paths: paths.containerd_socket)
S3 = Component("s3", _s3, ready=f"{S3_ENDPOINT}/healthz", accepts=f"http://{NODE_IP}:8888/lab-probe")
CONTROLLER_MANAGER = Component("kube-controller-manager", _controller_manager, ready="https://127.0.0.1:10257/healthz")
SCHEDULER = Component("kube-scheduler", _scheduler, ready="https://127.0.0.1:10259/healthz")
KUBELET = Component("kubelet", _kubelet, ready="http://127.0.0.1:10248/healthz")
KUBE_PROXY = Component("kube-proxy", _kube_proxy, ready="http://127.0.0.1:10256/livez")
COREDNS = Component("coredns", _coredns, ready=f"http://{NODE_IP}:8053/ready")
PROMETHEUS = Component("prometheus", _prometheus, ready=f"{PROMETHEUS_URL}/-/ready")

FOUNDATION = (ETCD, CONTAINERD, S3, APISERVER)
"""Started first, together: the API server waits for etcd by itself."""
UPON_API = (CONTROLLER_MANAGER, SCHEDULER, KUBELET, KUBE_PROXY, COREDNS, PROMETHEUS)
"""Started once the API answers: several of these give up when it does not."""
ALL = {component.name: component for component in (*FOUNDATION, *UPON_API)}


def answers(component: Component, paths: Paths) -> bool:
    """Tell whether the component works now."""
    if component.socket is not None and not component.socket(paths).exists():
        return False
    if component.ready is None:
        return True
    requests = [urllib.request.Request(component.ready)]
    if component.accepts is not None:
        requests.append(urllib.request.Request(component.accepts, data=b"probe", method="PUT"))
    try:
        with netns.inside(paths.netns):
            for request in requests:
                with _opener().open(request, timeout=2) as reply:
                    reply.read()
    except (OSError, urllib.error.URLError):
        return False
    return True


def _opener() -> urllib.request.OpenerDirector:
    """Plain HTTP without proxies. The probe looks for an answer, not for an identity: the address is inside the lab."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
