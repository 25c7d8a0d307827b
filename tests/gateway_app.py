"""A gateway in this process for tests: real application, store in a directory, policies from a list, a clock to set."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from ratchet_api.signing import KeyRing
from ratchet_api.stage import StoreConfig
from ratchet_api.training_run import RunTemplate
from ratchet_gateway.app import Parts, create_app
from ratchet_gateway.auth import ApiKeys
from ratchet_gateway.datasets import Datasets, NoDatasets
from ratchet_gateway.experiments import Analyst, NoAnalyst
from ratchet_gateway.log.writer import LogSettings
from ratchet_gateway.policies import FixedPolicies, Policies, PolicyView
from ratchet_gateway.settings import Settings
from ratchet_gateway.training import Training
from ratchet_jobs.feedback_log.reader import LogReader
from ratchet_jobs.feedback_log.segment import parse_key, unpack
from ratchet_jobs.runtime.store import Store
from ratchet_jobs.runtime.store_directory import DirectoryStore

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
RING = KeyRing({"2026-11": b"k" * 32})
KEYS = {"app": ("ingest",), "reader": ("read",), "trainer": ("train",), "all": ("ingest", "read", "train", "erase")}
TEMPLATE = RunTemplate.model_validate(
    {
        "baseModel": {"uri": "store://models/encoder", "sha256": "0" * 64},
        "datasetRef": {"name": "feedback"},
    }
)


@dataclass
class Clock:
    """A clock that stands until it is set."""

    time: datetime = START

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def pass_(self, **more: float) -> None:
        self.time += timedelta(**more)


@dataclass
class Gateway:
    """The running application and what it works on."""

    client: TestClient
    store: Store
    clock: Clock
    parts: Parts = field(repr=False)

    def post(self, path: str, body: Any, *, token: str | None = "all", **more: Any) -> Any:
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {key_of(token)}"
        if isinstance(body, bytes):
            return self.client.post(path, content=body, headers={"Content-Type": "application/json"} | headers, **more)
        return self.client.post(path, json=body, headers=headers, **more)

    def get(self, path: str, *, token: str | None = "all") -> Any:
        return self.client.get(path, headers={"Authorization": f"Bearer {key_of(token)}"} if token else {})

    def log(self) -> list[dict[str, Any]]:
        return read_log(self.store, "ns")


def read_log(store: Store, namespace: str) -> list[dict[str, Any]]:
    """Every event of a log, once."""
    return list(LogReader(store, namespace).events())


def events_of(namespace: str, key: str, data: bytes) -> list[dict[str, Any]]:
    """The events of one object of a log."""
    segment = parse_key(namespace, key, len(data))
    assert segment is not None, key
    return unpack(segment, data)


def key_of(name: str) -> str:
    return f"key-of-{name}"


def write_keys(path: Path, keys: Mapping[str, tuple[str, ...]] = KEYS) -> Path:
    entries = [
        {"name": name, "sha256": hashlib.sha256(key_of(name).encode()).hexdigest(), "roles": list(roles)}
        for name, roles in keys.items()
    ]
    path.write_text(json.dumps({"keys": entries}))
    return path


POLICIES = FixedPolicies({"router": PolicyView("router", (), TEMPLATE), "bare": PolicyView("bare")})


def dataset_of_feedback(
    name: str, *, policy: str = "router", taken: str | None = "2026-11-21T10:00:00Z", **snapshot: Any
) -> dict[str, Any]:
    """A FeedbackDataset of a policy's feedback as the operator leaves it; further arguments are of its snapshot."""
    whole = {
        "digest": "d" * 64,
        "uri": "s3://ratchet/ns/snapshots/d/MANIFEST.json",
        "counts": {"read": 1540, "kept": 900, "train": 720, "validation": 95, "test": 85},
        "classes": 3,
        "smallestLabels": [
            {"label": "shipping", "train": 80, "validation": 10, "test": 5},
            {"label": "login", "train": 240, "validation": 30, "test": 30},
            {"label": "billing", "train": 400, "validation": 55, "test": 50},
        ],
        "removed": [
            {"rule": "NoVerdict", "count": 500, "example": "event a"},
            {"rule": "Duplicate", "count": 120, "example": "event b"},
            {"rule": "Quarantined", "count": 20, "example": "event c"},
        ],
    }
    status = {"state": "Ready", "snapshot": whole | snapshot, "snapshotTime": taken} if taken else {}
    return {
        "apiVersion": "ratchet.dev/v1alpha1",
        "kind": "FeedbackDataset",
        "metadata": {"name": name},
        "spec": {"type": "classification", "source": {"feedback": {"policyRef": {"name": policy}}}},
        "status": status,
    }


def make_app(
    folder: Path,
    *,
    store: Store | None = None,
    policies: Policies = POLICIES,
    training: Training | None = None,
    analyst: Analyst | None = None,
    datasets: Datasets | None = None,
    clock: Clock | None = None,
    **more: Any,
) -> tuple[FastAPI, Parts]:
    """Put a gateway together; further arguments are settings."""
    clock = clock or Clock()
    keys = write_keys(folder / "keys.json")
    settings = Settings(
        store=StoreConfig(uri=f"file://{folder}/store"),
        namespace="ns",
        signing_keys=folder,
        keys_file=keys,
        follow_seconds=0,
        log=LogSettings(window_seconds=0.002, pause_seconds=0.001, max_pause_seconds=0.01, patience_seconds=60),
    )
    parts = Parts(
        store=store or DirectoryStore(folder / "store"),
        ring=RING,
        policies=policies,
        ways=(ApiKeys(keys, clock.monotonic),),
        training=training,
        analyst=analyst or NoAnalyst(),
        datasets=datasets or NoDatasets(),
        now=clock.now,
        monotonic=clock.monotonic,
    )
    return create_app(replace(settings, **more), parts), parts


@contextmanager
def running(folder: Path, *, clock: Clock | None = None, **more: Any) -> Iterator[Gateway]:
    """Run a gateway in this process; arguments as for `make_app`."""
    clock = clock or Clock()
    app, parts = make_app(folder, clock=clock, **more)
    with TestClient(app) as client:
        yield Gateway(client, parts.store, clock, parts)


@contextmanager
def listening(folder: Path, **more: Any) -> Iterator[str]:
    """Run a gateway on a loopback port; yields its address."""
    app, _ = make_app(folder, **more)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
