"""What the stages of generators that learn from rewards share: their start, their rewards. No loop stands here.

Called by `reward_model`, `rl_generator` and `evaluate_generator`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel

from ratchet_api.attempts import Artifact
from ratchet_api.rlhf import RlhfStage
from ratchet_api.stage import EvaluateConfig, StageRef
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.data.judged import read_judged
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.generators.answering import log_likelihoods
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.preference_rows import FIELD, Liked, deal
from ratchet_jobs.rlhf.reward_model import RewardModel
from ratchet_jobs.rlhf.rewards import AnswerRewards
from ratchet_jobs.rlhf.scorers import TrunkScorer
from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError


def fetch_start(ctx: StageContext, stage: StageRef | None, artifact: Artifact | None) -> tuple[Path, str]:
    """Download the policy to start from; returns its folder and digest."""
    if stage is not None:
        folder, commit = ctx.open_stage(stage)
        return folder, commit.digest
    if artifact is None:
        raise BadConfigError("neither start nor startArtifact is given; the operator sets one of them")
    folder = fetch_policy(ctx.store, artifact, namespace=ctx.namespace, into=ctx.folder("start"))
    return folder, artifact.digest


def make_answer_rewards(
    trunk: Trunk,
    hyper: RlhfStage,
    reward_model: Path | None,
    *,
    references: Mapping[tuple[int, ...], Sequence[str]],
    max_new_tokens: int,
) -> AnswerRewards:
    """The reward of answers as the settings name it.

    Args:
        trunk: that answers stand on, with the reward model's rank.
        hyper: of the rl stage.
        reward_model: folder of the reward model; None = no component asks it.
        references: right answers by the tokens of their prompt.
        max_new_tokens: that an answer may have.

    Raises:
        BadModelError: the reward model does not fit the trunk.
        BadConfigError: an expression is malformed.
    """
    model = None if reward_model is None else RewardModel.load(reward_model, TrunkScorer(trunk))
    return AnswerRewards(
        hyper.rewards,
        texts=lambda episodes: answer_texts(trunk.wording, episodes),
        max_new_tokens=max_new_tokens,
        model=model,
        references=references,
    )


def answer_texts(wording: Wording, episodes: Episodes) -> list[str]:
    """The words of each answer, its end left out."""
    rows = zip(episodes.response_ids.tolist(), episodes.lengths.tolist(), strict=True)
    return [wording.text([token for token in ids[:length] if token != wording.eos_id]) for ids, length in rows]


def prompts_of(
    rows: Sequence[Demonstration], wording: Wording, *, max_tokens: int
) -> tuple[dict[tuple[int, ...], list[str]], int]:
    """Different prompts as tokens with their answers, and how many rows' prompts alone take max_tokens.

    Raises:
        BadDataError: none is left, or the chat template refuses a row's turns.
    """
    found: dict[tuple[int, ...], list[str]] = {}
    skipped = 0
    for row in rows:
        prompt = tuple(wording.prompt(row.turns))
        if len(prompt) < max_tokens:
            found.setdefault(prompt, []).append(row.response)
        else:
            skipped += 1
    if not found:
        raise BadDataError(
            f"train split: the prompts of all {len(rows)} rows have {max_tokens} tokens or more; raise "
            "stages.supervised.maxTokens, or lower spec.filters.maxTextChars of the dataset"
        )
    return found, skipped


def held_out_pairs(ctx: StageContext, config: EvaluateConfig, *, wording: Wording, max_tokens: int) -> list[Liked]:
    """The judged answers that the rl stage held out, as it dealt them.

    Args:
        ctx: store of their snapshot.
        config: names snapshot and settings.
        wording: of the model.
        max_tokens: of the policy's card.
    """
    if config.preference is None or config.log is None:
        raise BadConfigError("evaluate stage: preference or log is missing; the operator sets both")
    rows = read_judged(open_snapshot(ctx.store, config.log, into=ctx.folder("judged")), field=FIELD)
    return deal(rows, config.preference, wording=wording, max_tokens=max_tokens, seed=config.seed).held_out


def judge_pairs(model: PeftModel, pairs: Sequence[Liked], *, pad_id: int, batch_size: int) -> NDArray[np.float64]:
    """Log-probabilities of the better and the worse answer of N pairs, (2, N).

    Args:
        model: that is asked.
        pairs: at least one.
        pad_id: fills up.
        batch_size: answers per pass.
    """
    answers = [pair.better for pair in pairs] + [pair.worse for pair in pairs]
    found: list[float] = []
    for start in range(0, len(answers), batch_size):
        found += log_likelihoods(model, answers[start : start + batch_size], pad_id=pad_id)
    return np.asarray(found, dtype=np.float64).reshape(2, len(pairs))
