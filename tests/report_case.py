"""An evaluation's folder as the stages leave it, from made-up logits: no training, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ratchet_api.snapshot_summary import LabelCount, Removed, SnapshotCounts
from ratchet_api.stage import DatasetRef, EvaluateConfig, Stage, StageRef
from ratchet_api.training_run import BaseModelRef, EvaluateStage, Evaluation
from ratchet_jobs.data.snapshots import Manifest
from ratchet_jobs.metrics.choosing import choose
from ratchet_jobs.metrics.measuring import Answers, Measured, measure
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.report.page import CLASSIFIER, write_report
from ratchet_jobs.runtime.history import History, write_history

LABELS = ("card", "loan", "mortgage")
ROWS = 400
GATES = ({"metric": "accuracy", "minimum": 0.5}, {"metric": "macro_f1", "label": "card", "minimum": 0.4})
BROKEN = {"metric": "ece", "maximum": 0.0001}
"""A gate that no policy keeps."""


def answers(skill: float, labels: Sequence[str], *, seed: int) -> Answers:
    """Logits that lean towards the truth by `skill`; equal seeds have equal truths."""
    truth = np.random.default_rng(seed).integers(0, len(labels), ROWS)
    noise = np.random.default_rng(int(skill * 1000)).normal(size=(ROWS, len(labels)))
    return Answers(2.5 * (noise + skill * np.eye(len(labels))[truth]), truth)


def measured(skill: float, wanted: Evaluation, labels: Sequence[str]) -> Measured:
    return measure(answers(skill, labels, seed=1), answers(skill, labels, seed=2), wanted, labels=labels)


def rl_history(rollouts: int) -> History:
    """Numbers as the rl stage tells them, two rewards among them."""
    rng, history = np.random.default_rng(3), History()
    for step in range(1, rollouts + 1):
        share = step / rollouts
        noise = rng.normal(size=4) * 0.05
        told = {
            "avg_return": 0.4 + 0.4 * share + noise[0], "best_return": 0.45 + 0.4 * share,
            "accuracy": 0.4 + 0.4 * share, "policy_loss": noise[1], "value_loss": 0.3 - 0.2 * share + abs(noise[2]),
            "entropy": 1.1 - share * 0.6, "approx_kl": abs(noise[3]) / 10, "clipfrac": abs(noise[1]),
            "grad_norm": 1 + noise[0], "learning_rate": 1e-3 * (1 - share),
            "reward/accuracy": 0.4 + 0.4 * share, "reward/calibration": 0.5 + noise[2],
        }  # fmt: skip
        history.add(step, told if step % 7 == 0 else told | {"explained_variance": share})
    return history


def supervised_history(steps: int) -> History:
    history = History()
    for step in range(1, steps + 1):
        history.add(step, {"loss": 1.1 / step**0.3, "learning_rate": 1e-3 * (1 - step / steps), "grad_norm": 2.0})
    return history


def write_evaluation(
    folder: Path,
    *,
    labels: Sequence[str] = LABELS,
    gates: Sequence[Mapping[str, Any]] = (),
    with_rl: bool = True,
    champion: bool = True,
    rollouts: int = 60,
) -> tuple[Path, dict[str, Any]]:
    """Write an evaluation's output and the folders of what it measured; returns it and the arguments of the report."""
    rules = {"slices": [{"label": labels[0]}]} if with_rl else None
    wanted = Evaluation.model_validate({"gates": gates, "comparison": rules, "abstainTargetAccuracy": 0.9})
    supervised, rl, live = (measured(skill, wanted, labels) for skill in (0.9, 1.3, 1.0))
    output = folder / "output"
    folders = {name: folder / name for name in (("rl", "supervised") if with_rl else ("supervised",))}
    for path in (output, *folders.values()):
        path.mkdir(parents=True)
    chosen = supervised
    if with_rl:
        truth = answers(0.9, labels, seed=2).labels
        other = live if champion else None
        judged = choose(rl, supervised, other, role="supervised", truth=truth, wanted=wanted, labels=labels, seed=0)
        chosen = rl if judged.choice.chosen == "rl" else supervised
        tables = {"rl": {"digest": "1" * 64} | rl.report, "supervised": {"digest": "2" * 64} | supervised.report}
        shown = {"digest": "3" * 64} | live.report if champion else None
        absent = "" if champion else "the policy had no champion when the run started"
        report = judged.report | {"policies": tables, "champion": shown, "champion_absent": absent}
        (output / "comparison.json").write_text(json.dumps(report))
    origin = {"candidate": "c" * 64, "snapshot": "d" * 64}
    (output / "evaluation.json").write_text(json.dumps(chosen.report | origin))
    base = BaseModelRef(uri="store://models/tiny", sha256="b" * 64)
    card = PolicyCard(labels=tuple(labels), max_tokens=32, base_model=base, temperature=1.5, abstain_threshold=0.7)
    (output / "policy.json").write_text(json.dumps(card.to_wire()))
    for name, history in (("rl", rl_history(rollouts)), ("supervised", supervised_history(120))):
        if name in folders:
            write_history(history, folders[name] / f"{name}-history.parquet")
            settings = {"stage": name, "hyper": {"learningRate": 0.001, "rewards": [{"type": "accuracy"}]}, "seed": 1}
            (folders[name] / f"{name}-settings.json").write_text(json.dumps(settings))
    counts = SnapshotCounts(train=1000, validation=ROWS, test=ROWS)
    table = tuple(LabelCount(label=name, train=9, validation=3, test=3) for name in labels)
    removed = (Removed(rule="minTextChars", count=3),)
    manifest = Manifest(type="classification", digest="d" * 64, files={}, labels=table, counts=counts, removed=removed)
    ref = StageRef(stage=Stage.SUPERVISED, prefix="p", input_digest="0" * 64)
    config = EvaluateConfig(
        dataset=DatasetRef(digest="d" * 64, prefix="p"),
        candidates=(ref,),
        evaluation=wanted,
        hyper=EvaluateStage(),
        seed=0,
    )
    metrics: Mapping[str, float] = chosen.judged(wanted, labels)
    return output, {"folders": folders, "config": config, "metrics": metrics, "manifest": manifest}


def report_of(folder: Path, **case: Any) -> str:
    """Write an evaluation and its report; returns the page."""
    output, arguments = write_evaluation(folder, **case)
    write_report(output, CLASSIFIER, **arguments)
    return (output / "report.html").read_text(encoding="utf-8")
