"""Valid objects for world tests: a test states only what it is about."""

from __future__ import annotations

from typing import Any

API = "ratchet.dev/v1alpha1"
NAMESPACE = "team-a"
SHA = "a" * 64


def manifest(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, **metadata},
        "spec": spec,
    }


def dataset_spec(**fields: Any) -> dict[str, Any]:
    return {"type": "classification", "source": {"objects": [{"uri": "store://complaints.csv"}]}, **fields}


def dataset(name: str = "complaints", *, annotations: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    return manifest("FeedbackDataset", name, dataset_spec(**fields), annotations=annotations or {})


def template(**fields: Any) -> dict[str, Any]:
    return {
        "baseModel": {"uri": "store://models/encoder", "sha256": SHA},
        "datasetRef": {"name": "complaints"},
        **fields,
    }


def run_spec(**fields: Any) -> dict[str, Any]:
    return {"policyType": "classifier", **template(), **fields}


def run(name: str = "router", **fields: Any) -> dict[str, Any]:
    return manifest("RLTrainingRun", name, run_spec(**fields))


def policy(name: str = "support", *, annotations: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    return manifest("RLPolicy", name, {"type": "classifier", **fields}, annotations=annotations or {})
