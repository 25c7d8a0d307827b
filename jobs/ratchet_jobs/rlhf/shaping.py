"""From scores of whole answers to rewards and advantages of single tokens. Pure: tensors in, tensors out.

Words: a *score* is what the reward model gives an answer; a *reward* is what a token gets, the KL penalty included
(Ziegler et al. 2019, arXiv:1909.08593, section 2). B answers of at most T tokens; masks are True where a token counts.
Called by `ppo.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ratchet_jobs.rl.returns import gae
from ratchet_jobs.rl.shapes import require_same_shape
from ratchet_jobs.runtime.errors import BadConfigError

_STEP = 0.2
"""Largest relative error that the controller acts on, as in the paper's implementation."""


@dataclass(frozen=True, slots=True)
class KlController:
    """Weight of the KL penalty, which follows a target (Ziegler et al. 2019, section 2.2).

        e = clip(KL / target - 1, -0.2, 0.2);  coef <- coef * (1 + e * episodes / horizon)

    Raises:
        BadConfigError: a number is out of range.
    """

    coef: float
    """Present weight, from init_kl_coef on."""
    target: float | None
    """Mean KL of an answer, summed over its tokens, in nats; None = the weight stays."""
    horizon: float = 10_000.0
    """Episodes over which an error of 1 would change the weight by a factor of e."""

    def __post_init__(self) -> None:
        if not (self.coef >= 0 and math.isfinite(self.coef)):
            raise BadConfigError(f"init_kl_coef: {self.coef}; give a number from 0 up, usually 0.02 to 0.2")
        if self.target is not None and not (self.target > 0 and math.isfinite(self.target)):
            raise BadConfigError(
                f"target_kl: {self.target}; give a number above 0, usually 1 to 10 nats per answer, or none to keep "
                "init_kl_coef"
            )
        if not self.horizon > 0:
            raise BadConfigError(f"kl_horizon: {self.horizon}; give a number above 0")

    def after(self, kl: float, *, episodes: int) -> KlController:
        """The controller after a rollout of that many episodes whose mean KL was `kl`."""
        if self.target is None:
            return self
        error = min(_STEP, max(-_STEP, kl / self.target - 1.0))
        return replace(self, coef=self.coef * (1.0 + error * episodes / self.horizon))


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and population variance of all scores so far (Chan, Golub and LeVeque 1983, eq. 1.5)."""

    count: int = 0
    mean: float = 0.0
    square_sum: float = 0.0
    """Sum of squared distances from the mean."""

    def with_(self, scores: Tensor) -> Moments:
        """The moments with (B,) more scores."""
        new, added = scores.double(), len(scores)
        count, gap = self.count + added, float(new.mean()) - self.mean
        inside = float((new - new.mean()).square().sum())
        return Moments(
            count, self.mean + gap * added / count, self.square_sum + inside + gap**2 * self.count * added / count
        )

    def whiten(self, scores: Tensor) -> Tensor:
        """Scores less the mean, in units of the deviation; all 0 while every score was the same: (B,) -> (B,)."""
        deviation = math.sqrt(self.square_sum / self.count) if self.count else 0.0
        return (scores - self.mean) / deviation if deviation > 0 else torch.zeros_like(scores)


def penalise_unstopped(scores: Tensor, stopped: Tensor, *, penalty: float) -> Tensor:
    """Take `penalty` off the score of every answer that did not end by itself: (B,) and (B,) bool -> (B,)."""
    require_same_shape("penalise_unstopped", scores=scores, stopped=stopped)
    return torch.where(stopped, scores, scores - penalty)


def token_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor, *, kl_coef: float
) -> Tensor:
    """Reward of each token: -kl_coef * (log pi - log pi_ref), and the score at the answer's last token.

    Args:
        scores: (B,).
        logprobs: (B, T) of the policy that acted.
        ref_logprobs: (B, T) of the reference.
        response_mask: (B, T) bool; every row counts at least one token.
        kl_coef: >= 0.

    Returns:
        (B, T), 0 where masked out.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("token_rewards", logprobs=logprobs, ref_logprobs=ref_logprobs, response_mask=response_mask)
    rewards = torch.where(response_mask, -kl_coef * (logprobs - ref_logprobs), 0.0)
    last = response_mask.sum(1, keepdim=True) - 1  # (B, 1)
    return rewards.scatter_add(1, last, scores.to(rewards.dtype).unsqueeze(1))


def token_advantages(rewards: Tensor, values: Tensor, response_mask: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Generalised advantages along each answer: nothing follows its last token, and nothing flows from padding.

    Args:
        rewards: (B, T).
        values: (B, T) when acting.
        response_mask: (B, T) bool, True up to the answer's last token.
        gamma: discount in [0, 1].
        lam: of GAE, in [0, 1].

    Returns:
        (B, T), 0 where masked out; advantages + values are the value targets.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("token_advantages", rewards=rewards, values=values, response_mask=response_mask)
    followed = torch.cat([response_mask[:, 1:], torch.zeros_like(response_mask[:, :1])], 1)  # (B, T)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    zero = torch.zeros_like(rewards)
    advantages = gae(
        torch.where(response_mask, rewards, zero).T,
        torch.where(response_mask, values, zero).T,
        next_values.T,
        terminated=~followed.T,
        truncated=torch.zeros_like(followed.T),
        gamma=gamma,
        lam=lam,
    )
    return torch.where(response_mask, advantages.T, zero)
