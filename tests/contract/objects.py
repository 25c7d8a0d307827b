"""Small valid objects for the contract tests."""

from __future__ import annotations

from typing import Any

from ratchet_api.base import API_VERSION
from ratchet_api.names import LABEL_MANAGED_BY, MANAGED_BY

MODEL_DIGEST = "0" * 64


def run(namespace: str, name: str, *, dataset: str = "d", **spec: Any) -> dict[str, Any]:
    """A run that names a dataset."""
    return {
        "apiVersion": API_VERSION,
        "kind": "RLTrainingRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "policyType": "classifier",
            "datasetRef": {"name": dataset},
            "baseModel": {"uri": "store://models/m", "sha256": MODEL_DIGEST},
        }
        | spec,
    }


def config_map(namespace: str, name: str, *, text: str = "") -> dict[str, Any]:
    """A ConfigMap with one key."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"text": text},
    }


def job(namespace: str, name: str, *, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """A Job that carries our labels."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {LABEL_MANAGED_BY: MANAGED_BY, "ratchet.dev/owner": "r"} | (labels or {}),
        },
        "spec": {
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "stage", "image": "localhost/x:1", "command": ["true"]}],
                }
            }
        },
    }
