"""Our operator in the bench: one real process, one dataset that is Ready, runs whose first child is a Job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from bench.contenders import free_port, wait_ready
from ratchet_api.base import API_VERSION
from ratchet_api.kinds import FEEDBACK_DATASET
from ratchet_operator.plan.datasets.state import target_of
from tests.controlplane import ControlPlane

REPOSITORY = Path(__file__).resolve().parents[2]
GROUP = f"/apis/{API_VERSION}"
CHILDREN = "/apis/batch/v1/jobs"
# kopf imports the `kubernetes` package whenever it is installed; in the operator's image it is not.
_AS_IN_THE_IMAGE = "import sys; sys.modules['kubernetes'] = None; from ratchet_operator.__main__ import main; main()"
_NOW = "2026-01-01T00:00:00Z"


class Ours:
    """The operator's process.

    Args:
        plane: the API server, with our CRDs.
        directory: where its log goes.
    """

    def __init__(self, plane: ControlPlane, directory: Path) -> None:
        self.port = free_port()
        env = os.environ | {
            "KUBECONFIG": str(plane.kubeconfig()),
            "RATCHET_HTTP_PORT": str(self.port),
            "RATCHET_STORE_URI": "s3://bench/ratchet",
            "RATCHET_STAGE_IMAGE": "localhost/ratchet/jobs:dev",
            "RATCHET_LOG_LEVEL": "warning",
        }
        with (directory / "operator.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _AS_IN_THE_IMAGE], stdout=log, stderr=log, env=env, cwd=REPOSITORY
            )
        self.pid = self._process.pid
        log_file = directory / "operator.log"
        wait_ready(f"http://127.0.0.1:{self.port}", self._process, seconds=120, log=log_file)

    def writes(self) -> dict[str, float]:
        """Write requests so far, by verb and resource; Events and the heartbeat aside."""
        text = self._get("/metrics")
        found: dict[str, float] = {}
        pattern = r'^ratchet_api_requests_total\{code="2\d\d",resource="(\w+)",verb="([\w-]+)"\} (\S+)$'
        for resource, verb, value in re.findall(pattern, text, re.MULTILINE):
            if verb not in {"get", "list"} and resource not in {"events", "leases"}:
                found[f"{verb} {resource}"] = found.get(f"{verb} {resource}", 0.0) + float(value)
        return found

    def reads(self) -> float:
        """Read requests so far."""
        pattern = r'^ratchet_api_requests_total\{code="\d+",resource="\w+",verb="(?:get|list)"\} (\S+)$'
        return sum(float(value) for value in re.findall(pattern, self._get("/metrics"), re.MULTILINE))

    def passes(self) -> float:
        """Passes over runs that ended well so far."""
        pattern = r'^ratchet_reconcile_total\{kind="rltrainingruns",result="ok"\} (\S+)$'
        return sum(float(value) for value in re.findall(pattern, self._get("/metrics"), re.MULTILINE))

    def stop(self) -> int:
        """Stop it as the kubelet would; returns its exit code."""
        self._process.terminate()
        return self._process.wait(30)

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())


def install(plane: ControlPlane, namespace: str) -> None:
    """Install the CRDs and one dataset that has a snapshot already."""
    for file in sorted((REPOSITORY / "crds").glob("*.yaml")):
        plane.install_crd(yaml.safe_load(file.read_text()))
    plane.namespace(namespace)
    path = f"{GROUP}/namespaces/{namespace}/feedbackdatasets/d"
    spec = {"type": "classification", "source": {"objects": [{"uri": "store://d.jsonl"}]}}
    metadata = {"name": "d", "namespace": namespace}
    made = plane.apply(path, {"apiVersion": API_VERSION, "kind": "FeedbackDataset", "metadata": metadata, "spec": spec})
    generation = made["metadata"]["generation"]
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "SnapshotReady",
        "message": "ready",
        "observedGeneration": generation,
        "lastTransitionTime": _NOW,
    }
    # As the operator itself records that the present spec has its snapshot; otherwise it would make one.
    target = target_of(FEEDBACK_DATASET.parse_spec(made), "")
    counts = {"read": 1000, "kept": 1000, "train": 800, "validation": 100, "test": 100}
    snapshot = {"digest": "a" * 64, "uri": "s3://bench/ratchet/d", "counts": counts, "classes": 4}
    status = {
        "observedGeneration": generation,
        "snapshotGeneration": generation,
        "target": target,
        "snapshotTarget": target,
        "state": "Ready",
        "conditions": [ready],
        "snapshot": snapshot,
        "snapshotTime": _NOW,
    }
    plane.request("PUT", f"{path}/status", made | {"status": status})


def manifest(namespace: str, name: str) -> dict[str, Any]:
    """One run."""
    return {
        "apiVersion": API_VERSION,
        "kind": "RLTrainingRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "policyType": "classifier",
            "datasetRef": {"name": "d"},
            "baseModel": {"uri": "store://models/m", "sha256": "b" * 64},
        },
    }


def path(namespace: str) -> str:
    """Where runs are created."""
    return f"{GROUP}/namespaces/{namespace}/rltrainingruns"
