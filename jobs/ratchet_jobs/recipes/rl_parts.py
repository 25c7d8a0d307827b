"""What the two rl recipes share: where they start, how they train and what they write. No loop stands here.

Called by `rl_classifier`, which asks a policy, and `rl_from_log`, which reads what a policy was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ratchet_api.attempts import Artifact
from ratchet_api.rl import RlStage
from ratchet_api.stage import StageRef
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.models.actor_critic import QueryTable
from ratchet_jobs.rl.rollout import PolicyOutput
from ratchet_jobs.rl.sharing import share_of
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, NotANumberError, Preempted

STATE_FILE = "training.safetensors"
NOTES_FILE = "training.json"

CURVES = (
    "policy_loss",
    "value_loss",
    "entropy",
    "approx_kl",
    "clipfrac",
    "explained_variance",
    "grad_norm",
    "learning_rate",
)
"""Of each update, live and in the result, where the algorithm has them."""

TINY = 1e-30
"""Probabilities below it are as good as this one; its logarithm is finite."""

LAST_ROLLOUTS = 5
"""avg_return in the result is the mean over this many last rollouts."""

ADAM_EPS = 1e-5
"""As PPO's reference implementation has it (openai/baselines, ppo2/model.py)."""


def open_start(ctx: StageContext, stage: StageRef | None, artifact: Artifact | None) -> Path:
    """Download the policy to start from."""
    if stage is not None:
        return ctx.open_stage(stage)[0]
    if artifact is None:
        raise BadConfigError("rl stage: neither start nor startArtifact is given; the operator sets one of them")
    return fetch_policy(ctx.store, artifact, namespace=ctx.namespace, into=ctx.folder("start"))


def check_sizes(hyper: RlStage, *, rows: int, of: str) -> None:
    """Refuse budgets that the rows cannot serve.

    Args:
        hyper: settings of the stage.
        rows: queries with at least one token.
        of: what they are the rows of, for messages.

    Raises:
        BadDataError: there are too few queries.
    """
    if rows == 0:
        raise BadDataError(f"{of}: no text gives a token, so there is nothing to learn from: add rows to the dataset")
    if hyper.traffic == "fresh" and hyper.interactions > rows:
        raise BadDataError(
            f"stages.rl.interactions: {hyper.interactions} is above the {rows} queries of {of}, and traffic "
            "fresh asks each once; lower it, add rows, or set traffic: reshuffled"
        )
    if hyper.rollout_size > rows:
        raise BadDataError(
            f"stages.rl.rolloutSize: {hyper.rollout_size} is above the {rows} queries of {of}, so that one "
            "rollout would ask some twice; lower it or add rows"
        )


def encode(ctx: StageContext, table: QueryTable, asked: NDArray[np.int64]) -> Tensor:
    """Let every query that will be asked pass the encoder once; of several nodes each encodes its share.

    Args:
        ctx: asked after each batch whether the pod must leave; its team shares the texts.
        table: of all queries.
        asked: (M,) rows, each once.

    Returns:
        Features (N, D) of all queries of the table, 0 for those not asked.

    Raises:
        Preempted: the pod must leave; the pass is short and starts over. Other nodes then lose a peer.
    """
    done = 0

    def after_batch(rows: int) -> None:
        nonlocal done
        done += rows
        if ctx.stop.is_set():  # shares differ in batches, so nodes cannot ask each other here
            raise Preempted(
                f"asked to leave after {done} of {len(asked)} queries were encoded; the next pod starts over"
            )

    features = table.pooled(asked, after_batch=after_batch, share=share_of(ctx.team))
    ctx.team.sum_(features)
    return features


def parameter_groups(parameters: Mapping[str, nn.Parameter], hyper: RlStage) -> list[dict[str, object]]:
    """Parameter groups with their learning rates: class head, value head, adapters."""
    rates = {"head": hyper.head_learning_rate, "value_head": hyper.value_learning_rate, "encoder": hyper.learning_rate}
    groups = {part: [p for name, p in parameters.items() if name.partition(".")[0] == part] for part in rates}
    return [{"params": groups[part], "lr": rate} for part, rate in rates.items() if groups[part]]


def check_finite(output: PolicyOutput, number: int) -> None:
    """Refuse to go on with numbers that are none.

    Raises:
        NotANumberError: names the rollout, counted from 0 here.
    """
    # classes of other tasks are at minus infinity; a row whose own are not finite has no finite largest one
    wrong = output.logits.isnan().any() | ~torch.isfinite(output.logits.amax(-1)).all()
    if bool(wrong) or not bool(torch.isfinite(output.values).all()):
        raise NotANumberError(
            f"rollout {number + 1}: the policy's logits or values are not all finite; start from another version, or "
            "lower stages.rl.learningRate and headLearningRate"
        )


def check_probabilities(rewards: Tensor) -> None:
    """Refuse rewards that dqn cannot learn.

    Raises:
        BadConfigError: one is outside 0..1.
    """
    low, high = float(rewards.min()), float(rewards.max())
    if low < 0.0 or high > 1.0:
        raise BadConfigError(
            f"stages.rl.rewards: from {low:g} to {high:g}, but dqn learns each class's reward as a probability; scale "
            "and clip them to 0..1, or take ppo"
        )


def totals_of(curve: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of the whole stage from its curve, one point per rollout, at least one."""
    tail = curve[-LAST_ROLLOUTS:]
    return {
        "avg_return": sum(point["avg_return"] for point in tail) / len(tail),
        "interactions": curve[-1]["interactions"],
        "rollouts": float(len(curve)),
        "optimizer_steps": sum(point["optimizer_steps"] for point in curve),
    }


def newest_of(curve: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The last update's numbers and the best return so far, where the algorithm has them."""
    return {name: curve[-1][name] for name in ("best_return", *CURVES) if name in curve[-1]}


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors below a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
