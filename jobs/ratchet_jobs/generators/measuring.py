"""What a trained generator's answers are like: its numbers on held-out demonstrations, and the answers themselves.

Decides the order of work: every response is scored by the policy and, adapter off, by its base; then some prompts are
answered with the likeliest tokens. Never rewards, never chooses, writes nothing. Called by the evaluate recipe of
generators, and by `ratchet evaluate` and `ratchet compare`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel

from ratchet_api.training_run import Answers
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.generators.answering import generate, score
from ratchet_jobs.generators.card import GeneratorCard
from ratchet_jobs.generators.examples import Examples, tokenize_rows
from ratchet_jobs.generators.loading import check_context, load_generator
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.metrics.generation import answer_metrics, score_metrics
from ratchet_jobs.models.batching import sorted_batches
from ratchet_jobs.runtime.errors import NotANumberError

BASE_ANSWERS = 20
"""Prompts that the base answers, too."""


class Measured(NamedTuple):
    """A policy's numbers and answers."""

    metrics: dict[str, float]
    examples: Examples
    answers: list[list[int]]
    """Tokens of its answers to the first prompts, the end of sequence among them if they ended by themselves."""
    lengths: list[int]
    """Tokens of each answer, its end not counted."""
    texts: list[str]
    of_base: list[list[int]]
    """Tokens of the base's answers to the first BASE_ANSWERS of these prompts."""
    card: GeneratorCard
    model: PeftModel
    wording: Wording


def work_of(rows: int, asked: Answers) -> int:
    """Rows that measuring one policy takes, where all of them fit."""
    prompts = min(rows, asked.prompts)
    return rows + prompts + min(prompts, BASE_ANSWERS)


def measure_answers(
    folder: Path,
    base: Path,
    rows: Sequence[Demonstration],
    *,
    asked: Answers,
    batch_size: int,
    field: str,
    split: str = "test",
    told: Callable[[int], None] = lambda count: None,
    stop: Callable[[], bool] = lambda: False,
    stop_texts: Sequence[str] = (),
) -> Measured:
    """Score all responses and answer some prompts.

    Args:
        folder: of a committed generator.
        base: of its base model.
        rows: at least one.
        asked: how many prompts are answered, and how long an answer may be.
        batch_size: rows per pass.
        field: how messages call the length of an answer.
        split: how messages call the rows.
        told: called after each batch with its rows.
        stop: asked after each token; true ends all answers where they are.
        stop_texts: an answer that says one of them has ended by itself just before.

    Returns:
        Metrics perplexity, base_perplexity, kl, bleu1, bleu2, distinct1, distinct2, repetition, overlap, empty,
        mean_tokens, ended (share of answers that ended by themselves), n_test, n_answers and skipped_rows; answers and
        model.

    Raises:
        BadModelError: policy and base cannot be used together.
        BadDataError: no row fits.
        BadConfigError: an answer may pass the model's context.
        NotANumberError: perplexity or kl is none.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, wording, card = load_generator(folder, base)
    model.to(device)
    examples = tokenize_rows(rows, wording, max_tokens=card.max_tokens, split=split)
    prompts = [pair.prompt for pair in examples.pairs[: asked.prompts]]
    _check_room(model, prompts, asked, field=field)
    scores = []
    for batch in sorted_batches(examples.lengths, batch_size):
        scores.append(score(model, [examples.pairs[i] for i in batch], pad_id=wording.pad_id))
        told(len(batch))
    metrics = score_metrics(scores)
    if not all(math.isfinite(value) for value in metrics.values()):
        raise NotANumberError(f"{split} split: {metrics}; train again with a lower learningRate")

    most = asked.max_new_tokens

    def answered(wanted: Sequence[list[int]]) -> list[list[int]]:
        made = []
        for start in range(0, len(wanted), batch_size):
            part = wanted[start : start + batch_size]
            made += generate(model, part, wording=wording, max_new_tokens=most, stop=stop, stop_texts=stop_texts)
            told(len(part))
        return made

    answers = answered(prompts)
    with model.disable_adapter():
        of_base = answered(prompts[:BASE_ANSWERS])
    texts = [wording.text(ids) for ids in answers]
    lengths, ended = _lengths(answers, eos_id=wording.eos_id)
    metrics |= answer_metrics(texts, examples.rows[: len(texts)], lengths)
    metrics |= {
        "ended": ended,
        "n_test": float(len(examples.pairs)),
        "n_answers": float(len(texts)),
        "skipped_rows": float(examples.long_prompts),
    }
    return Measured(metrics, examples, answers, lengths, texts, of_base, card, model, wording)


def _lengths(answers: Sequence[list[int]], *, eos_id: int) -> tuple[list[int], float]:
    """Tokens of each answer without its end, and the share of answers that have one."""
    ended = [bool(ids) and ids[-1] == eos_id for ids in answers]
    return [len(ids) - end for ids, end in zip(answers, ended, strict=True)], sum(ended) / len(ended)


def _check_room(model: PeftModel, prompts: Sequence[list[int]], asked: Answers, *, field: str) -> None:
    longest = max(len(prompt) for prompt in prompts)
    named = f"{field} {asked.max_new_tokens} after the longest prompt of {longest} tokens"
    check_context(model, max_tokens=longest + asked.max_new_tokens, field=named)
