"""Objectives without a value model: several answers to one prompt are each other's measure. Pure.

    GroupRelative  GRPO (Shao et al. 2024, arXiv:2402.03300, eq. 3): A = (score - mean of its group) / deviation of its
                   group, the same for all tokens of an answer; clipped surrogate, and the divergence from the reference
                   as a term of the loss (their eq. 4); a mean over each answer's tokens, then over the answers
    LeaveOneOut    RLOO (Ahmadian et al. 2024, arXiv:2402.14740, section 3.2): A = R - mean R of the *other* answers to
                   the prompt, R = score - kl_coef * log(pi / pi_ref) of the whole answer, which is one single action

Deviations, and why:
 a. kl_coef follows a target in both, as it does with PPO; the papers keep it as it is.
 b. LeaveOneOut clips the ratio of whole answers as PPO clips that of a token. In the first step of a rollout the ratio
    is 1 and the gradient that of REINFORCE, as in the paper; later ones, which the paper has not, are held back.
 c. A group's deviation is that of the population, so two answers are always worth 1 and -1.
Called by the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ratchet_jobs.rl.diagnostics import kl_k3
from ratchet_jobs.rl.losses import ppo_policy_loss
from ratchet_jobs.rl.shapes import require_same_shape
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.objectives.base import Experience, Losses


def group_relative(scores: Tensor, *, group_size: int) -> Tensor:
    """(score - mean) / deviation within each group of neighbours; 0 where all scores of a group are equal.

    Args:
        scores: (B,), each group_size in a row of one prompt.
        group_size: >= 2, divides B.

    Returns:
        (B,).
    """
    groups = scores.view(-1, group_size)
    gaps = groups - groups.mean(1, keepdim=True)
    deviation = groups.std(1, correction=0, keepdim=True)
    level = (groups == groups[:, :1]).all(1, keepdim=True)  # rounding of a mean must not be scaled up
    return torch.where(level, torch.zeros_like(gaps), gaps / deviation).flatten()


def leave_one_out(returns: Tensor, *, group_size: int) -> Tensor:
    """Each return less the mean of the others of its group.

    Args:
        returns: (B,), each group_size in a row of one prompt.
        group_size: >= 2, divides B.

    Returns:
        (B,), of sum 0 in each group.
    """
    groups = returns.view(-1, group_size)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).flatten()


def answer_means(tokens: Tensor, response_mask: Tensor) -> Tensor:
    """Mean over each answer's tokens: (M, T) and (M, T) bool -> (M,).

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("answer_means", tokens=tokens, response_mask=response_mask)
    return torch.where(response_mask, tokens, 0.0).sum(1) / response_mask.sum(1)


@dataclass(frozen=True, slots=True)
class GroupRelative:
    """GRPO's objective; see `Objective`."""

    group_size: int
    cliprange: float
    has_values: bool = False

    def experience(self, episodes: Episodes, scores: Tensor, ref_logprobs: Tensor, *, kl_coef: float) -> Experience:
        """See `Objective`; the penalty stands in the loss."""
        worth = group_relative(scores, group_size=self.group_size).to(ref_logprobs.dtype)
        advantages = worth.unsqueeze(1) * episodes.response_mask
        return Experience(episodes, advantages, torch.zeros_like(advantages), ref_logprobs)

    def count(self, lengths: Tensor) -> int:
        """Answers."""
        return len(lengths)

    def losses(self, old: Experience, logprobs: Tensor, values: Tensor | None, *, kl_coef: float) -> Losses:
        """See `Objective`."""
        before, advantages = (part.flatten() for part in (old.episodes.logprobs, old.advantages))
        surrogate = ppo_policy_loss(logprobs.flatten(), before, advantages, cliprange=self.cliprange)
        # eq. 4: pi_ref / pi - log(pi_ref / pi) - 1, an estimate of KL(pi || pi_ref)
        apart = kl_k3(old.ref_logprobs, logprobs)
        tokens = surrogate.view_as(logprobs) + kl_coef * apart
        return Losses(answer_means(tokens, old.episodes.response_mask), None)


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """RLOO's objective; see `Objective`."""

    group_size: int
    cliprange: float
    has_values: bool = False

    def experience(self, episodes: Episodes, scores: Tensor, ref_logprobs: Tensor, *, kl_coef: float) -> Experience:
        """See `Objective`."""
        paid = kl_coef * (episodes.logprobs - ref_logprobs).sum(1)  # both are 0 where masked out
        worth = leave_one_out(scores.to(paid.dtype) - paid, group_size=self.group_size)
        advantages = worth.unsqueeze(1) * episodes.response_mask
        return Experience(episodes, advantages, torch.zeros_like(advantages), ref_logprobs)

    def count(self, lengths: Tensor) -> int:
        """Answers."""
        return len(lengths)

    def losses(self, old: Experience, logprobs: Tensor, values: Tensor | None, *, kl_coef: float) -> Losses:
        """See `Objective`; an answer's first token tells its advantage, which is that of all its tokens."""
        answers, before = logprobs.sum(1), old.episodes.logprobs.sum(1)
        return Losses(ppo_policy_loss(answers, before, old.advantages[:, 0], cliprange=self.cliprange), None)
