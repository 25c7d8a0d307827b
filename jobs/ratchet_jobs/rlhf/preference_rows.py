"""Judged answers as a policy learns from them, and as it is asked afterwards whether it tells them apart.

Decides which rows teach, which are held out and how held-out answers are paired, as a function of rows, settings and
seed alone: the rl stage, which learns from one part, and `evaluate`, which asks about the other, deal alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ratchet_api.preference import PreferenceStage
from ratchet_jobs.data.judged import Pair as JudgedPair
from ratchet_jobs.data.judged import Scored
from ratchet_jobs.generators.answering import Pair
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf.reward_model import Preferred, Rated, check_rows, split_rows
from ratchet_jobs.rlhf.wording import prompt_tokens, response_tokens
from ratchet_jobs.runtime.errors import BadDataError

FIELD = "spec.stages.preference.datasetRef"
MIDDLE = 0.5
"""Score above which an answer is good and below which it is bad; the middle says neither."""


class Names(NamedTuple):
    """How messages call what is given; as a run's spec has it, unless another door says otherwise."""

    rows: str = f"{FIELD}, train split"
    dataset: str = FIELD
    room: str = "the policy's maxTokens"
    more_room: str = "raise stages.supervised.maxTokens"
    algorithm: str = "algorithm: kto"
    held_out: str | None = "stages.preference.heldOutPercent"
    """None = the share that is held out cannot be changed."""


OF_RUNS = Names()


class Liked(NamedTuple):
    """Two answers as tokens, of which people thought one better."""

    better: Pair
    worse: Pair


class Single(NamedTuple):
    """An answer as tokens, and what people thought of it."""

    answer: Pair
    good: bool


class Dealt(NamedTuple):
    """What is learned from, and what is asked about."""

    train: list[Liked | Single]
    """Liked for dpo, Single for kto."""
    held_out: list[Liked]
    """Of prompts that were not learned from; ratings are paired at random, a good answer with a bad one."""
    skipped: int
    """Rows left out: prompt and answer do not fit, or the score is in the middle."""


def deal(
    judged: Sequence[JudgedPair | Scored],
    settings: PreferenceStage,
    *,
    wording: Wording,
    max_tokens: int,
    seed: int,
    names: Names = OF_RUNS,
) -> Dealt:
    """Part rows into those that teach and those that are held out.

    Args:
        judged: of the train split of the dataset, in its order.
        settings: of the stage.
        wording: of the model.
        max_tokens: that prompt and answer may have together; longer rows are left out.
        seed: of the run.
        names: for messages.

    Raises:
        BadDataError: too few rows, rows that teach nothing, or nothing held out that could be told apart.
    """
    rows = [Preferred(*row) if isinstance(row, JudgedPair) else Rated(*row) for row in judged]
    try:
        check_rows(rows)
    except BadDataError as error:
        raise BadDataError(f"{names.rows}: {error}") from error
    if settings.algorithm == "dpo" and any(isinstance(row, Rated) for row in rows):
        raise BadDataError(
            f"{names.dataset}: algorithm dpo learns from pairs, these are ratings; set {names.algorithm}"
        )
    kept = [
        row
        for row in rows
        if not (isinstance(row, Rated) and row.score == MIDDLE)
        and all(len(pair.prompt) + len(pair.response) <= max_tokens for pair in _tokens(row, wording))
    ]
    if not kept:
        raise BadDataError(
            f"{names.dataset}: of all {len(rows)} rows prompt and answer have more tokens than {names.room} "
            f"{max_tokens}, or the score is {MIDDLE:g}, which says nothing; {names.more_room}"
        )
    train, out = split_rows(kept, share=settings.held_out_percent / 100, seed=seed)
    learned = _learned(train, wording, singly=settings.algorithm == "kto")
    if {each.good for each in learned if isinstance(each, Single)} in ({True}, {False}) or not learned:
        raise BadDataError(
            f"{names.dataset}: the {len(learned)} answers to learn from are all good or all bad (score above or below "
            f"{MIDDLE:g}): nothing tells them apart; collect some of each"
        )
    held_out = _held_out(out, wording, seed=seed)
    if not held_out:
        more = "" if names.held_out is None else f"raise {names.held_out} (now {settings.held_out_percent:g}), or "
        raise BadDataError(
            f"{names.dataset}: of the {len(out)} rows held out none is a pair, nor is one good and another bad, so "
            f"nothing could be measured; {more}collect more"
        )
    return Dealt(learned, held_out, len(rows) - len(kept))


def _learned(rows: Sequence[Preferred | Rated], wording: Wording, *, singly: bool) -> list[Liked | Single]:
    learned: list[Liked | Single] = []
    for row in rows:
        pairs = _tokens(row, wording)
        if isinstance(row, Rated):
            learned.append(Single(pairs[0], row.score > MIDDLE))
        elif singly:
            learned += [Single(pairs[0], True), Single(pairs[1], False)]
        else:
            learned.append(Liked(*pairs))
    return learned


def _held_out(rows: Sequence[Preferred | Rated], wording: Wording, *, seed: int) -> list[Liked]:
    given = [Liked(*_tokens(row, wording)) for row in rows if isinstance(row, Preferred)]
    rated = [row for row in rows if isinstance(row, Rated)]
    good = [_tokens(row, wording)[0] for row in rated if row.score > MIDDLE]
    bad = [_tokens(row, wording)[0] for row in rated if row.score < MIDDLE]
    order = torch.randperm(len(bad), generator=generator_for(seed, "held-out pairs", 0)).tolist()
    return given + [Liked(better, bad[place]) for better, place in zip(good, order, strict=False)]


def _tokens(row: Preferred | Rated, wording: Wording) -> list[Pair]:
    """A row's answers after their prompt, the better one first."""
    answers = (row.chosen, row.rejected) if isinstance(row, Preferred) else (row.response,)
    prompt = prompt_tokens(wording, row.prompt, "dialogue")
    return [Pair(prompt, response_tokens(wording, answer, "dialogue")) for answer in answers]
