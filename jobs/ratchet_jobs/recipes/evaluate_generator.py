"""Evaluate stage of a generator: measure trained policies on held-out demonstrations, choose one, commit it whole.

1. Read the candidates' committed files, their base model by the digest in policy.json, and the snapshot's test split.
2. Score every test response by each policy and, adapter off, by its base: perplexity of both, and KL(policy || base).
3. Answer some test prompts with the likeliest tokens: BLEU against the references, distinct n-grams, repetition,
   length. The first of these prompts are answered by the base, too, for people to compare.
4. With RL: reward both policies' answers as RL did, or, if it learned from judged answers, ask whether it tells
   held-out ones apart; keep what RL made unless it may be worse.
5. Write evaluation.json with every answer, the chosen policy's files, and the merged model that transformers loads as
   it is; report.html shows all of it to people. With RL, comparison.json has both policies' numbers.

Test rows decide nothing but the measured numbers and, with RL, the choice between two policies.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from peft import PeftModel

from ratchet_api.stage import EvaluateConfig, StageResult
from ratchet_api.training_run import Answers
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.demonstrations import Demonstration, read_demonstrations
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.generators.answering import generate, score
from ratchet_jobs.generators.artifact import MERGED_FOLDER, save_merged
from ratchet_jobs.generators.card import GeneratorCard, read_generator_card, write_generator_card
from ratchet_jobs.generators.examples import Examples, tokenize_rows
from ratchet_jobs.generators.loading import check_context, load_generator
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.metrics.choosing_answers import Judged, Worth, choose_answers
from ratchet_jobs.metrics.generation import answer_metrics, score_metrics
from ratchet_jobs.models.batching import sorted_batches
from ratchet_jobs.recipes.generator_parts import held_out_pairs, judge_pairs, make_answer_rewards
from ratchet_jobs.report.evidence import COMPARISON_FILE, EVALUATION_FILE
from ratchet_jobs.report.page import GENERATOR, write_report
from ratchet_jobs.rlhf.generate import episodes_of
from ratchet_jobs.rlhf.policies import open_trunk
from ratchet_jobs.rlhf.reward_model import saved_rank
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadConfigError, NotANumberError, Preempted

BASE_ANSWERS = 20
"""Prompts that the base answers, too."""

log = structlog.get_logger(__name__)


class Entrant(NamedTuple):
    """A policy to be measured."""

    role: str
    """rl, supervised or start."""
    folder: Path
    digest: str
    card: GeneratorCard


class Measured(NamedTuple):
    """A policy's numbers and answers."""

    entrant: Entrant
    metrics: dict[str, float]
    examples: Examples
    answers: list[list[int]]
    """Tokens of its answers to the first prompts."""
    texts: list[str]
    of_base: list[list[int]]
    likelihoods: NDArray[np.float64] | None
    """(2, N) log-probabilities of N better and N worse held-out answers; None = nothing was learned from such."""
    model: PeftModel | None
    """None = it was let go."""
    wording: Wording


def run(ctx: StageContext, config: EvaluateConfig) -> StageResult:
    """Measure the candidates and write the complete policy into the stage's output folder.

    Args:
        ctx: store, progress and stop signal of this pod.
        config: dataset, candidates and how to ask them.

    Returns:
        Metrics on the test split: perplexity, base_perplexity, kl, bleu1, bleu2, distinct1, distinct2, repetition,
        empty, mean_tokens, ended (share of answers that ended by themselves), n_test, n_answers, skipped_rows; with RL
        also reward (or agreement), both policies' numbers, their difference with its interval, and the choice.

    Raises:
        StageError: a candidate does not fit the snapshot or its base, or its numbers are none.
    """
    torch.set_num_threads(ctx.threads)

    # 1. snapshot and candidates; the one that is preferred last, since its model is then at hand
    snapshot = open_snapshot(ctx.store, config.dataset, into=ctx.folder("snapshot"))
    rows = read_demonstrations(snapshot, "test")
    entrants = _entrants(ctx, config)[::-1]
    base = fetch_model(ctx.store, entrants[0].card.base_model, namespace=ctx.namespace, into=ctx.folder("base"))
    judge = ctx.open_stage(config.reward_model)[0] if config.reward_model is not None else None
    done, total = 0, len(entrants) * _work(config, rows)

    def told(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        ctx.progress.report(done, total, examples=count)
        if ctx.should_stop():
            raise Preempted(f"asked to leave after {done} of {total} rows; the next pod measures again")

    # 2. and 3. scores and answers
    found: list[Measured] = []
    for entrant in entrants:
        found = [each._replace(model=None) for each in found]  # one model in memory at a time
        found.append(_measured(ctx, config, entrant, rows, base=base, told=told))
    kept, judged = found[-1], None

    # 4. worth and choice
    named: Worth = "reward" if config.preference is None else "agreement"
    worths = _rewards(config, found, base=base, judge=judge) if config.rlhf is not None else _agreements(found)
    if worths:
        found = [
            each._replace(metrics=each.metrics | {named: float(worth.mean())})
            for each, worth in zip(found, worths, strict=True)
        ]
        kept = found[-1]
        if len(found) == 2:
            judged = choose_answers(
                found[1].metrics,
                found[0].metrics,
                worths[1],
                worths[0],
                role=found[0].entrant.role,
                wanted=config.evaluation,
                seed=config.seed,
                worth=named,
            )
            kept = found[1] if judged.choice.chosen == "rl" else found[0]
            log.info("policy chosen", chosen=judged.choice.chosen, why=judged.choice.why)

    # 5. write the policy
    metrics = kept.metrics | (judged.metrics if judged is not None else {})
    _write(ctx, config, kept, found, judged, metrics=metrics)
    model = kept.model or load_generator(kept.entrant.folder, base)[0]
    save_merged(model, ctx.output / MERGED_FOLDER, wording=kept.wording, tokenizer_from=kept.entrant.folder)
    folders = {each.entrant.role: each.entrant.folder for each in found[::-1]}
    if judge is not None:
        folders["reward-model"] = judge
    write_report(ctx.output, GENERATOR, folders=folders, config=config, metrics=metrics, manifest=snapshot.manifest)
    return StageResult(metrics=metrics, choice=judged.choice if judged is not None else None)


def _entrants(ctx: StageContext, config: EvaluateConfig) -> list[Entrant]:
    """In order of preference: what RL made, if it made something, and what it started from."""
    found = [(ref.stage.value, *ctx.open_stage(ref)) for ref in config.candidates]
    entrants = [_entrant(role, folder, commit.digest, config) for role, folder, commit in found]
    if config.start is not None:
        folder = fetch_policy(ctx.store, config.start, namespace=ctx.namespace, into=ctx.folder("start"))
        entrants.append(_entrant("start", folder, config.start.digest, config))
    return entrants


def _entrant(role: str, folder: Path, digest: str, config: EvaluateConfig) -> Entrant:
    card = read_generator_card(folder).with_base_at(config.base_model)
    if config.max_tokens is not None and card.max_tokens != config.max_tokens:
        raise BadConfigError(
            f"maxTokens: the stage says {config.max_tokens}, the policy was trained with {card.max_tokens}; operator "
            "and stage image are of different versions: use matching ones"
        )
    return Entrant(role, folder, digest, card)


def _work(config: EvaluateConfig, rows: Sequence[Demonstration]) -> int:
    """Rows that measuring one policy takes, where all of them fit."""
    prompts = min(len(rows), (config.hyper.answers or Answers()).prompts)
    return len(rows) + prompts + min(prompts, BASE_ANSWERS)


def _measured(
    ctx: StageContext,
    config: EvaluateConfig,
    entrant: Entrant,
    rows: Sequence[Demonstration],
    *,
    base: Path,
    told: Callable[[int], None],
) -> Measured:
    """Score all responses and answer some prompts.

    Args:
        ctx: asked whether the pod must leave.
        config: how to ask.
        entrant: the policy.
        rows: of the test split.
        base: folder of its base model.
        told: called after each batch with its rows.
    """
    asked, size = config.hyper.answers or Answers(), config.hyper.batch_size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, wording, _ = load_generator(entrant.folder, base)
    model.to(device)
    examples = tokenize_rows(rows, wording, max_tokens=entrant.card.max_tokens, split="test")
    prompts = [pair.prompt for pair in examples.pairs[: asked.prompts]]
    longest = max(len(prompt) for prompt in prompts)
    field = f"stages.evaluate.answers.maxNewTokens {asked.max_new_tokens} after the longest prompt of {longest} tokens"
    check_context(model, max_tokens=longest + asked.max_new_tokens, field=field)
    scores = []
    for batch in sorted_batches(examples.lengths, size):
        scores.append(score(model, [examples.pairs[i] for i in batch], pad_id=wording.pad_id))
        told(len(batch))
    metrics = score_metrics(scores)
    if not all(math.isfinite(value) for value in metrics.values()):
        raise NotANumberError(f"test split: {metrics}; train again with a lower learningRate")

    def answered(wanted: Sequence[list[int]]) -> list[list[int]]:
        made = []
        for start in range(0, len(wanted), size):
            part = wanted[start : start + size]
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
    likelihoods = None
    if config.preference is not None:
        held_out = held_out_pairs(ctx, config, wording=wording, max_tokens=entrant.card.max_tokens)
        likelihoods = judge_pairs(model, held_out, pad_id=wording.pad_id, batch_size=size)
    return Measured(entrant, metrics, examples, answers, texts, of_base, likelihoods, model, wording)


def _rewards(
    config: EvaluateConfig, found: Sequence[Measured], *, base: Path, judge: Path | None
) -> list[NDArray[np.float64]]:
    """What each policy's answers are worth by the rewards of the rl stage, (N,) each.

    Args:
        config: names the rewards.
        found: the policy that RL started from first; the reward model stands on it.
        base: folder of the base model.
        judge: folder of the reward model; None = no reward asks one.
    """
    if config.rlhf is None:
        raise BadConfigError("evaluate stage: rewards are wanted without rlhf; the operator sets it")
    started = found[0].entrant
    trunk, _ = open_trunk(
        started.folder,
        base,
        digest=started.digest,
        rank=1,  # the policy's adapter says nothing here
        reward_rank=None if judge is None else saved_rank(judge),
        seed=config.seed,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    longest = (config.hyper.answers or Answers()).max_new_tokens
    references: dict[tuple[int, ...], list[str]] = {}
    for pair, row in zip(found[0].examples.pairs, found[0].examples.rows, strict=True):
        references.setdefault(tuple(pair.prompt), []).append(row.response)
    rewards = make_answer_rewards(trunk, config.rlhf, judge, references=references, max_new_tokens=longest)
    size = config.hyper.batch_size
    worth = []
    for each in found:
        pairs = list(zip((pair.prompt for pair in each.examples.pairs), each.answers, strict=False))
        parts = [rewards(episodes_of(pairs[at : at + size], trunk)) for at in range(0, len(pairs), size)]
        worth.append(torch.cat(parts).double().cpu().numpy())
    return worth


def _agreements(found: Sequence[Measured]) -> list[NDArray[np.float64]]:
    """Whether each held-out pair is told apart, (N,) per policy: 1 = its better answer gained more on the start.

    Nothing gained anything with the start itself, which therefore is at 0.5 everywhere.
    """
    first = found[0].likelihoods
    if first is None:
        return []
    gains = [each.likelihoods - first for each in found if each.likelihoods is not None]  # (2, N) log ratios
    return [(better > worse) + 0.5 * (better == worse) for better, worse in gains]


def _write(
    ctx: StageContext,
    config: EvaluateConfig,
    kept: Measured,
    found: Sequence[Measured],
    judged: Judged | None,
    *,
    metrics: dict[str, float],
) -> None:
    """Write the chosen policy's files, evaluation.json and, where two were held against each other, comparison.json."""
    shutil.copytree(kept.entrant.folder, ctx.output, dirs_exist_ok=True)
    write_generator_card(ctx.output, kept.entrant.card)
    table = _table(kept)
    if judged is not None:
        for place, entry in enumerate(table):
            entry |= {each.entrant.role: each.texts[place] for each in found}
        _write_json(ctx.output / COMPARISON_FILE, judged.report)
    report = {
        "policyType": kept.entrant.card.policy_type,
        "metrics": metrics,
        "answers": table,
        "candidate": kept.entrant.digest,
        "snapshot": config.dataset.digest,
    }
    _write_json(ctx.output / EVALUATION_FILE, report)


def _write_json(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _table(kept: Measured) -> list[dict[str, Any]]:
    """One object per prompt that was answered: prompt, reference, answer and, of the first, the base's answer."""
    said: list[dict[str, Any]] = [
        {"prompt": row.prompt, "reference": row.response, "answer": text}
        for row, text in zip(kept.examples.rows, kept.texts, strict=False)
    ]
    for entry, ids in zip(said, kept.of_base, strict=False):
        entry["base"] = kept.wording.text(ids)
    return said
