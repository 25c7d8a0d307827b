"""A state directory as `ratchet run` leaves it, with versions that real stages committed.

The objects are written as the operator writes them; store, snapshot and policies come from the product's own stages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet_api.stage import Commit
from tests.workbench import NAMESPACE, Workbench


class TrainedHome:
    """Policies, runs and their status below one state directory."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.path = bench.root / ".ratchet"

    def put_run(
        self,
        name: str,
        commit: Commit,
        *,
        snapshot: str | None = None,
        made: Mapping[str, Commit] | None = None,
        **spec: Any,
    ) -> None:
        """Write a complete run whose evaluate stage made that commit, on the bench's snapshot unless told otherwise.

        Args:
            name: of the run.
            commit: of its last stage.
            snapshot: digest of another one.
            made: what its earlier stages committed.
            spec: fields of it.
        """
        dataset = self.bench.dataset
        resolved = {
            "specDigest": "0" * 64, "image": "local", "codeVersion": "1",
            "datasetDigest": snapshot or dataset.digest,
            "datasetUri": f"{self.bench.store.uri}/{dataset.prefix}", "storeUri": self.bench.store.uri,
        }  # fmt: skip
        base = {"uri": self.bench.base_ref.uri, "sha256": self.bench.base_ref.sha256}
        body = {
            "kind": "RLTrainingRun",
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"},
            "spec": {"policyType": "classifier", "baseModel": base, "datasetRef": {"name": "d"}} | spec,
            "status": {
                "state": "Complete",
                "resolved": resolved,
                "artifact": self._artifact(commit),
                "stages": [
                    {"name": stage, "state": "Succeeded", "artifact": self._artifact(each)}
                    for stage, each in (made or {}).items()
                ],
            },
        }
        self.put("rltrainingruns", name, body)

    def put_policy(self, name: str, *versions: tuple[str, Commit], champion: int | None = None) -> None:
        """Write a policy with versions 1, 2, … of (run, commit)."""
        rows = [
            self._artifact(commit)
            | {"version": number, "run": run, "runUid": f"uid-{run}", "published": "2026-01-01T00:00:00Z"}
            | {"datasetDigest": self.bench.dataset.digest}
            for number, (run, commit) in enumerate(versions, 1)
        ]
        status = {"versions": rows, "nextVersion": len(rows) + 1} | ({"champion": champion} if champion else {})
        body = {"kind": "RLPolicy", "metadata": self._metadata(name), "spec": {"type": "classifier"}, "status": status}
        self.put("rlpolicies", name, body)

    def put_copy(self, name: str, copy: str) -> None:
        """Write another policy with the same versions."""
        self.put("rlpolicies", copy, json.loads(self._policy(name).read_text()) | {"metadata": self._metadata(copy)})

    def put_variant(self, name: str, of: int, generation: dict[str, Any]) -> None:
        """Add a version to a policy: the files of another one with a generation config."""
        body = json.loads(self._policy(name).read_text())
        rows = body["status"]["versions"]
        rows.append(rows[of - 1] | {"version": len(rows) + 1, "variantOf": of, "generation": generation})
        self.put("rlpolicies", name, body)

    def put(self, plural: str, name: str, body: dict[str, Any]) -> None:
        """Write an object."""
        folder: Path = self.path / "objects" / plural / NAMESPACE
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(body))

    def _policy(self, name: str) -> Path:
        return self.path / "objects/rlpolicies" / NAMESPACE / f"{name}.json"

    def _metadata(self, name: str) -> dict[str, str]:
        return {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"}

    def _artifact(self, commit: Commit) -> dict[str, str]:
        return {"uri": f"{self.bench.store.uri}/{commit.directory}", "digest": commit.digest}
