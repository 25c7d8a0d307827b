"""Configuration files of the lab's components, rendered from its paths.

Pure but for writing the files: decides settings, starts nothing. Each setting that is not obvious carries the reason
it is needed on small test machines (no systemd, mixed cgroup versions, few capabilities).
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from tests.lab.settings import DNS_SERVICE_IP, NODE_IP, PAUSE_IMAGE, POD_CIDR, S3_BUCKET, S3_TEAM, Paths


def write_all(paths: Paths) -> None:
    """Write every configuration file; S3 credentials made earlier are kept."""
    cni = paths.config / "cni"
    cni.mkdir(parents=True, exist_ok=True)
    (cni / "10-lab.conflist").write_text(_cni(paths))
    (paths.config / "containerd.toml").write_text(_containerd(paths))
    _write_json(paths.config / "kubelet.json", _kubelet(paths))
    _write_json(paths.config / "kube-proxy.json", _kube_proxy(paths))
    _write_json(paths.config / "prometheus.yml", _prometheus(paths))
    (paths.config / "Corefile").write_text(_corefile(paths))
    wanted = _s3_identities()
    if _s3_names(paths) != [entry["name"] for entry in wanted]:
        paths.s3_config.touch(mode=0o600)
        _write_json(paths.s3_config, {"identities": wanted})


def _write_json(path: Path, content: object) -> None:
    """Write JSON, which is also YAML for the readers that ask for YAML."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def _cni(paths: Paths) -> str:
    # Point-to-point links instead of a bridge: pod-to-Service traffic is routed, so it works without br_netfilter.
    # The data directory is ours; the default one would mix the addresses of two labs.
    plugin = {
        "type": "ptp",
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": str(paths.state / "cni"),
            "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "0.4.0", "name": paths.name, "plugins": [plugin]}, indent=1)


def _containerd(paths: Paths) -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE no pod may be started with a lower score than ours.
    # netns_mounts_under_state_dir: pod namespaces land where `down` finds and unmounts them.
    # Snapshotters that this machine may lack only fill the log with warnings.
    disabled = [f'"io.containerd.snapshotter.v1.{kind}"' for kind in ("aufs", "btrfs", "devmapper", "zfs")]
    return f"""\
version = 2
root = "{paths.containerd_root}"
state = "{paths.containerd_state}"
disabled_plugins = [{", ".join(disabled)}]

[grpc]
address = "{paths.containerd_socket}"

[ttrpc]
address = "{paths.containerd_socket}.ttrpc"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{paths.config / "cni"}"
"""


def _kubelet(paths: Paths) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(paths.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(paths.pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(paths.pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{paths.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "podLogsDir": str(paths.state / "pod-logs"),
        "resolvConf": "",
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_SERVICE_IP],
        # The machine is shared: a full disk elsewhere must not evict the pods of a test, nor delete cached images.
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": False,
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "maxPods": 250,
    }


def _kube_proxy(paths: Paths) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(paths.pki / "proxy.kubeconfig")},
        "clusterCIDR": POD_CIDR,
        # The kernel's connection table is the machine's, not ours to resize.
        "conntrack": {"maxPerCore": 0},
        "iptables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    }


def _corefile(paths: Paths) -> str:
    return f""".:53 {{
    bind {NODE_IP}
    errors
    ready {NODE_IP}:8053
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {paths.pki / "coredns.kubeconfig"}
        pods verified
        ttl 5
    }}
    cache 5
}}
"""


def _prometheus(paths: Paths) -> dict[str, object]:
    """Scrape our pods' ports as the chart's monitors do (`http`, `progress`), and a test pod's `metrics`."""
    return {
        # Stages of the tests live for seconds: scrape often enough to see them.
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "scrape_configs": [
            {
                "job_name": "pods",
                "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(paths.pki / "prometheus.kubeconfig")}],
                "relabel_configs": [
                    {
                        "source_labels": ["__meta_kubernetes_pod_container_port_name"],
                        "regex": "metrics|http|progress",
                        "action": "keep",
                    },
                    {
                        "source_labels": ["__meta_kubernetes_pod_phase"],
                        "regex": "Pending|Succeeded|Failed",
                        "action": "drop",
                    },
                    {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
                    {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
                    {"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"},
                    {"regex": "__meta_kubernetes_pod_label_ratchet_dev_(.+)", "action": "labelmap"},
                ],
            }
        ],
    }


def _s3_names(paths: Paths) -> list[str]:
    """Names of the identities that a kept lab has already."""
    try:
        return [entry["name"] for entry in json.loads(paths.s3_config.read_text())["identities"]]
    except (OSError, ValueError):
        return []


def _s3_identities() -> list[dict[str, object]]:
    """Credentials made for this lab: for everything, for reading the bucket, and for a gateway's log and probe."""

    def identity(name: str, actions: list[str]) -> dict[str, object]:
        pair = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
        return {"name": name, "credentials": [pair], "actions": actions}

    reader = [f"{action}:{S3_BUCKET}" for action in ("Read", "List")]
    parts = ("log", "probe", "erasures")
    log = [f"{action}:{S3_BUCKET}/{S3_TEAM}/{part}/*" for action in ("Read", "Write") for part in parts]
    return [
        identity("admin", ["Admin", "Read", "Write", "List", "Tagging"]),
        identity("reader", reader),
        identity("gateway", [*log, f"List:{S3_BUCKET}"]),
    ]
