"""Evaluate stage: measure a trained classifier on held-out rows, calibrate it, and commit the policy to serve.

Implements temperature scaling (Guo et al. 2017, arXiv:1706.04599, section 4.2) and selective classification by a
confidence threshold (Geifman and El-Yaniv 2017, arXiv:1705.08500); the formulas are in `metrics.classification`.

1. Read the candidate's committed files, its base model by the digest in policy.json, and the snapshot.
2. Compute logits of the validation and test splits.
3. Fit one temperature on validation.
4. Choose the abstain threshold on validation, with that temperature.
5. Measure on test: the numbers that gates judge.
6. Write evaluation.json, and the candidate's files with a policy.json that carries temperature and threshold: this
   folder is the complete policy.

Test rows decide nothing but the measured numbers: temperature and threshold never see them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence

import numpy as np
import structlog
import torch

from ratchet_api.stage import EvaluateConfig, StageResult
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.gates import check_gates
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.metrics import classification as formulas
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.models.classifier import load_classifier, read_card, write_card
from ratchet_jobs.models.examples import read_examples
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.tokenizing import tokenize
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadLabelsError, NotANumberError, Preempted

EVALUATION_FILE = "evaluation.json"

log = structlog.get_logger(__name__)


def run(ctx: StageContext, config: EvaluateConfig) -> StageResult:
    """Measure the candidate and write the complete policy into the stage's output folder.

    Args:
        ctx: store, progress and stop signal of this pod.
        config: dataset, candidate and how to judge it.

    Returns:
        Metrics on the test split: accuracy, macro_f1, ece, brier, loss, coverage, selective_accuracy, n_test, and
        f1/<label> of each class that a gate names; and what was fitted on validation: temperature, threshold.

    Raises:
        StageError: the candidate does not fit the snapshot, or a split is too empty for what was asked.
    """
    wanted = config.evaluation
    torch.set_num_threads(ctx.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # 1. candidate, snapshot, base
    folder, commit = ctx.open_stage(config.candidate)
    card = read_card(folder)
    snapshot = open_snapshot(ctx.store, config.dataset, into=ctx.folder("snapshot"))
    validation, test = read_examples(snapshot, "validation"), read_examples(snapshot, "test")
    _check_fit(config, card, snapshot.labels, n_validation=len(validation.texts), n_test=len(test.texts))
    base = fetch_model(ctx.store, card.base_model, namespace=ctx.namespace, into=ctx.folder("base"))
    policy = load_classifier(folder, base)
    policy.classifier.to(device)

    # 2. logits
    total, done = len(validation.texts) + len(test.texts), 0

    def after_batch(rows: int) -> None:
        nonlocal done
        done += rows
        ctx.progress.report(done, total, examples=rows)
        if ctx.should_stop():
            raise Preempted(f"asked to leave after {done} of {total} rows; the next pod measures again")

    def logits_of(texts: Sequence[str]) -> formulas.Floats:
        tokens = tokenize(policy.tokenizer, texts)
        return predict_logits(policy.classifier, tokens, batch_size=config.hyper.batch_size, after_batch=after_batch)

    validation_logits, test_logits = logits_of(validation.texts), logits_of(test.texts)
    if not (np.isfinite(validation_logits).all() and np.isfinite(test_logits).all()):
        raise NotANumberError("the candidate's logits are not all finite; train again with a lower learningRate")

    # 3. temperature
    temperature = formulas.fit_temperature(validation_logits, validation.labels) if wanted.calibrate else 1.0

    # 4. threshold
    threshold = None
    if wanted.abstain_target_accuracy is not None:
        seen = formulas.predict(validation_logits, temperature=temperature)
        threshold = formulas.abstain_threshold(
            seen.confidence, seen.classes == validation.labels, target_accuracy=wanted.abstain_target_accuracy
        )
        if threshold == formulas.ABSTAIN_ALWAYS:
            log.warning("no threshold reaches the accuracy: the policy abstains", target=wanted.abstain_target_accuracy)

    # 5. measure
    answer = formulas.predict(test_logits, temperature=temperature)
    right = answer.classes == test.labels
    confusion = formulas.confusion_matrix(test.labels, answer.classes, classes=len(card.labels))
    table = formulas.per_class(confusion)
    kept = formulas.selective(answer.confidence, right, threshold=threshold or 0.0)
    uncalibrated = formulas.predict(test_logits, temperature=1.0)
    metrics = {
        "accuracy": formulas.accuracy(confusion),
        "macro_f1": formulas.macro_f1(table),
        "ece": formulas.expected_calibration_error(answer.confidence, right, bins=wanted.ece_bins),
        "brier": formulas.brier_score(answer.probs, test.labels),
        "loss": formulas.negative_log_likelihood(test_logits, test.labels, temperature=temperature),
        "coverage": kept.coverage,
        "selective_accuracy": kept.accuracy,
        "temperature": temperature,
        "threshold": threshold or 0.0,
        "n_test": float(len(test.labels)),
    }
    report = {
        "metrics": metrics,
        "ece_uncalibrated": formulas.expected_calibration_error(uncalibrated.confidence, right, bins=wanted.ece_bins),
        "n_validation": len(validation.labels),
        "candidate": commit.digest,
        "snapshot": config.dataset.digest,
        "labels": list(card.labels),
        "per_class": [
            {
                "label": label,
                "precision": float(table.precision[i]),
                "recall": float(table.recall[i]),
                "f1": float(table.f1[i]),
                "support": int(table.support[i]),
            }
            for i, label in enumerate(card.labels)
        ],
        "confusion": confusion.tolist(),
    }

    # 6. write the policy
    shutil.copytree(folder, ctx.output, dirs_exist_ok=True)
    write_card(ctx.output, card.model_copy(update={"temperature": temperature, "abstain_threshold": threshold}))
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (ctx.output / EVALUATION_FILE).write_text(text, encoding="utf-8")
    gated = {gate.label for gate in wanted.gates if gate.label is not None}
    return StageResult(metrics=metrics | {f"f1/{name}": float(table.f1[card.labels.index(name)]) for name in gated})


def _check_fit(
    config: EvaluateConfig, card: PolicyCard, labels: Sequence[str], *, n_validation: int, n_test: int
) -> None:
    """Refuse what cannot be measured, before any work.

    Raises:
        StageError: candidate, snapshot, gates and settings do not fit each other.
    """
    wanted = config.evaluation
    if card.max_tokens != config.max_tokens:
        raise BadConfigError(
            f"maxTokens: the stage says {config.max_tokens}, the candidate was trained with {card.max_tokens}; "
            "operator and stage image are of different versions: use matching ones"
        )
    if tuple(labels) != card.labels:
        odd = sorted(set(labels) ^ set(card.labels)) or ["their order"]
        raise BadLabelsError(
            f"snapshot {config.dataset.digest[:12]}: its {len(labels)} classes are not the candidate's "
            f"{len(card.labels)}, which differ in {', '.join(map(repr, odd[:5]))}; evaluate on the snapshot trained on"
        )
    check_gates(wanted.gates, labels=labels)
    if n_test == 0:
        raise BadDataError("test split: no rows; raise spec.split.testPercent or add rows to the dataset")
    if n_validation == 0 and (wanted.calibrate or wanted.abstain_target_accuracy is not None):
        raise BadDataError(
            "validation split: no rows to fit evaluation.calibrate or abstainTargetAccuracy on; raise "
            "spec.split.validationPercent, or set calibrate to false and leave the target out"
        )
