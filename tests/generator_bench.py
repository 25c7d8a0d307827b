"""The workbench of generators: a tiny language model, a snapshot of demonstrations, settings that are quick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ratchet_api.attempts import Artifact
from ratchet_api.names import snapshot_prefix
from ratchet_api.preference import PreferenceStage
from ratchet_api.reward_model import RewardModelStage
from ratchet_api.rlhf import RlhfStage
from ratchet_api.scoring import SCORE, scored_column
from ratchet_api.snapshot_summary import SnapshotCounts
from ratchet_api.stage import (
    DatasetRef,
    EvaluateConfig,
    RewardModelConfig,
    RlConfig,
    Stage,
    StageRef,
    SupervisedConfig,
)
from ratchet_api.training_run import Answers, BaseModelRef, EvaluateStage, Evaluation, Lora, SupervisedStage
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.data.demonstrations import DEMONSTRATIONS_SCHEMA, ITEMS_FIELD
from ratchet_jobs.data.snapshots import SPLITS, Manifest, content_digest, store_snapshot, write_split
from ratchet_jobs.runtime.progress import ProgressBoard
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.tiny_llama import write_tiny_llama
from tests.workbench import NAMESPACE, Workbench

Rows = Sequence[tuple[str, str]]


class GeneratorBench(Workbench):
    """One namespace of a store with a language model and a snapshot of (prompt, response) rows."""

    def __init__(self, root: Path, *, train: Rows, test: Rows = (), **model: Any) -> None:
        self.root = root
        self.store = DirectoryStore(root / "store")
        self.base = write_tiny_llama(root / "store" / NAMESPACE / "models" / "tiny", **model)
        self.base_ref = BaseModelRef(uri="store://models/tiny", sha256=local_digest(self.base))
        self.dataset = self.put_demonstrations(train=train, test=test)
        self.boards: list[ProgressBoard] = []
        self._pods = 0

    def put_demonstrations(
        self, *, train: Rows, test: Rows, kind: str = "demonstrations", items: Sequence[str] | None = None
    ) -> DatasetRef:
        """Store a snapshot as the snapshot stage leaves it; its train rows mention the items, if there are any."""
        schema = DEMONSTRATIONS_SCHEMA if items is None else pa.schema([*DEMONSTRATIONS_SCHEMA, ITEMS_FIELD])
        folder, files = self.root / "shown", {}
        folder.mkdir(exist_ok=True)
        for split, rows in zip(SPLITS, (train, (), test), strict=True):
            records = [
                {"text": text, "response": response, "messages": None, "component": n, "subject": None, "time": None}
                | ({} if items is None or split != "train" else {ITEMS_FIELD.name: list(items)})
                for n, (text, response) in enumerate(rows)
            ]
            files[split] = write_split(records, folder / f"{split}.parquet", schema=schema)
        digest = content_digest(kind, (), files)
        counts = SnapshotCounts(train=len(train), test=len(test))
        manifest = Manifest(type=kind, digest=digest, files=files, labels=(), counts=counts)
        store_snapshot(self.store, NAMESPACE, manifest, folder)
        return DatasetRef(digest=digest, prefix=snapshot_prefix(NAMESPACE, digest))

    def supervised(self, *, seed: int = 0, lora: dict[str, Any] | None = None, **hyper: Any) -> SupervisedConfig:
        """Settings of the supervised stage: small and quick unless said otherwise."""
        settings = {"epochs": 1.0, "batchSize": 8, "learningRate": 2e-2, "maxTokens": 32} | hyper
        return SupervisedConfig(
            policy_type="generator",
            dataset=self.dataset,
            base_model=self.base_ref,
            lora=Lora.model_validate({"rank": 4, "alpha": 8.0} | (lora or {})),
            hyper=SupervisedStage.model_validate(settings),
            seed=seed,
        )

    def put_preferences(self, rows: Sequence[tuple[str, str, str]]) -> DatasetRef:
        """Store a snapshot of (prompt, better, worse) rows."""
        schema = pa.schema([(name, pa.string()) for name in ("text", "chosen", "rejected")])
        return self._put_judged("preferences", schema, rows)

    def put_ratings(self, rows: Sequence[tuple[str, str, float]]) -> DatasetRef:
        """Store a snapshot of (prompt, answer, score) rows."""
        schema = pa.schema([("text", pa.string()), ("label", pa.string()), ("score", pa.float64())])
        return self._put_judged("ratings", schema, rows)

    def put_scored(self, rows: Sequence[tuple[str, str, float | None, float | None]]) -> DatasetRef:
        """Store a snapshot of (prompt, response, score, empathy) rows that a judge scored; a line ends a turn."""
        schema = pa.schema(
            [
                *(DEMONSTRATIONS_SCHEMA.field(name) for name in ("text", "response", "messages")),
                *(pa.field(scored_column(name), pa.float64()) for name in (SCORE, "empathy")),
            ]
        )
        turns = [
            [{"role": "user", "content": turn} for turn in text.splitlines()] if "\n" in text else None
            for text, *_ in rows
        ]
        records = [(text, said, each, *told) for (text, said, *told), each in zip(rows, turns, strict=True)]
        return self._put_judged("demonstrations", schema, records, scoring={"qualities": ["empathy"]})

    def _put_judged(self, kind: str, schema: pa.Schema, rows: Sequence[tuple[Any, ...]], **settings: Any) -> DatasetRef:
        folder, files = self.root / "judged", {}
        folder.mkdir(exist_ok=True)
        for split in SPLITS:
            records = [dict(zip(schema.names, row, strict=True)) for row in (rows if split == "train" else ())]
            files[split] = write_split(records, folder / f"{split}.parquet", schema=schema)
        digest = content_digest(kind, (), files)
        counts = SnapshotCounts(train=len(rows))
        manifest = Manifest(type=kind, digest=digest, files=files, labels=(), counts=counts, settings=settings)
        store_snapshot(self.store, NAMESPACE, manifest, folder)
        return DatasetRef(digest=digest, prefix=snapshot_prefix(NAMESPACE, digest))

    def ref(self, stage: Stage, *, run: str = "run") -> StageRef:
        """What `run` committed in that stage."""
        return StageRef(stage=stage, prefix=self.prefix(run, stage), input_digest="0" * 64)

    def reward_model(self, judged: DatasetRef, *, start: str = "run", seed: int = 0, **hyper: Any) -> RewardModelConfig:
        """Settings of the reward-model stage on the policy that `start` trained."""
        settings = {"epochs": 2, "learningRate": 5e-3, "headLearningRate": 2e-2, "loraRank": 4} | hyper
        return RewardModelConfig(
            dataset=judged,
            start=self.ref(Stage.SUPERVISED, run=start),
            base_model=self.base_ref,
            hyper=RewardModelStage.model_validate({"datasetRef": {"name": "judged"}} | settings),
            seed=seed,
        )

    def rlhf(
        self,
        *,
        start: str = "run",
        start_artifact: Artifact | None = None,
        judge: str | None = None,
        seed: int = 0,
        **hyper: Any,
    ) -> RlConfig:
        """Settings of the rl stage: from an artifact or the policy of `start`, with the reward model of `judge`."""
        settings = {"interactions": 48, "rolloutSize": 8, "minibatchSize": 4, "maxNewTokens": 8, "loraRank": 4} | hyper
        return RlConfig(
            policy_type="generator",
            dataset=self.dataset,
            start=self.ref(Stage.SUPERVISED, run=start) if start_artifact is None else None,
            start_artifact=start_artifact,
            base_model=self.base_ref,
            rlhf=RlhfStage.model_validate({"learningRate": 5e-3} | settings),
            reward_model=None if judge is None else self.ref(Stage.REWARD_MODEL, run=judge),
            seed=seed,
        )

    def preference(self, judged: DatasetRef, *, start: str = "run", seed: int = 0, **hyper: Any) -> RlConfig:
        """Settings of the rl stage on judged answers: from the policy of `start`."""
        settings = {"datasetRef": {"name": "judged"}, "epochs": 2, "learningRate": 5e-3, "loraRank": 4} | hyper
        return RlConfig(
            policy_type="generator",
            dataset=self.dataset,
            log=judged,
            start=self.ref(Stage.SUPERVISED, run=start),
            base_model=self.base_ref,
            preference=PreferenceStage.model_validate(settings),
            seed=seed,
        )

    def evaluate(
        self, *, run: str = "run", max_tokens: int = 32, answers: dict[str, Any] | None = None, **evaluation: Any
    ) -> EvaluateConfig:
        """Settings of the evaluate stage for the policy that `run` trained."""
        ref = StageRef(stage=Stage.SUPERVISED, prefix=self.prefix(run, Stage.SUPERVISED), input_digest="0" * 64)
        asked = Answers.model_validate({"prompts": 12, "maxNewTokens": 10} | (answers or {}))
        return EvaluateConfig(
            policy_type="generator",
            dataset=self.dataset,
            candidates=(ref,),
            evaluation=Evaluation.model_validate(evaluation),
            hyper=EvaluateStage(batch_size=8, answers=asked),
            max_tokens=max_tokens,
            seed=0,
        )

    def compare(self, rl: RlConfig, *, run: str, start: str = "run", **evaluation: Any) -> EvaluateConfig:
        """Settings of the evaluate stage for what `run` made of the policy of `start` by RL."""
        candidates = (self.ref(Stage.RL, run=run), self.ref(Stage.SUPERVISED, run=start))
        asked = {"candidates": candidates, "rlhf": rl.rlhf, "reward_model": rl.reward_model}
        asked |= {"preference": rl.preference, "log": rl.log}
        return self.evaluate(run=start, **evaluation).model_copy(update={"base_model": self.base_ref} | asked)
