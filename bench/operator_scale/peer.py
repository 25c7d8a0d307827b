"""Kubeflow Trainer 2.0.0's controller in the bench, built from the Go module proxy as go.mod pins it.

Its validating webhook is not registered, so its times do not include one; its certificate Secret is written to the
directory that a kubelet would have mounted. Child = JobSet.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from bench.contenders import free_ports, wait_ready
from tests.controlplane import ControlPlane
from tests.lab import binaries

TITLE = "Kubeflow Trainer 2.0.0"
CHILDREN = "/apis/jobset.x-k8s.io/v1alpha2/jobsets"
_MODULE = Path(__file__).resolve().parent / "peer"
_GROUP = "/apis/trainer.kubeflow.org/v1alpha1"
_SYSTEM = "kubeflow-system"
_CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")  # fixed in its source
_SECRET, _WEBHOOKS = "kubeflow-trainer-webhook-cert", "validator.trainer.kubeflow.org"


class Peer:
    """The controller's process, with its CRDs and one runtime installed."""

    def __init__(self, plane: ControlPlane, directory: Path, namespace: str) -> None:
        self._install(plane, namespace)
        probe, webhooks = free_ports(2)
        env = os.environ | {"KUBECONFIG": str(plane.kubeconfig())}
        ports = [f"--health-probe-bind-address=127.0.0.1:{probe}", f"--webhook-server-port={webhooks}"]
        self._log = directory / "peer.log"
        with self._log.open("wb") as log:
            command = [str(build()), "--zap-log-level=error", *ports]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        self.pid = self._process.pid
        try:
            self._mount_certificates(plane)
            wait_ready(f"http://127.0.0.1:{probe}", self._process, seconds=120, log=self._log)
            time.sleep(3)  # its controllers start beside the webhook server that this asks
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(60)

    def _install(self, plane: ControlPlane, namespace: str) -> None:
        trainer, jobset = module_directory("github.com/kubeflow/trainer/v2"), module_directory("sigs.k8s.io/jobset")
        files = sorted((trainer / "manifests/base/crds").glob("trainer.*.yaml"))
        files.append(jobset / "config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml")
        for file in files:
            plane.install_crd(yaml.safe_load(file.read_text()))
        for name in (namespace, _SYSTEM):
            plane.namespace(name)
        runtime = yaml.safe_load((trainer / "manifests/base/runtimes/torch_distributed.yaml").read_text())
        plane.apply(f"{_GROUP}/clustertrainingruntimes/{runtime['metadata']['name']}", runtime)
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": _SECRET, "namespace": _SYSTEM}}
        plane.apply(f"/api/v1/namespaces/{_SYSTEM}/secrets/{_SECRET}", secret)
        kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
        path = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{_WEBHOOKS}"
        plane.apply(path, kind | {"metadata": {"name": _WEBHOOKS}})

    def _mount_certificates(self, plane: ControlPlane) -> None:
        deadline = time.monotonic() + 60
        while not (data := plane.request("GET", f"/api/v1/namespaces/{_SYSTEM}/secrets/{_SECRET}").get("data")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the peer made no certificate:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)
        _CERTIFICATES.mkdir(parents=True, exist_ok=True)
        for name, value in data.items():
            (_CERTIFICATES / name).write_bytes(base64.b64decode(value))


def build() -> Path:
    """Return the controller's binary, built if the cache has none."""
    target = binaries.cache_root() / "bin" / "kubeflow-trainer-2.0.0" / "trainer-controller-manager"
    if not target.exists():
        env = os.environ | {"GOBIN": str(target.parent), "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=readonly"}
        subprocess.run(["go", "install", "-trimpath", "-ldflags=-s -w", "tool"], cwd=_MODULE, env=env, check=True)
    return target


def module_directory(module: str) -> Path:
    """Where Go keeps a module's source; its manifests are in there."""
    command = ["go", "mod", "download", "-json", module]
    found = subprocess.run(command, cwd=_MODULE, check=True, capture_output=True, text=True)
    return Path(json.loads(found.stdout)["Dir"])


def manifest(namespace: str, name: str) -> dict[str, Any]:
    """One TrainJob."""
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {"image": "localhost/ratchet/jobs:dev", "command": ["true"], "numNodes": 1},
        },
    }


def path(namespace: str) -> str:
    """Where TrainJobs are created."""
    return f"{_GROUP}/namespaces/{namespace}/trainjobs"
