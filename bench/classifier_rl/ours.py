"""Our side: supervised, rl and evaluate over a directory store, as pods run them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.classifier_rl.task import Row, Task
from ratchet_api.names import snapshot_prefix
from ratchet_api.rl import RlStage
from ratchet_api.snapshot_summary import LabelCount, SnapshotCounts
from ratchet_api.stage import (
    DatasetRef,
    EvaluateConfig,
    Owner,
    RlConfig,
    Stage,
    StageInput,
    StageRef,
    StageResult,
    StoreConfig,
    SupervisedConfig,
)
from ratchet_api.training_run import BaseModelRef, EvaluateStage, Evaluation, Lora, SupervisedStage
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.data.snapshots import Manifest, content_digest, store_snapshot, write_split
from ratchet_jobs.metrics import classification as formulas
from ratchet_jobs.models.classifier import load_classifier
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.tokenizing import tokenize
from ratchet_jobs.runtime.checkpoint import Checkpoints
from ratchet_jobs.runtime.commit import commit_stage
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.main import find_recipe
from ratchet_jobs.runtime.progress import ProgressBoard, StageMetrics
from ratchet_jobs.runtime.store_directory import DirectoryStore

NAMESPACE = "bench"
MAX_TOKENS = 64


def few_labels(epochs: float) -> SupervisedStage:
    """Settings of the supervised stage for a handful of labelled examples per class."""
    return SupervisedStage(
        epochs=epochs, learning_rate=1e-3, head_learning_rate=1e-2, max_tokens=MAX_TOKENS, checkpoint_every_steps=10_000
    )


class Took(NamedTuple):
    """Time of a whole stage, reading and writing included."""

    seconds: float
    cpu_seconds: float
    """Of this process, all its threads."""


class Ours:
    """One seed's store and stages."""

    def __init__(self, base: Path, task: Task, work: Path, *, seed: int) -> None:
        self._base, self._task, self._work, self._seed = base, task, work, seed
        self._store = DirectoryStore(work / "store")
        model = work / "store" / NAMESPACE / "model"
        model.parent.mkdir(parents=True)
        model.symlink_to(base)

    def supervise(self, dataset: DatasetRef, hyper: SupervisedStage) -> tuple[Path, Took]:
        """Train on labelled rows; returns the policy's folder and the time it took."""
        config = SupervisedConfig(
            dataset=dataset,
            base_model=BaseModelRef(uri="store://model", sha256=local_digest(self._base)),
            lora=Lora(),
            hyper=hyper,
            seed=self._seed,
        )
        folder, _, took = self._pod(config, Stage.SUPERVISED, "supervised")
        return folder, took

    def reinforce(self, dataset: DatasetRef, name: str, hyper: dict[str, Any]) -> tuple[Path, Took]:
        """Go on from the supervised policy with the verdicts on a traffic; returns likewise."""
        config = RlConfig(
            dataset=dataset,
            start=_trained("supervised", Stage.SUPERVISED),
            hyper=RlStage.model_validate({"checkpointEverySteps": 1000} | hyper),
            seed=self._seed,
        )
        folder, _, took = self._pod(config, Stage.RL, name)
        return folder, took

    def choose(self, dataset: DatasetRef, name: str) -> tuple[Path, str]:
        """Let the evaluate stage choose between RL's policy of that name and the supervised one; as a run does it.

        Returns:
            The folder of the policy that is published, and its role: rl or supervised.
        """
        config = EvaluateConfig(
            dataset=dataset,
            candidates=(_trained(name, Stage.RL), _trained("supervised", Stage.SUPERVISED)),
            evaluation=Evaluation(),
            hyper=EvaluateStage(),
            seed=self._seed,
        )
        folder, result, _ = self._pod(config, Stage.EVALUATE, f"evaluate-{name}")
        assert result.choice is not None, "two candidates, so one was chosen"
        return folder, result.choice.chosen

    def answers(self, folder: Path, rows: list[Row]) -> tuple[formulas.Floats, formulas.Ints]:
        """A policy's logits (N, C) without its temperature, and the true classes (N,) in its own order."""
        policy = load_classifier(folder, self._base)
        place = {label: number for number, label in enumerate(policy.card.labels)}
        tokens = tokenize(policy.tokenizer, [text for text, _ in rows])
        logits = predict_logits(policy.classifier, tokens, batch_size=64, after_batch=lambda _: None)
        return logits, np.array([place[label] for _, label in rows])

    def measure(self, folder: Path) -> dict[str, float]:
        """Numbers on the test rows: of the plain softmax, and ECE after a temperature fitted on the validation rows."""
        logits, labels = self.answers(folder, self._task.test)
        temperature = formulas.fit_temperature(*self.answers(folder, self._task.validation))
        plain, calm = formulas.predict(logits, temperature=1.0), formulas.predict(logits, temperature=temperature)
        right = plain.classes == labels
        table = formulas.per_class(formulas.confusion_matrix(labels, plain.classes, classes=len(self._task.labels)))
        return {
            "accuracy": float(right.mean()),
            "macro_f1": formulas.macro_f1(table),
            "ece": formulas.expected_calibration_error(plain.confidence, right, bins=15),
            "ece_calibrated": formulas.expected_calibration_error(calm.confidence, right, bins=15),
        }

    def _pod(self, config: Any, stage: Stage, name: str) -> tuple[Path, StageResult, Took]:
        work = self._work / name
        output = work / "output"
        output.mkdir(parents=True)
        prefix = f"{NAMESPACE}/runs/{name}"
        job = StageInput(
            owner=Owner(kind="RLTrainingRun", namespace=NAMESPACE, name=name, uid="bench"),
            attempt=1,
            prefix=prefix,
            store=StoreConfig(uri=self._store.uri),
            config=config,
        )
        ctx = StageContext(
            job=job,
            store=self._store,
            scratch=work,
            output=output,
            checkpoints=Checkpoints(
                self._store, prefix=prefix, directory=f"{prefix}/1-bench", scratch=work / "checkpoints"
            ),
            progress=ProgressBoard(stage.value, StageMetrics(namespace=NAMESPACE, run=name, stage=stage.value)),
        )
        began = time.perf_counter(), time.process_time()
        result = find_recipe(stage)(ctx, config)
        took = Took(time.perf_counter() - began[0], time.process_time() - began[1])
        commit_stage(self._store, job, folder=output, directory=f"{prefix}/1-bench", writer="bench", result=result)
        return output, result, took

    def put(self, name: str, **splits: list[Row]) -> DatasetRef:
        """Store a snapshot of the splits train, validation and test, or some of them."""
        folder = self._work / f"{name}-files"
        folder.mkdir()
        files = {}
        for first, (split, rows) in zip((0, 10**6, 2 * 10**6), splits.items(), strict=False):
            records = [
                {"text": text, "label": label, "component": place, "subject": None, "time": None}
                for place, (text, label) in enumerate(rows, first)
            ]
            files[split] = write_split(records, folder / f"{split}.parquet")
        labels = tuple(self._task.labels)
        digest = content_digest("classification", labels, files)
        table = tuple(LabelCount(label=label) for label in labels)
        counts = SnapshotCounts(**{split: len(rows) for split, rows in splits.items()})
        manifest = Manifest(type="classification", digest=digest, files=files, labels=table, counts=counts)
        store_snapshot(self._store, NAMESPACE, manifest, folder)
        return DatasetRef(digest=digest, prefix=snapshot_prefix(NAMESPACE, digest))


def _trained(name: str, stage: Stage) -> StageRef:
    return StageRef(stage=stage, prefix=f"{NAMESPACE}/runs/{name}", input_digest="0" * 64)
