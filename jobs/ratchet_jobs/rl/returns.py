"""From rewards to returns and advantages.

Two ways for an episode to end, told apart throughout: *terminated*, where nothing follows and the future is worth 0,
and *truncated*, where the episode was cut (time limit) and the future is worth the value of the state it was cut at.
Recursions stop at both; the bootstrap vanishes only at the first (Pardo et al. 2018, arXiv:1712.00378, section 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ratchet_jobs.rl.shapes import require_same_shape


def discounted_returns(
    rewards: Tensor, next_values: Tensor, *, terminated: Tensor, truncated: Tensor, gamma: float
) -> Tensor:
    """Reward to go, G_t = r_t + gamma * G_{t+1} (Sutton and Barto 2018, eq. 3.9).

    Where the episode was truncated, and at the last step of the rollout, G_{t+1} is the value of what follows.

    Args:
        rewards: (T, E).
        next_values: (T, E) value of the state after step t, before any reset; read at cuts and at T - 1 only.
        terminated: (T, E) bool.
        truncated: (T, E) bool.
        gamma: discount in [0, 1].

    Returns:
        (T, E), no gradient.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape(
        "discounted_returns", rewards=rewards, next_values=next_values, terminated=terminated, truncated=truncated
    )
    returns = torch.empty_like(rewards)
    following = next_values[-1]  # (E,)
    for t in range(len(rewards) - 1, -1, -1):
        following = torch.where(truncated[t], next_values[t], following)
        following = torch.where(terminated[t], torch.zeros_like(following), following)
        following = rewards[t] + gamma * following
        returns[t] = following
    return returns.detach()


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    *,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantage estimate (Schulman et al. 2016, arXiv:1506.02438, eq. 11, 12 and 16).

    delta_t = r_t + gamma * V(s_{t+1}) * (1 - terminated_t) - V(s_t)
    A_t = delta_t + gamma * lam * (1 - ended_t) * A_{t+1}, ended = terminated or truncated.

    Args:
        rewards: (T, E).
        values: (T, E) V(s_t) of the policy that acted.
        next_values: (T, E) V(s_{t+1}) before any reset.
        terminated: (T, E) bool.
        truncated: (T, E) bool.
        gamma: discount in [0, 1].
        lam: 0 = one-step advantage, 1 = discounted return minus value.

    Returns:
        (T, E) advantages, no gradient; advantages + values are the value targets.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape(
        "gae", rewards=rewards, values=values, next_values=next_values, terminated=terminated, truncated=truncated
    )
    delta = rewards + gamma * next_values * (~terminated).to(rewards.dtype) - values  # (T, E)
    carry = gamma * lam * (~(terminated | truncated)).to(rewards.dtype)  # (T, E)
    advantages = torch.empty_like(rewards)
    following = torch.zeros_like(rewards[0])  # (E,)
    for t in range(len(rewards) - 1, -1, -1):
        following = delta[t] + carry[t] * following
        advantages[t] = following
    return advantages.detach()


def finished(ended: Tensor) -> Tensor:
    """Which steps belong to an episode whose end the rollout saw.

    Args:
        ended: (T, E) bool, terminated or truncated at this step.

    Returns:
        (T, E) bool: True up to and including the last end of each column.
    """
    return ended.flip(0).cummax(0).values.flip(0) if ended.numel() else ended


def center_and_scale(advantages: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Subtract the mean, divide by the *population* standard deviation (divisor B, not B - 1).

    The population form is defined for one sample and for equal ones: both give zeros.

    Args:
        advantages: (B,).
        eps: added to the deviation.

    Returns:
        (B,) of mean 0, and variance 1 unless all were equal.
    """
    centered = advantages - advantages.mean()
    return centered / (centered.square().mean().sqrt() + eps)
