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

import torch
from safetensors.torch import load_file

from ratchet_api.attempts import Artifact
from ratchet_api.names import snapshot_prefix
from ratchet_api.rl import RlStage
from ratchet_api.snapshot_summary import LabelCount, SnapshotCounts
from ratchet_api.stage import (
    Commit,
    DatasetRef,
    EvaluateConfig,
    Owner,
    RlConfig,
    Stage,
    StageInput,
    StageRef,
    StoreConfig,
    SupervisedConfig,
    artifact_digest,
)
from ratchet_api.training_run import BaseModelRef, EvaluateStage, Evaluation, Lora, SupervisedStage
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.data.ratings import RATINGS_SCHEMA
from ratchet_jobs.data.snapshots import SPLITS, Manifest, content_digest, store_snapshot, write_split
from ratchet_jobs.data.splitting import hash64
from ratchet_jobs.runtime.checkpoint import Checkpoints
from ratchet_jobs.runtime.commit import commit_stage
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.main import find_recipe
from ratchet_jobs.runtime.progress import ProgressBoard, StageMetrics
from ratchet_jobs.runtime.record import write_record
from ratchet_jobs.runtime.store import sha256_file
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.tiny_bert import write_tiny_bert

NAMESPACE = "team"
Rows = Sequence[tuple[str, str]]
Logged = tuple[str, str, float, float, str | None]
"""Text, class answered, score, propensity, policy."""


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
        self.boards: list[ProgressBoard] = []
        self._pods = 0

    def put_snapshot(
        self,
        *,
        train: Rows,
        validation: Rows,
        test: Rows,
        labels: Sequence[str],
        components: Sequence[int] | None = None,
    ) -> DatasetRef:
        """Store a snapshot as the snapshot stage leaves it.

        Labels default to those of the train rows, components (of the rows of each split) to one per row.
        """
        folder = self.root / "snapshot"
        folder.mkdir(exist_ok=True)
        names = tuple(labels) or tuple(sorted({label for _, label in train}))
        files = {}
        for split, rows in zip(SPLITS, (train, validation, test), strict=True):
            records = [
                {
                    "text": text,
                    "label": label,
                    "component": components[place] if components else place,
                    "subject": None,
                    "time": None,
                }
                for place, (text, label) in enumerate(rows)
            ]
            files[split] = write_split(records, folder / f"{split}.parquet")
        digest = content_digest("classification", names, files)
        counts = SnapshotCounts(train=len(train), validation=len(validation), test=len(test))
        table = tuple(LabelCount(label=name) for name in names)
        manifest = Manifest(type="classification", digest=digest, files=files, labels=table, counts=counts)
        store_snapshot(self.store, NAMESPACE, manifest, folder)
        return DatasetRef(digest=digest, prefix=snapshot_prefix(NAMESPACE, digest))

    def put_log(self, rows: Sequence[Logged], *, held_out: Sequence[Logged] = (), kind: str = "ratings") -> DatasetRef:
        """Store a log of answers as the snapshot stage leaves it; the rows held out are its test split."""
        folder = self.root / "log"
        folder.mkdir(exist_ok=True)
        names, files = tuple(sorted({row[1] for row in [*rows, *held_out]})), {}
        for split, part in zip(SPLITS, (rows, (), held_out), strict=True):
            records = [
                dict(zip(("text", "label", "score", "propensity", "policy"), row, strict=True))
                | {"component": hash64("text", row[0]), "subject": None, "time": None}
                for row in part
            ]
            files[split] = write_split(records, folder / f"{split}.parquet", schema=RATINGS_SCHEMA)
        digest = content_digest(kind, names, files)
        counts = SnapshotCounts(train=len(rows), test=len(held_out))
        table = tuple(LabelCount(label=name) for name in names)
        manifest = Manifest(type=kind, digest=digest, files=files, labels=table, counts=counts)
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

    def rl(self, *, start: str = "run", artifact: Artifact | None = None, seed: int = 0, **hyper: Any) -> RlConfig:
        """Settings of the rl stage, from the policy that run `start` trained or from an artifact."""
        ref = StageRef(stage=Stage.SUPERVISED, prefix=self.prefix(start, Stage.SUPERVISED), input_digest="0" * 64)
        settings = {"interactions": 96, "rolloutSize": 24, "minibatchSize": 8} | hyper
        return RlConfig(
            dataset=self.dataset,
            start=ref if artifact is None else None,
            start_artifact=artifact,
            hyper=RlStage.model_validate(settings),
            seed=seed,
        )

    def prefix(self, run: str, stage: Stage) -> str:
        """Where a run's stage keeps its things."""
        return f"{NAMESPACE}/runs/{run}/{stage.value}"

    def checkpoint(self, run: str) -> dict[str, torch.Tensor]:
        """Tensors of the newest checkpoint of a run's rl stage."""
        into = self.root / f"read-{run}"
        found = Checkpoints(self.store, prefix=self.prefix(run, Stage.RL), directory="none", scratch=into).latest()
        assert found is not None
        return load_file(found.folder / "training.safetensors")

    def commit_folder(self, folder: Path, *, run: str) -> Artifact:
        """Store a folder as it is now, the way a committed directory lies in the store."""
        key, files = f"{NAMESPACE}/runs/{run}/evaluate/1-{'0' * 8}", {}
        for path in sorted(folder.iterdir()):
            self.store.upload(path, f"{key}/{path.name}")
            files[path.name] = sha256_file(path)
        return Artifact(uri=f"{self.store.uri}/{key}", digest=artifact_digest(files))

    def pod(
        self,
        config: SupervisedConfig | RlConfig | EvaluateConfig,
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
            leave_after: the pod gets SIGTERM during this step; 0 = before the first.
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
        self.boards.append(board)
        checkpoints = Checkpoints(
            self.store,
            prefix=job.prefix,
            directory=directory,
            scratch=scratch / "checkpoints",
            history=board.history,
        )
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
        if leave_after == 0:
            ctx.stop.set()
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # tiny matrices gain nothing from more
            result = find_recipe(stage)(ctx, config)
        write_record(output, config, board.history)
        outcome = commit_stage(self.store, job, folder=output, directory=directory, writer=uid, result=result)
        return outcome.commit, output


class _Board(ProgressBoard):
    on_step: Callable[[int], None]

    def report(self, step: int, steps: int, **values: Any) -> None:
        super().report(step, steps, **values)
        self.on_step(step)
