"""The stage itself: `recipes.supervised.run` over a directory store, checkpoints and artifact included.

Run by `measure.py`, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.supervised.task import Hyper
from ratchet_api.names import snapshot_prefix
from ratchet_api.snapshot_summary import LabelCount, SnapshotCounts
from ratchet_api.stage import DatasetRef, Owner, StageInput, StoreConfig, SupervisedConfig
from ratchet_api.training_run import BaseModelRef, Lora, SupervisedStage
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.data.snapshots import Manifest, content_digest, store_snapshot, write_split
from ratchet_jobs.models.classifier import load_classifier
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.tokenizing import tokenize
from ratchet_jobs.recipes import supervised
from ratchet_jobs.runtime.checkpoint import Checkpoints
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.progress import ProgressBoard, StageMetrics
from ratchet_jobs.runtime.store_directory import DirectoryStore

NAMESPACE, PREFIX = "bench", "bench/runs/run/supervised"


class Ours:
    """A policy trained by the supervised stage."""

    def __init__(self, base: Path, names: Sequence[str], hyper: Hyper) -> None:
        self._base, self._names, self._hyper = base, tuple(names), hyper

    def train(self, texts: Sequence[str], labels: Sequence[int], work: Path) -> None:
        store = DirectoryStore(work / "store")
        model = work / "store" / NAMESPACE / "model"
        model.parent.mkdir(parents=True)
        model.symlink_to(self._base)
        hyper = self._hyper
        config = SupervisedConfig(
            dataset=self._put_snapshot(store, texts, labels, work),
            base_model=BaseModelRef(uri="store://model", sha256=local_digest(self._base)),
            lora=Lora(rank=hyper.rank, alpha=hyper.alpha),
            hyper=SupervisedStage(
                epochs=hyper.epochs,
                batch_size=hyper.batch_size,
                learning_rate=hyper.learning_rate,
                warmup_ratio=hyper.warmup_ratio,
                weight_decay=hyper.weight_decay,
                max_grad_norm=hyper.max_grad_norm,
                max_tokens=hyper.max_tokens,
            ),
            seed=hyper.seed,
        )
        job = StageInput(
            owner=Owner(kind="RLTrainingRun", namespace=NAMESPACE, name="run", uid="bench"),
            attempt=1,
            prefix=PREFIX,
            store=StoreConfig(uri=store.uri),
            config=config,
        )
        self._output = work / "output"
        self._output.mkdir()
        ctx = StageContext(
            job=job,
            store=store,
            scratch=work,
            output=self._output,
            checkpoints=Checkpoints(store, prefix=PREFIX, directory=f"{PREFIX}/1-bench", scratch=work / "checkpoints"),
            progress=ProgressBoard("supervised", StageMetrics(namespace=NAMESPACE, run="run", stage="supervised")),
        )
        supervised.run(ctx, config)

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        policy = load_classifier(self._output, self._base)
        tokens = tokenize(policy.tokenizer, texts)
        logits = predict_logits(policy.classifier, tokens, batch_size=64, after_batch=lambda _: None)
        return logits.argmax(1)

    def _put_snapshot(
        self, store: DirectoryStore, texts: Sequence[str], labels: Sequence[int], work: Path
    ) -> DatasetRef:
        folder = work / "snapshot-files"
        folder.mkdir()
        records = [
            {"text": text, "label": self._names[label], "component": place, "subject": None, "time": None}
            for place, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]
        files = {"train": write_split(records, folder / "train.parquet")}
        digest = content_digest("classification", self._names, files)
        table = tuple(LabelCount(label=name) for name in self._names)
        counts = SnapshotCounts(train=len(records))
        manifest = Manifest(type="classification", digest=digest, files=files, labels=table, counts=counts)
        store_snapshot(store, NAMESPACE, manifest, folder)
        return DatasetRef(digest=digest, prefix=snapshot_prefix(NAMESPACE, digest))
