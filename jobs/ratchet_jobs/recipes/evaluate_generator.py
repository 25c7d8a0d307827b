"""Evaluate stage of a generator: measure a trained policy on held-out demonstrations, commit it whole.

1. Read the candidate's committed files, its base model by the digest in policy.json, and the snapshot's test split.
2. Score every test response by the policy and, adapter off, by its base: perplexity of both, and KL(policy || base).
3. Answer some test prompts with the likeliest tokens: BLEU against the references, distinct n-grams, repetition,
   length. The first of these prompts are answered by the base, too, for people to compare.
4. Write evaluation.json with every answer, the candidate's files, and the merged model that transformers loads as it
   is; report.html shows all of it to people.

Test rows decide nothing but the measured numbers.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from typing import Any

import structlog
import torch

from ratchet_api.stage import EvaluateConfig, StageResult
from ratchet_api.training_run import Answers
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.demonstrations import read_demonstrations
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.generators.answering import generate, score
from ratchet_jobs.generators.artifact import MERGED_FOLDER, save_merged
from ratchet_jobs.generators.card import read_generator_card, write_generator_card
from ratchet_jobs.generators.examples import Examples, tokenize_rows
from ratchet_jobs.generators.loading import check_context, load_generator
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.metrics.generation import answer_metrics, score_metrics
from ratchet_jobs.models.batching import sorted_batches
from ratchet_jobs.report.evidence import EVALUATION_FILE
from ratchet_jobs.report.page import write_generator_report
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadConfigError, NotANumberError, Preempted

BASE_ANSWERS = 20
"""Prompts that the base answers, too."""

log = structlog.get_logger(__name__)


def run(ctx: StageContext, config: EvaluateConfig) -> StageResult:
    """Measure the candidate and write the complete policy into the stage's output folder.

    Args:
        ctx: store, progress and stop signal of this pod.
        config: dataset, candidate and how to ask it.

    Returns:
        Metrics on the test split: perplexity, base_perplexity, kl, bleu1, bleu2, distinct1, distinct2, repetition,
        empty, mean_tokens, ended (share of answers that ended by themselves), n_test, n_answers, skipped_rows.

    Raises:
        StageError: the candidate does not fit the snapshot or its base, or its numbers are none.
    """
    asked = config.hyper.answers or Answers()
    torch.set_num_threads(ctx.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # 1. snapshot and candidate
    snapshot = open_snapshot(ctx.store, config.dataset, into=ctx.folder("snapshot"))
    rows = read_demonstrations(snapshot, "test")
    folder, commit = ctx.open_stage(config.candidates[0])
    card = read_generator_card(folder).with_base_at(config.base_model)
    if config.max_tokens is not None and card.max_tokens != config.max_tokens:
        raise BadConfigError(
            f"maxTokens: the stage says {config.max_tokens}, the policy was trained with {card.max_tokens}; operator "
            "and stage image are of different versions: use matching ones"
        )
    base = fetch_model(ctx.store, card.base_model, namespace=ctx.namespace, into=ctx.folder("base"))
    model, wording, _ = load_generator(folder, base)
    model.to(device)
    examples = tokenize_rows(rows, wording, max_tokens=card.max_tokens, split="test")
    prompts = [pair.prompt for pair in examples.pairs[: asked.prompts]]
    longest = max(len(prompt) for prompt in prompts)
    field = f"stages.evaluate.answers.maxNewTokens {asked.max_new_tokens} after the longest prompt of {longest} tokens"
    check_context(model, max_tokens=longest + asked.max_new_tokens, field=field)
    total = len(examples.pairs) + len(prompts) + min(len(prompts), BASE_ANSWERS)
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        ctx.progress.report(done, total, examples=count)
        if ctx.should_stop():
            raise Preempted(f"asked to leave after {done} of {total} rows; the next pod measures again")

    # 2. scores
    scores = []
    for batch in sorted_batches(examples.lengths, config.hyper.batch_size):
        scores.append(score(model, [examples.pairs[i] for i in batch], pad_id=wording.pad_id))
        told(len(batch))
    metrics = score_metrics(scores)
    if not all(math.isfinite(value) for value in metrics.values()):
        raise NotANumberError(f"test split: {metrics}; train again with a lower learningRate")

    # 3. answers
    def answered(wanted: Sequence[list[int]]) -> list[list[int]]:
        made = []
        for start in range(0, len(wanted), config.hyper.batch_size):
            part = wanted[start : start + config.hyper.batch_size]
            made += generate(model, part, wording=wording, max_new_tokens=asked.max_new_tokens, stop=ctx.should_stop)
            told(len(part))
        return made

    answers = answered(prompts)
    with model.disable_adapter():
        of_base = answered(prompts[:BASE_ANSWERS])
    ended = [bool(ids) and ids[-1] == wording.eos_id for ids in answers]
    lengths = [len(ids) - end for ids, end in zip(answers, ended, strict=True)]
    texts = [wording.text(ids) for ids in answers]
    metrics |= answer_metrics(texts, [row.response for row in examples.rows[: len(texts)]], lengths)
    metrics |= {
        "ended": sum(ended) / len(ended),
        "n_test": float(len(examples.pairs)),
        "n_answers": float(len(texts)),
        "skipped_rows": float(examples.long_prompts),
    }

    # 4. write the policy
    shutil.copytree(folder, ctx.output, dirs_exist_ok=True)
    write_generator_card(ctx.output, card)
    report = {
        "policyType": card.policy_type,
        "metrics": metrics,
        "answers": _table(examples, texts, of_base, wording),
        "candidate": commit.digest,
        "snapshot": config.dataset.digest,
    }
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (ctx.output / EVALUATION_FILE).write_text(text + "\n", encoding="utf-8")
    save_merged(model, ctx.output / MERGED_FOLDER, wording=wording, tokenizer_from=folder)
    write_generator_report(
        ctx.output, folders={"supervised": folder}, config=config, metrics=metrics, manifest=snapshot.manifest
    )
    return StageResult(metrics=metrics)


def _table(examples: Examples, texts: Sequence[str], of_base: Sequence[list[int]], wording: Wording) -> list[Any]:
    """One object per prompt that was answered: prompt, reference, answer and, of the first, the base's answer."""
    said: list[dict[str, Any]] = [
        {"prompt": row.prompt, "reference": row.response, "answer": text}
        for row, text in zip(examples.rows, texts, strict=False)
    ]
    for entry, ids in zip(said, of_base, strict=False):
        entry["base"] = wording.text(ids)
    return said
