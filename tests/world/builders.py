"""Valid objects for world tests: a test states only what it is about."""

from __future__ import annotations

from typing import Any

API = "ratchet.dev/v1alpha1"
NAMESPACE = "team-a"
SHA = "a" * 64

PAIR_JUDGE = {"endpoint": "http://j/v1", "model": "m", "prompt": "Which? {first} {second}"}
"""Of two answers, in an evaluation."""
OTHER_JUDGE: dict[str, Any] = {
    "endpoint": "http://other/v1",
    "model": "other",
    "prompt": "Other? {first} {second}",
    "apiKeySecretRef.name": "key",
    "timeoutSeconds": 5.0,
    "retries": 1,
    "concurrency": 2,
    "maxFailurePercent": 50.0,
}
"""Another value of each of its fields, by path."""

SCORING: dict[str, Any] = {"endpoint": "http://j/v1", "model": "m", "prompt": "score, tone, ease of {response}"}
"""Of the responses of a data set."""
GENERATION = {
    "temperature": 0.5,
    "topP": 0.5,
    "maxTokens": 100,
    "systemPrompt": "Be brief.",
    "abstainThreshold": 0.5,
}
"""Each setting of a generation config with a value."""
OTHER_SCORING: dict[str, Any] = OTHER_JUDGE | {
    "prompt": "Other score of {response}",
    "minScore": 1.0,
    "maxScore": 5.0,
    "qualities": ["tone", "ease"],
}
"""Another value of each of its fields, by path."""


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
