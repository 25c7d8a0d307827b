"""Our side: the supervised stage on the labelled examples, then the rl stage on the traffic, as pods run them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.classifier_rl.task import Row, Task
from ratchet_api.names import snapshot_prefix
from ratchet_api.rl import RlStage
from ratchet_api.snapshot_summary import LabelCount, SnapshotCounts
from ratchet_api.stage import DatasetRef, Owner, RlConfig, Stage, StageInput, StageRef, StoreConfig, SupervisedConfig
from ratchet_api.training_run import BaseModelRef, Lora, SupervisedStage
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


class Ours:
    """One seed's store and stages."""

    def __init__(self, base: Path, task: Task, work: Path, *, seed: int, epochs: float) -> None:
        self._base, self._task, self._work, self._seed = base, task, work, seed
        self._store = DirectoryStore(work / "store")
        model = work / "store" / NAMESPACE / "model"
        model.parent.mkdir(parents=True)
        model.symlink_to(base)
        self._hyper = SupervisedStage(
            epochs=epochs,
            learning_rate=1e-3,
            head_learning_rate=1e-2,
            max_tokens=MAX_TOKENS,
            checkpoint_every_steps=10_000,
        )
        self._traffic = self._snapshot(task.traffic, "traffic")

    def supervise(self) -> tuple[Path, float]:
        """Train on the labelled examples; returns the policy's folder and the seconds it took."""
        config = SupervisedConfig(
            dataset=self._snapshot(self._task.labelled, "labelled"),
            base_model=BaseModelRef(uri="store://model", sha256=local_digest(self._base)),
            lora=Lora(),
            hyper=self._hyper,
            seed=self._seed,
        )
        return self._pod(config, Stage.SUPERVISED, "supervised")

    def reinforce(self, name: str, hyper: dict[str, Any]) -> tuple[Path, float]:
        """Learn from the traffic's verdicts; returns the policy's folder and the seconds it took."""
        config = RlConfig(
            dataset=self._traffic,
            start=StageRef(stage=Stage.SUPERVISED, prefix=f"{NAMESPACE}/runs/supervised", input_digest="0" * 64),
            hyper=RlStage.model_validate({"checkpointEverySteps": 1000} | hyper),
            seed=self._seed,
        )
        return self._pod(config, Stage.RL, name)

    def measure(self, folder: Path) -> dict[str, float]:
        """Numbers on the test rows: of the plain softmax, and ECE after a temperature fitted on the validation rows."""
        policy = load_classifier(folder, self._base)
        place = {label: number for number, label in enumerate(policy.card.labels)}

        def ask(rows: list[Row]) -> tuple[formulas.Floats, formulas.Ints]:
            tokens = tokenize(policy.tokenizer, [text for text, _ in rows])
            logits = predict_logits(policy.classifier, tokens, batch_size=64, after_batch=lambda _: None)
            return logits, np.array([place[label] for _, label in rows])

        logits, labels = ask(self._task.test)
        temperature = formulas.fit_temperature(*ask(self._task.validation))
        plain, calm = formulas.predict(logits, temperature=1.0), formulas.predict(logits, temperature=temperature)
        right = plain.classes == labels
        table = formulas.per_class(formulas.confusion_matrix(labels, plain.classes, classes=len(place)))
        return {
            "accuracy": float(right.mean()),
            "macro_f1": formulas.macro_f1(table),
            "ece": formulas.expected_calibration_error(plain.confidence, right, bins=15),
            "ece_calibrated": formulas.expected_calibration_error(calm.confidence, right, bins=15),
        }

    def _pod(self, config: Any, stage: Stage, name: str) -> tuple[Path, float]:
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
        began = time.perf_counter()
        result = find_recipe(stage)(ctx, config)
        seconds = time.perf_counter() - began
        commit_stage(self._store, job, folder=output, directory=f"{prefix}/1-bench", writer="bench", result=result)
        return output, seconds

    def _snapshot(self, rows: list[Row], name: str) -> DatasetRef:
        folder = self._work / f"{name}-files"
        folder.mkdir()
        records = [
            {"text": text, "label": label, "component": place, "subject": None, "time": None}
            for place, (text, label) in enumerate(rows)
        ]
        files = {"train": write_split(records, folder / "train.parquet")}
        labels = tuple(self._task.labels)
        digest = content_digest("classification", labels, files)
        table = tuple(LabelCount(label=label) for label in labels)
        counts = SnapshotCounts(train=len(records))
        manifest = Manifest(type="classification", digest=digest, files=files, labels=table, counts=counts)
        store_snapshot(self._store, NAMESPACE, manifest, folder)
        return DatasetRef(digest=digest, prefix=snapshot_prefix(NAMESPACE, digest))
