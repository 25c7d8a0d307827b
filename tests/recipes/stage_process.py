"""Run whole stages in this process over a directory store, as a pod would, and read what they left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet_api.feedback_dataset import FeedbackDatasetSpec
from ratchet_api.stage import Owner, SnapshotConfig, StageInput, StoreConfig
from ratchet_jobs.runtime.main import run_stage
from ratchet_jobs.runtime.store_directory import DirectoryStore

NAMESPACE = "ns"


class StageProcess:
    """A store and the pods that work on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = DirectoryStore(root / "store")
        self._pods = 0

    def put(self, path: str, content: str | bytes) -> None:
        """Put a user's file below the namespace's prefix."""
        self.store.write(f"{NAMESPACE}/{path}", content.encode() if isinstance(content, str) else content)

    def stage(self, config: Any, *, prefix: str, input_digest: str | None = None, attempt: int = 1) -> StageInput:
        """A stage.json."""
        return StageInput(
            owner=Owner(kind="RLTrainingRun", namespace=NAMESPACE, name="it", uid="u" * 8),
            attempt=attempt,
            prefix=prefix,
            input_digest=input_digest,
            store=StoreConfig(uri=self.store.uri),
            config=config,
        )

    def run(self, job: StageInput, env: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Start a pod; returns its exit code and its termination message."""
        self._pods += 1
        file, message = self.root / f"stage-{self._pods}.json", self.root / f"termination-{self._pods}"
        file.write_text(job.model_dump_json(by_alias=True, exclude_none=True))
        code = run_stage(
            {
                "RATCHET_STAGE_FILE": str(file),
                "RATCHET_TERMINATION_PATH": str(message),
                "RATCHET_SCRATCH": str(self.root),
                "RATCHET_POD_UID": f"{self._pods:08d}-pod",
                "RATCHET_PROGRESS_HOST": "127.0.0.1",
                "RATCHET_PROGRESS_PORT": "0",
                **(env or {}),
            }
        )
        data = message.read_bytes()
        assert len(data) <= 4096
        return code, json.loads(data)

    def snapshot(self, *, target: str = "t", **spec: Any) -> tuple[int, dict[str, Any]]:
        """Run a snapshot stage for a dataset with this spec."""
        parsed = FeedbackDatasetSpec.model_validate({"type": "classification"} | spec)
        config = SnapshotConfig(
            type=parsed.type,
            source=parsed.source,
            columns=parsed.columns,
            labels=parsed.labels,
            filters=parsed.filters,
            split=parsed.split,
            scoring=parsed.scoring,
        )
        return self.run(self.stage(config, prefix=f"{NAMESPACE}/datasets/d/snapshot/{target}"))

    def summary(self, *, target: str = "t", **spec: Any) -> dict[str, Any]:
        """Run a snapshot stage that must succeed and return its summary."""
        code, message = self.snapshot(target=target, **spec)
        assert code == 0, message
        summary: dict[str, Any] = message["result"]["snapshot"]
        return summary


def csv_of(rows: list[tuple[str, str]], header: str = "text,label") -> str:
    """CSV with every field quoted."""
    return header + "\n" + "".join(f'"{a}","{b}"\n' for a, b in rows)


def many(count: int = 200, classes: str = "ab") -> list[tuple[str, str]]:
    """Distinct texts, classes in turn."""
    return [(f"text number {i} says hello", classes[i % len(classes)]) for i in range(count)]
