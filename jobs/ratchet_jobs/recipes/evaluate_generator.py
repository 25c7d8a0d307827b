"""Evaluate stage of a generator: measure trained policies on held-out demonstrations, choose one, commit it whole.

1. Read the candidates' committed files, their base model by the digest in policy.json, and the snapshot's test split.
2. Score every test response by each policy and, adapter off, by its base: perplexity of both, and KL(policy || base).
3. Answer some test prompts with the likeliest tokens: BLEU against the references, distinct n-grams, repetition,
   length. The first of these prompts are answered by the base, too, for people to compare.
4. With RL: reward both policies' answers as RL did, or, if it learned from judged answers, ask whether it tells
   held-out ones apart; keep what RL made unless it may be worse. A judge, if one is named, says whose answers it
   prefers, asked in both orders; gates may ask for it. Then it compares the kept policy's with the live champion's.
   Of several agents the first is the one that is judged; the others are measured by their own rewards beside it
   (`evaluate_agents`).
5. Write evaluation.json with every answer, the chosen policy's files, and the merged model that transformers loads as
   it is; report.html shows all of it to people. With RL, comparison.json has both policies' numbers.

Test rows decide nothing but the measured numbers and, with RL, the choice between two policies. The champion is
measured first, decides nothing, and is left out with a word where it cannot be measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from peft import PeftModel

from ratchet_api.comparison import Comparison
from ratchet_api.policy_types import ITEM_RATIO
from ratchet_api.stage import EvaluateConfig, StageResult
from ratchet_api.training_run import Answers
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.demonstrations import Demonstration, read_demonstrations
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.data.snapshots import Snapshot, open_snapshot
from ratchet_jobs.data.turns import words_of
from ratchet_jobs.generators.artifact import MERGED_FOLDER, save_merged
from ratchet_jobs.generators.card import GeneratorCard, read_generator_card, write_generator_card
from ratchet_jobs.generators.examples import Examples
from ratchet_jobs.generators.loading import load_generator
from ratchet_jobs.generators.measuring import measure_answers, work_of
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.judging.judge import AskedJudge
from ratchet_jobs.judging.pairs import Preferences, compare, pair_judge
from ratchet_jobs.metrics.breakdown import compare_parts, means_of
from ratchet_jobs.metrics.choosing_answers import DECIMALS, Judged, Worth, choose_answers
from ratchet_jobs.recipes.evaluate_agents import copy_alone, gains_of, keep_agents, measure_agents, others_of
from ratchet_jobs.recipes.generator_champion import CHAMPION, Live, measure_champion, told_of, unlike
from ratchet_jobs.recipes.generator_parts import (
    Rewarded,
    fetch_reward_model,
    held_out_pairs,
    judge_pairs,
    make_judges,
    mentioned_by,
    reward_answers,
    stop_texts,
)
from ratchet_jobs.recipes.reward_files import Fetching
from ratchet_jobs.report.evidence import COMPARISON_FILE, EVALUATION_FILE
from ratchet_jobs.report.page import GENERATOR, write_report
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadConfigError, JudgeUnavailable, Preempted

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
    worths: Mapping[str, NDArray[np.float64]] = MappingProxyType({})
    """(N,) what each answer is worth by each component of the reward, before its weight."""


def run(ctx: StageContext, config: EvaluateConfig) -> StageResult:
    """Measure the candidates and write the complete policy into the stage's output folder.

    Args:
        ctx: store, progress and stop signal of this pod.
        config: dataset, candidates and how to ask them.

    Returns:
        Metrics on the test split: perplexity, base_perplexity, kl, bleu1, bleu2, distinct1, distinct2, repetition,
        empty, mean_tokens, ended (share of answers that ended by themselves), n_test, n_answers, skipped_rows; with RL
        also reward (or agreement), item_ratio if a reward knows items, both policies' numbers, their difference with
        its interval, and the choice; with a judge and a champion champion/judge_win_rate, the share of prompts that the
        kept policy wins against it.

    Raises:
        StageError: a candidate does not fit the snapshot or its base, or its numbers are none.
    """
    torch.set_num_threads(ctx.threads)

    # 1. snapshot and candidates; the one that is preferred last, since its model is then at hand
    snapshot = open_snapshot(ctx.store, config.dataset, into=ctx.folder("snapshot"))
    rows = read_demonstrations(snapshot, "test")
    entrants = _entrants(ctx, config)[::-1]
    base = fetch_model(ctx.store, entrants[0].card.base_model, namespace=ctx.namespace, into=ctx.folder("base"))
    judge = fetch_reward_model(ctx, config.reward_model, config.rlhf)
    # a policy that nothing is held against is compared with no champion or agent either: rl failed, or there was none
    held = len(entrants) > 1
    beside = held and config.champion is not None and config.hyper.judge is not None
    known = config.champion is not None and config.champion.digest in {each.digest for each in entrants}
    work = work_of(len(rows), config.hyper.answers or Answers())
    done, total = 0, (len(entrants) + (beside and not known) + (len(others_of(config)) if held else 0)) * work

    def told(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        ctx.progress.report(done, total, examples=count)
        if ctx.should_stop():
            raise Preempted(f"asked to leave after {done} of {total} rows; the next pod measures again")

    # 2. and 3. scores and answers
    sha256 = entrants[0].card.base_model.sha256
    live, absent = None, ""
    if beside and not known:
        live, absent = measure_champion(ctx, config, rows, base=base, base_sha256=sha256, told=told)
    found: list[Measured] = []
    for entrant in entrants:
        found = [each._replace(model=None) for each in found]  # one model in memory at a time
        found.append(_measured(ctx, config, entrant, rows, base=base, told=told))
    if beside and known:
        live = _live_among(config, found)
    kept, judged = found[-1], None

    # 4. worth and choice
    named: Worth = "reward" if config.preference is None else "agreement"
    rewarded: list[Rewarded] = []
    if config.rlhf is not None:
        rewarded = _rewards(ctx, config, found, base=base, judge=judge, snapshot=snapshot)
        found = [
            each._replace(worths=said.parts, metrics=each.metrics | _items_of(said))
            for each, said in zip(found, rewarded, strict=True)
        ]
    worths = [each.total for each in rewarded] or _agreements(found)
    if worths:
        found = [
            each._replace(metrics=each.metrics | {named: float(worth.mean())} | means_of(each.worths))
            for each, worth in zip(found, worths, strict=True)
        ]
        kept = found[-1]
        if len(found) == 2:
            pairs = _pair_judge(ctx, config)
            preferred = None if pairs is None else _preferred(pairs, found[1], found[1].texts, found[0].texts)
            judged = choose_answers(
                found[1].metrics,
                found[0].metrics,
                worths[1],
                worths[0],
                role=found[0].entrant.role,
                wanted=config.evaluation,
                seed=config.seed,
                worth=named,
                judge_win_rate=None if preferred is None else preferred.win_rate,
            )
            judged.report["components"] = compare_parts(
                found[1].worths, found[0].worths, rules=config.evaluation.comparison or Comparison(), seed=config.seed
            )
            if others_of(config):
                kept, found = found[0], [each._replace(model=None) for each in found]
                judged = _with_agents(
                    ctx, config, found, judged, rows, base=base, judge=judge, snapshot=snapshot, told=told
                )
            kept = found[1] if judged.choice.chosen == "rl" else found[0]
            log.info("policy chosen", chosen=judged.choice.chosen, why=judged.choice.why)
            if live is not None and pairs is not None:
                absent = _tell_of_champion(pairs, kept, live, judged)
            if absent:
                judged.report["champion_absent"] = absent

    # 5. write the policy
    metrics = kept.metrics | (judged.metrics if judged is not None else {})
    _write(ctx, config, kept, found, judged, champion=None if absent or live is None else live.texts, metrics=metrics)
    model = kept.model or load_generator(kept.entrant.folder, base)[0]
    save_merged(model, ctx.output / MERGED_FOLDER, wording=kept.wording, tokenizer_from=kept.entrant.folder)
    folders = {each.entrant.role: each.entrant.folder for each in found[::-1]}
    if judge is not None:
        folders["reward-model"] = judge
    write_report(ctx.output, GENERATOR, folders=folders, config=config, metrics=metrics, manifest=snapshot.manifest)
    return StageResult(metrics=metrics, choice=judged.choice if judged is not None else None)


def _with_agents(
    ctx: StageContext,
    config: EvaluateConfig,
    found: Sequence[Measured],
    judged: Judged,
    rows: Sequence[Demonstration],
    *,
    base: Path,
    judge: Path | None,
    snapshot: Snapshot,
    told: Callable[[int], None],
) -> Judged:
    """The comparison with what the other agents gained on the policy that all started from.

    Args:
        ctx: of the stage.
        config: of the stage.
        found: that policy first, the first agent second.
        judged: the comparison of the two.
        rows: of the test split.
        base: folder of the base model.
        judge: folder of the reward model; None = no reward asks one.
        snapshot: of the demonstrations.
        told: called after each batch with its rows.
    """
    start, first = found
    agents = measure_agents(
        ctx,
        config,
        trained=first.entrant.folder,
        start=start.entrant.folder,
        digest=start.entrant.digest,
        answered=(start.examples, start.answers),
        rows=rows,
        base=base,
        judge=judge,
        mentioned=mentioned_by(read_demonstrations(snapshot, "train")),
        told=told,
    )
    return judged._replace(
        metrics=judged.metrics | gains_of(agents),
        report=judged.report | {"agents": agents},
    )


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
    size = config.hyper.batch_size
    seen = measure_answers(
        entrant.folder,
        base,
        rows,
        asked=config.hyper.answers or Answers(),
        batch_size=size,
        field="stages.evaluate.answers.maxNewTokens",
        told=told,
        stop=ctx.should_stop,
        stop_texts=stop_texts(config.rlhf),
    )
    likelihoods = None
    if config.preference is not None:
        held_out = held_out_pairs(ctx, config, wording=seen.wording, max_tokens=entrant.card.max_tokens)
        likelihoods = judge_pairs(seen.model, held_out, pad_id=seen.wording.pad_id, batch_size=size)
    return Measured(
        entrant,
        seen.metrics,
        seen.examples,
        seen.answers,
        seen.texts,
        seen.of_base,
        likelihoods,
        seen.model,
        seen.wording,
    )


def _rewards(
    ctx: StageContext,
    config: EvaluateConfig,
    found: Sequence[Measured],
    *,
    base: Path,
    judge: Path | None,
    snapshot: Snapshot,
) -> list[Rewarded]:
    """What each policy's answers are worth by the rewards of the rl stage.

    Args:
        ctx: its store has the files that rewards name, and what judges said before.
        config: names the rewards.
        found: the policy that RL started from first; the reward model stands on it.
        base: folder of the base model.
        judge: folder of the reward model; None = no reward asks one.
        snapshot: of the demonstrations.
    """
    if config.rlhf is None:
        raise BadConfigError("evaluate stage: rewards are wanted without rlhf; the operator sets it")
    hyper = config.rlhf.of_its_policy
    return reward_answers(
        hyper,
        start=found[0].entrant.folder,
        digest=found[0].entrant.digest,
        base=base,
        judge=judge,
        answered=[(each.examples, each.answers) for each in found],
        judges=make_judges(hyper, ctx.store, ctx.namespace),
        mentioned=mentioned_by(read_demonstrations(snapshot, "train")),
        fetch=Fetching(ctx.store, namespace=ctx.namespace, into=ctx.folder("rewards")),
        max_new_tokens=(config.hyper.answers or Answers()).max_new_tokens,
        batch_size=config.hyper.batch_size,
        seed=config.seed,
    )


def _pair_judge(ctx: StageContext, config: EvaluateConfig) -> AskedJudge | None:
    """The judge of both policies' answers; None = none is named."""
    if config.hyper.judge is None:
        return None
    return pair_judge(config.hyper.judge, ctx.store, ctx.namespace, field="stages.evaluate.judge")


def _preferred(judge: AskedJudge, asked: Measured, ours: Sequence[str], theirs: Sequence[str]) -> Preferences:
    """What the judge says of two policies' answers to the prompts that `asked` answered."""
    prompts = [words_of(row.turns) for row in asked.examples.rows[: len(ours)]]
    preferred = compare(judge, prompts, ours, theirs)
    log.info(
        "answers judged", win_rate=preferred.win_rate, changed_with_the_order=preferred.changed, failed=judge.failed
    )
    return preferred


def _live_among(config: EvaluateConfig, found: Sequence[Measured]) -> Live | None:
    """The champion where it is one of these policies, as RL's start often is: it is not measured twice."""
    for each in found:
        if config.champion is not None and each.entrant.digest == config.champion.digest:
            return Live(each.entrant.digest, each.metrics, each.examples.rows, each.texts, each.entrant.card.max_tokens)
    return None


def _tell_of_champion(judge: AskedJudge, kept: Measured, live: Live, judged: Judged) -> str:
    """Add to the comparison what the judge says of the champion; else return why it says nothing.

    What was chosen is settled, so a judge that fails now, for all that it was asked until then, ends nothing.
    """
    if why := unlike(live, kept.examples.rows, kept.texts, max_tokens=kept.entrant.card.max_tokens):
        return why
    try:
        preferred = _preferred(judge, kept, kept.texts, live.texts)
    except (BadConfigError, JudgeUnavailable) as error:
        log.warning("the judge fails at the champion's answers, and they are not compared", error=str(error))
        return str(error)
    numbers, said = told_of(live, preferred)
    judged.metrics.update(numbers)
    judged.report.update(said)
    return ""


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
    champion: Sequence[str] | None,
    metrics: dict[str, float],
) -> None:
    """Write the chosen policy's files, evaluation.json and, where two were held against each other, comparison.json.

    Args:
        ctx: says where.
        config: names the snapshot.
        kept: the chosen policy.
        found: all that RL's choice was made of.
        judged: the choice; None = there was none.
        champion: its answers to the prompts that the others answered; None = it was not compared.
        metrics: of the result.
    """
    copy_alone(kept.entrant.folder, ctx.output)
    if (preferred := found[-1].entrant).role == "rl":
        keep_agents(config, preferred.folder, ctx.output)
    write_generator_card(ctx.output, kept.entrant.card)
    table = _table(kept)
    if judged is not None:
        for place, entry in enumerate(table):
            entry |= {each.entrant.role: each.texts[place] for each in found}
            if champion is not None:
                entry[CHAMPION] = champion[place]
            if kept.worths:
                entry["worth"] = {each.entrant.role: _worths_at(each, place) for each in found}
        _write_json(ctx.output / COMPARISON_FILE, judged.report)
    report = {
        "policyType": kept.entrant.card.policy_type,
        "metrics": metrics,
        "answers": table,
        "candidate": kept.entrant.digest,
        "snapshot": config.dataset.digest,
    }
    _write_json(ctx.output / EVALUATION_FILE, report)


def _items_of(said: Rewarded) -> dict[str, float]:
    return {} if said.item_ratio is None else {ITEM_RATIO: said.item_ratio}


def _worths_at(measured: Measured, place: int) -> dict[str, float]:
    """What one answer is worth by each component of the reward."""
    return {name: round(float(worths[place]), DECIMALS) for name, worths in measured.worths.items()}


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
