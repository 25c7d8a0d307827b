"""Runs training stages in the test's own process, on the real runtime over a directory store.

A test says which rows, which settings, and at which step the pod is asked to leave or dies; the store, snapshot,
commit protocol and checkpoints are the product's own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from ratchet_api.feedback_dataset import LabelCount, SnapshotCounts
from ratchet_api.names import snapshot_prefix
from ratchet_api.stage import (
    Commit,
    DatasetRef,
    EvaluateConfig,
    Owner,
    Stage,
    StageInput,
    StageRef,
    StoreConfig,
    SupervisedConfig,
)
from ratchet_api.training_run import BaseModelRef, EvaluateStage, Evaluation, Lora, SupervisedStage
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.data.snapshots import SPLITS, Manifest, content_digest, store_snapshot, write_split
from ratchet_jobs.recipes import evaluate, supervised
from ratchet_jobs.runtime.checkpoint import Checkpoints
from ratchet_jobs.runtime.commit import commit_stage
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.progress import ProgressBoard, StageMetrics
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.tiny_bert import write_tiny_bert

NAMESPACE = "team"
Rows = Sequence[tuple[str, str]]


class Killed(BaseException):
    """The pod died at once: nothing of it is left but what is in the store."""


class Workbench:
    """One namespace of a store with a base model and a snapshot."""

    def __init__(self, root: Path, *, train: Rows, validation: Rows = (), test: Rows = (), labels: Sequence[str] = ()):
        self.root = root
        self.store = DirectoryStore(root / "store")
        base = write_tiny_bert(root / "store" / NAMESPACE / "models" / "tiny")
        self.base = base
        self.base_ref = BaseModelRef(uri="store://models/tiny", sha256=local_digest(base))
        self.dataset = self.put_snapshot(train=train, validation=validation, test=test, labels=labels)
        self._pods = 0

    def put_snapshot(self, *, train: Rows, validation: Rows, test: Rows, labels: Sequence[str]) -> DatasetRef:
        """Store a snapshot as the snapshot stage leaves it; labels default to those of the train rows."""
        folder = self.root / "snapshot"
        folder.mkdir(exist_ok=True)
        names = tuple(labels) or tuple(sorted({label for _, label in train}))
        files = {}
        for split, rows in zip(SPLITS, (train, validation, test), strict=True):
            records = [
                {"text": text, "label": label, "component": place, "subject": None, "time": None}
                for place, (text, label) in enumerate(rows)
            ]
            files[split] = write_split(records, folder / f"{split}.parquet")
        digest = content_digest("classification", names, files)
        counts = SnapshotCounts(train=len(train), validation=len(validation), test=len(test))
        table = tuple(LabelCount(label=name) for name in names)
        manifest = Manifest(type="classification", digest=digest, files=files, labels=table, counts=counts)
        store_snapshot(self.store, NAMESPACE, manifest, folder)
        return DatasetRef(digest=digest, prefix=snapshot_prefix(NAMESPACE, digest))

    def supervised(self, *, seed: int = 0, lora: dict[str, Any] | None = None, **hyper: Any) -> SupervisedConfig:
        """Settings of the supervised stage: small and quick unless said otherwise."""
        settings = {"epochs": 1.0, "batchSize": 8, "learningRate": 5e-3, "maxTokens": 32} | hyper
        return SupervisedConfig(
            dataset=self.dataset,
            base_model=self.base_ref,
            lora=Lora.model_validate({"rank": 4, "alpha": 8.0} | (lora or {})),
            hyper=SupervisedStage.model_validate(settings),
            seed=seed,
        )

    def evaluate(self, *, run: str = "run", max_tokens: int = 32, **evaluation: Any) -> EvaluateConfig:
        """Settings of the evaluate stage for the policy that `run` trained."""
        ref = StageRef(stage=Stage.SUPERVISED, prefix=self.prefix(run, Stage.SUPERVISED), input_digest="0" * 64)
        return EvaluateConfig(
            dataset=self.dataset,
            candidates=(ref,),
            evaluation=Evaluation.model_validate(evaluation),
            hyper=EvaluateStage(batch_size=16),
            max_tokens=max_tokens,
            seed=0,
        )

    def prefix(self, run: str, stage: Stage) -> str:
        """Where a run's stage keeps its things."""
        return f"{NAMESPACE}/runs/{run}/{stage.value}"

    def pod(
        self,
        config: SupervisedConfig | EvaluateConfig,
        *,
        run: str | None = None,
        leave_after: int | None = None,
        die_after: int | None = None,
        on_step: Callable[[int], None] = lambda _: None,
    ) -> tuple[Commit, Path]:
        """Start a pod of the run's stage: train or evaluate, then commit.

        Args:
            config: of the stage.
            run: name; pods of one run share checkpoints and the first commit. By default `run` trains, and each
                evaluation is a run of its own.
            leave_after: the pod gets SIGTERM during this step.
            die_after: the pod is killed during this step, before anything of it is stored.
            on_step: told each step.

        Returns:
            The commit and the local folder of the committed files.
        """
        self._pods += 1
        stage = Stage(config.stage)
        run = run or ("run" if stage is Stage.SUPERVISED else f"evaluation-{self._pods}")
        uid = hashlib.sha256(f"{run}{self._pods}".encode()).hexdigest()
        scratch = self.root / f"pod-{self._pods}"
        output = scratch / "output"
        output.mkdir(parents=True)
        job = StageInput(
            owner=Owner(kind="RLTrainingRun", namespace=NAMESPACE, name=run, uid="u" * 8),
            attempt=1,
            prefix=self.prefix(run, stage),
            store=StoreConfig(uri=self.store.uri),
            config=config,
        )
        directory = f"{job.prefix}/1-{uid[:8]}"
        board = _Board(stage.value, StageMetrics(namespace=NAMESPACE, run=run, stage=stage.value))
        checkpoints = Checkpoints(self.store, prefix=job.prefix, directory=directory, scratch=scratch / "checkpoints")
        ctx = StageContext(
            job=job, store=self.store, scratch=scratch, output=output, checkpoints=checkpoints, progress=board
        )

        def step(number: int) -> None:
            on_step(number)
            if number == die_after:
                raise Killed
            if number == leave_after:
                ctx.stop.set()

        board.on_step = step
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # tiny matrices gain nothing from more
            result = supervised.run(ctx, config) if isinstance(config, SupervisedConfig) else evaluate.run(ctx, config)
        outcome = commit_stage(self.store, job, folder=output, directory=directory, writer=uid, result=result)
        return outcome.commit, output


class _Board(ProgressBoard):
    on_step: Callable[[int], None]

    def report(self, step: int, steps: int, **values: Any) -> None:
        super().report(step, steps, **values)
        self.on_step(step)
