"""Evaluate stage: measure trained classifiers on held-out rows, choose one, calibrate it, commit the policy to serve.

Implements temperature scaling (Guo et al. 2017, arXiv:1706.04599, section 4.2) and selective classification by a
confidence threshold (Geifman and El-Yaniv 2017, arXiv:1705.08500), in `metrics.measuring`; with RL, the comparison of
what it made with what it started from by paired bootstrap and McNemar's test, in `metrics.choosing`.

1. Read each policy's committed files, its base model by the digest in policy.json, and the snapshot.
2. Compute logits of the validation and test splits, in one pass per policy so that batches hold texts of like length.
3. Fit temperature and abstain threshold of each on validation; measure on test: the numbers that gates judge.
4. Choose: what RL made, unless it may be worse than what it started from, or breaks a gate.
5. Write evaluation.json, with RL comparison.json, and the chosen policy's files with a policy.json that carries
   temperature and threshold: this folder is the complete policy; report.html shows all of it to people.

Test rows decide nothing but the measured numbers and, with RL, the choice between two policies: temperature and
threshold never see them. The live champion is measured beside them and decides nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch

from ratchet_api.label_sets import LabelSet
from ratchet_api.policy_types import GENERATOR
from ratchet_api.stage import EvaluateConfig, StageResult
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.gates import check_gates, check_slices
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.data.snapshots import Manifest, open_snapshot
from ratchet_jobs.data.tasks import task_difference
from ratchet_jobs.metrics.choosing import choose
from ratchet_jobs.metrics.classification import ABSTAIN_ALWAYS, Ints
from ratchet_jobs.metrics.measuring import Answers, Measured, in_order_of
from ratchet_jobs.metrics.tasks import labelled_rows, measure_tasks
from ratchet_jobs.models.card import Fit, PolicyCard
from ratchet_jobs.models.classifier import load_classifier, read_card, write_card
from ratchet_jobs.models.examples import read_examples
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.timing import ms_per_sample
from ratchet_jobs.models.tokenizing import TOKENIZER_FILE, TokenRows, tokenize
from ratchet_jobs.recipes import evaluate_generator
from ratchet_jobs.report.evidence import COMPARISON_FILE, EVALUATION_FILE
from ratchet_jobs.report.page import CLASSIFIER, write_report
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import (
    BadConfigError,
    BadDataError,
    BadLabelsError,
    BadModelError,
    NotANumberError,
    Preempted,
    StoreCorrupt,
    StoreNotFound,
)
from ratchet_jobs.runtime.store import sha256_file

TIMED_BATCH_SIZES = (1, 32)
CHAMPION = "champion"

log = structlog.get_logger(__name__)


class Entrant(NamedTuple):
    """A policy that is measured."""

    role: str
    """rl, supervised, start or champion."""
    folder: Path
    card: PolicyCard
    digest: str


def run(ctx: StageContext, config: EvaluateConfig) -> StageResult:
    """Measure the candidates and write the complete policy into the stage's output. A generator has its own recipe.

    Args:
        ctx: store, progress and stop signal of this pod.
        config: dataset, candidates and how to judge them.

    Returns:
        Metrics of the chosen policy on the test split: accuracy, macro_f1, ece, brier, loss, coverage,
        selective_accuracy, n_test, and f1/<label> of each class that a gate names; what was fitted on validation:
        temperature, threshold; ms_per_sample_1 and ms_per_sample_32; with RL the choice, and both policies' numbers.
        Of several tasks these are means, beside accuracy/<task>, macro_f1/<task> and what gates name of a task;
        temperature and threshold then stand in policy.json and evaluation.json alone.

    Raises:
        StageError: a candidate does not fit the snapshot, or a split is too empty for what was asked.
    """
    if config.policy_type == GENERATOR:
        return evaluate_generator.run(ctx, config)
    wanted = config.evaluation
    torch.set_num_threads(ctx.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # 1. snapshot, candidates, champion
    snapshot = open_snapshot(ctx.store, config.dataset, into=ctx.folder("snapshot"))
    labels, tasks = tuple(snapshot.labels), snapshot.tasks
    validation, test = read_examples(snapshot, "validation"), read_examples(snapshot, "test")
    _check_splits(config, snapshot.manifest, validation=validation.labels, test=test.labels)
    entrants = _candidates(ctx, config)
    for entrant in entrants:
        _check_fit(config, entrant, snapshot.manifest)
        _fetch_base(ctx, entrant.card)
    # a policy that nothing is held against is not compared with the champion either: rl failed, or there was none
    champion, absent = _champion(ctx, config, snapshot.manifest) if len(entrants) > 1 else (None, "")

    # 2. logits and 3. numbers, one policy after the other
    texts = [*validation.texts, *test.texts]
    measured: dict[str, Measured] = {}
    timings: dict[str, dict[str, float]] = {}
    tokens_of: dict[tuple[str, int], TokenRows] = {}
    passes = [*entrants, *([champion] if champion is not None else [])]
    total, done = len(texts) * len(passes), 0

    def after_batch(rows: int) -> None:
        nonlocal done
        done += rows
        ctx.progress.report(done, total, examples=rows)
        if ctx.should_stop():
            raise Preempted(f"asked to leave after {done} of {total} rows; the next pod measures again")

    for entrant in passes:
        policy = load_classifier(entrant.folder, _fetch_base(ctx, entrant.card))
        policy.classifier.to(device)
        # what RL goes on from keeps its tokenizer, so the texts are tokenised once for all of them
        same = (sha256_file(entrant.folder / TOKENIZER_FILE), entrant.card.max_tokens)
        if same not in tokens_of:
            tokens_of[same] = tokenize(policy.tokenizer, texts)
        logits = predict_logits(
            policy.classifier, tokens_of[same], batch_size=config.hyper.batch_size, after_batch=after_batch
        )
        if not np.isfinite(logits).all():
            if entrant is entrants[-1]:  # nothing could be committed instead
                raise NotANumberError(
                    f"the logits of the {entrant.role} policy are not all finite; train again with a lower learningRate"
                )
            log.warning("logits are not all finite: the policy is out", policy=entrant.role)
            absent = absent or ("its logits are not all finite" if entrant is champion else "")
            continue
        logits = in_order_of(logits, given=entrant.card.labels, wanted=labels)
        split = len(validation.texts)
        answers = Answers(logits[:split], validation.labels), Answers(logits[split:], test.labels)
        measured[entrant.role] = measure_tasks(*answers, wanted, tasks=tasks)
        if entrant is not champion:
            sizes = TIMED_BATCH_SIZES
            timings[entrant.role] = {
                f"ms_per_sample_{size}": ms_per_sample(policy, test.texts, batch_size=size) for size in sizes
            }

    # 4. choose
    chosen, judged = entrants[0], None
    if len(entrants) > 1:
        candidate, baseline = entrants
        judged = choose(
            measured.get(candidate.role),
            measured[baseline.role],
            measured.get(CHAMPION),
            role=baseline.role,
            truth=test.labels,
            wanted=wanted,
            labels=labels,
            tasks=tasks,
            seed=config.seed,
        )
        chosen = candidate if judged.choice.chosen == candidate.role else baseline
        log.info("policy chosen", chosen=judged.choice.chosen, why=judged.choice.why)
    numbers = measured[chosen.role]
    for name, (_, threshold) in numbers.fits.items():
        if threshold == ABSTAIN_ALWAYS:
            target = wanted.abstain_target_accuracy
            log.warning("no threshold reaches the accuracy: the policy abstains", target=target, task=name)

    # 5. write the policy
    shutil.copytree(chosen.folder, ctx.output, dirs_exist_ok=True)
    write_card(ctx.output, chosen.card.fitted({name: Fit(*pair) for name, pair in numbers.fits.items()}))
    origin = {"candidate": chosen.digest, "snapshot": config.dataset.digest}
    _write_json(ctx.output / EVALUATION_FILE, numbers.report | origin)
    if judged is not None:
        tables = {
            entry.role: {"digest": entry.digest} | measured[entry.role].report
            for entry in passes
            if entry.role in measured
        }
        live = tables.pop(CHAMPION, None)
        report = judged.report | {"policies": tables, "champion": live, "champion_absent": absent}
        _write_json(ctx.output / COMPARISON_FILE, report)
    metrics = numbers.judged(wanted, labels) | timings[chosen.role] | (judged.metrics if judged is not None else {})
    folders = {entrant.role: entrant.folder for entrant in entrants}
    write_report(ctx.output, CLASSIFIER, folders=folders, config=config, metrics=metrics, manifest=snapshot.manifest)
    choice = judged.choice if judged is not None else None
    return StageResult(metrics=metrics, choice=choice, labels=LabelSet.of(chosen.card.labels))


def _fetch_base(ctx: StageContext, card: PolicyCard) -> Path:
    """Download a policy's base model, once for all policies on it."""
    wanted = card.base_model
    folder = ctx.scratch / "base" / wanted.sha256
    return folder if folder.is_dir() else fetch_model(ctx.store, wanted, namespace=ctx.namespace, into=folder)


def _candidates(ctx: StageContext, config: EvaluateConfig) -> list[Entrant]:
    """Fetch what is to be chosen from, in order of preference."""
    entrants = []
    for ref in config.candidates:
        folder, commit = ctx.open_stage(ref)
        entrants.append(
            Entrant(ref.stage.value, folder, read_card(folder).with_base_at(config.base_model), commit.digest)
        )
    if config.start is not None:
        folder = fetch_policy(ctx.store, config.start, namespace=ctx.namespace, into=ctx.folder("start"))
        card = read_card(folder).with_base_at(config.base_model)
        entrants.append(Entrant("start", folder, card, config.start.digest))
    return entrants


def _champion(ctx: StageContext, config: EvaluateConfig, manifest: Manifest) -> tuple[Entrant | None, str]:
    """Fetch the live version; one that cannot be compared is left out, with the reason: it decides nothing."""
    wanted = config.champion
    if wanted is None:
        return None, "the policy had no champion when the run started"
    try:
        folder = fetch_policy(ctx.store, wanted, namespace=ctx.namespace, into=ctx.folder("champion"))
        card = read_card(folder).with_base_at(config.base_model)
        _fetch_base(ctx, card)
    except (BadConfigError, BadModelError, StoreCorrupt, StoreNotFound) as error:
        log.warning("the champion cannot be read and is not compared", error=str(error))
        return None, str(error)
    labels = manifest.label_map
    if set(card.labels) != set(labels) or task_difference(card.task_names, manifest.task_names):
        log.warning("the champion tells other classes and is not compared", classes=len(card.labels))
        return None, f"its {len(card.labels)} classes are not the {len(labels)} of the dataset"
    return Entrant(CHAMPION, folder, card, wanted.digest), ""


def _check_splits(config: EvaluateConfig, manifest: Manifest, *, validation: Ints, test: Ints) -> None:
    """Refuse what cannot be measured, before any work.

    Raises:
        StageError: gates, slices and settings do not fit the snapshot.
    """
    wanted, labels = config.evaluation, manifest.label_map
    check_gates(wanted.gates, labels=labels, tasks=manifest.task_names)
    check_slices(wanted.comparison.slices if wanted.comparison is not None else (), labels=labels)
    counts = zip(manifest.tasks, labelled_rows(validation), labelled_rows(test), strict=True)
    for task, n_validation, n_test in counts:
        of_task = f" of task {task.name!r}" if task.name else ""
        if n_test == 0:
            raise BadDataError(f"test split: no rows{of_task}; raise spec.split.testPercent or add rows to the dataset")
        if n_validation == 0 and (wanted.calibrate or wanted.abstain_target_accuracy is not None):
            raise BadDataError(
                f"validation split: no rows{of_task} to fit evaluation.calibrate or abstainTargetAccuracy on; raise "
                "spec.split.validationPercent, or set calibrate to false and leave the target out"
            )


def _check_fit(config: EvaluateConfig, entrant: Entrant, manifest: Manifest) -> None:
    """Refuse a candidate that was trained for something else; an order of classes of its own is no matter.

    Raises:
        StageError: its settings or classes are not those of the run.
    """
    card, labels = entrant.card, manifest.label_map
    if config.max_tokens is not None and card.max_tokens != config.max_tokens:
        raise BadConfigError(
            f"maxTokens: the stage says {config.max_tokens}, the {entrant.role} policy was trained with "
            f"{card.max_tokens}; operator and stage image are of different versions: use matching ones"
        )
    if tasks := task_difference(manifest.task_names, card.task_names):
        raise BadLabelsError(
            f"snapshot {config.dataset.digest[:12]}: its tasks are not the {entrant.role} policy's, which differ in "
            f"{tasks}; evaluate on the snapshot trained on"
        )
    if set(labels) != set(card.labels):
        odd = sorted(set(labels) ^ set(card.labels))
        raise BadLabelsError(
            f"snapshot {config.dataset.digest[:12]}: its {len(labels)} classes are not the {entrant.role} policy's "
            f"{len(card.labels)}, which differ in {', '.join(map(repr, odd[:5]))}; evaluate on the snapshot trained on"
        )


def _write_json(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
