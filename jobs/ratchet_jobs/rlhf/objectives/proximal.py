"""PPO with a value model (Ziegler et al. 2019, arXiv:1909.08593; Schulman et al. 2017, arXiv:1707.06347, eq. 7 and 9).

Every token is an action. Its reward is what it pays for leaving the reference, and of the last one the answer's score,
too; its advantage is GAE's, over all tokens of mean 0 and deviation 1. Loss: clipped surrogate and clipped value loss,
a mean over tokens. Called by the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ratchet_jobs.rl.losses import clipped_value_loss, ppo_policy_loss
from ratchet_jobs.rl.returns import center_and_scale
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.objectives.base import Experience, Losses
from ratchet_jobs.rlhf.shaping import token_advantages, token_rewards


@dataclass(frozen=True, slots=True)
class Proximal:
    """PPO's objective; see `Objective`."""

    gamma: float
    lam: float
    cliprange: float
    cliprange_value: float
    group_size: int = 1
    has_values: bool = True

    def experience(self, episodes: Episodes, scores: Tensor, ref_logprobs: Tensor, *, kl_coef: float) -> Experience:
        """See `Objective`."""
        mask = episodes.response_mask
        rewards = token_rewards(scores, episodes.logprobs, ref_logprobs, mask, kl_coef=kl_coef)
        advantages = token_advantages(rewards, episodes.values, mask, gamma=self.gamma, lam=self.lam)
        returns = advantages + episodes.values
        scaled = torch.zeros_like(advantages).masked_scatter(mask, center_and_scale(advantages[mask]))
        return Experience(episodes, scaled, returns, ref_logprobs)

    def count(self, lengths: Tensor) -> int:
        """Tokens."""
        return int(lengths.sum())

    def losses(self, old: Experience, logprobs: Tensor, values: Tensor | None, *, kl_coef: float) -> Losses:
        """See `Objective`; the penalty stands in the rewards."""
        if values is None:
            raise ValueError("Proximal.losses: values are missing; ask the value head")
        episodes, mask = old.episodes, old.episodes.response_mask
        policy = ppo_policy_loss(
            logprobs[mask], episodes.logprobs[mask], old.advantages[mask], cliprange=self.cliprange
        )
        value = clipped_value_loss(
            values[mask], episodes.values[mask], old.returns[mask], cliprange_value=self.cliprange_value
        )
        return Losses(policy, value)
