"""What the stages of generators that learn from rewards share: their start, their rewards. No loop stands here.

Called by `reward_model`, `rl_generator` and `evaluate_generator`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ratchet_api.attempts import Artifact
from ratchet_api.rlhf import RlhfStage
from ratchet_api.stage import StageRef
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.rlhf.generate import Episodes, pad_prompts
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
    trunk: Trunk, hyper: RlhfStage, reward_model: Path | None, *, max_new_tokens: int
) -> AnswerRewards:
    """The reward of answers as the settings name it.

    Args:
        trunk: that answers stand on, with the reward model's rank.
        hyper: of the rl stage.
        reward_model: folder of the reward model; None = no component asks it.
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
    )


def episodes_of(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], trunk: Trunk) -> Episodes:
    """Given answers as rewards see those that were drawn; what only training needs of them is 0.

    Args:
        pairs: tokens of B prompts and their answers, each at least one token.
        trunk: for its device and the token that fills up.
    """
    prompts = pad_prompts([prompt for prompt, _ in pairs], pad_id=trunk.wording.pad_id, device=trunk.device)
    lengths = torch.tensor([len(answer) for _, answer in pairs])
    ids = torch.full((len(pairs), int(lengths.max())), trunk.wording.pad_id)
    for row, (_, answer) in enumerate(pairs):
        ids[row, : len(answer)] = torch.tensor(answer)
    mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
    ended = torch.tensor([answer[-1] == trunk.wording.eos_id for _, answer in pairs])
    unknown = torch.zeros(ids.shape, device=trunk.device)
    return Episodes(
        *prompts, ids.to(trunk.device), mask.to(trunk.device), unknown, unknown, unknown, stopped=ended.to(trunk.device)
    )


def answer_texts(wording: Wording, episodes: Episodes) -> list[str]:
    """The words of each answer, its end left out."""
    rows = zip(episodes.response_ids.tolist(), episodes.lengths.tolist(), strict=True)
    return [wording.text([token for token in ids[:length] if token != wording.eos_id]) for ids, length in rows]


def prompts_of(rows: Sequence[Demonstration], wording: Wording, *, max_tokens: int) -> tuple[list[list[int]], int]:
    """Different prompts as tokens, and how many rows were left out because their prompt alone takes max_tokens.

    Raises:
        BadDataError: none is left, or the chat template refuses a row's turns.
    """
    asked = [tuple(wording.prompt(row.turns)) for row in rows]
    kept = [prompt for prompt in asked if len(prompt) < max_tokens]
    if not kept:
        raise BadDataError(
            f"train split: the prompts of all {len(rows)} rows have {max_tokens} tokens or more; raise "
            "stages.supervised.maxTokens, or lower spec.filters.maxTextChars of the dataset"
        )
    return [list(prompt) for prompt in dict.fromkeys(kept)], len(asked) - len(kept)
