"""The terms of every loss, one value per sample; the caller divides the sum by the number of samples.

Per sample and not already averaged, so that accumulation over chunks and over processes gives the gradient of the
whole batch, and so that tests compare element by element. All are to be *minimised*.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ratchet_jobs.rl.shapes import require_same_shape

VERDICT_EPS = 1e-6
"""Nearest that a probability comes to 0 and 1 in `verdict_loss`."""


def ppo_policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, cliprange: float) -> Tensor:
    """Clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7), negated.

    ratio = exp(logprobs - old_logprobs); -min(ratio * A, clip(ratio, 1 - cliprange, 1 + cliprange) * A).

    Args:
        logprobs: (B,) of the actions under the policy that is trained; carries the gradient.
        old_logprobs: (B,) of the same actions under the policy that acted.
        advantages: (B,).
        cliprange: > 0.

    Returns:
        (B,).

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("ppo_policy_loss", logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def policy_gradient_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A * log pi(a|s): its gradient is the policy gradient (Sutton and Barto 2018, eq. 13.11; Williams 1992).

    With advantages from Monte Carlo returns minus a baseline this is REINFORCE's loss, with bootstrapped ones A2C's.

    Args:
        logprobs: (B,), carries the gradient.
        advantages: (B,), taken as constants.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("policy_gradient_loss", logprobs=logprobs, advantages=advantages)
    return -advantages.detach() * logprobs


def verdict_loss(logprobs: Tensor, rewards: Tensor, *, noise: float) -> Tensor:
    """Cross-entropy between an answer's probability and the verdict on it: what the verdict says beyond its sign.

    q = noise + (1 - 2 * noise) * p is the probability of a good verdict on an action of probability p, if the verdict
    is wrong with probability `noise` (forward correction, Patrini et al. 2017, arXiv:1609.03683, section 4);
    -r log q - (1 - r) log(1 - q). A good verdict is a label, -log p, as in self-imitation (Oh et al. 2018,
    arXiv:1806.05635); a bad one says only that the action is not it. A proper score: it is least where q is the rate
    of good verdicts, so it calibrates while it teaches.

    Args:
        logprobs: (B,) of the actions taken; carries the gradient.
        rewards: (B,) in 0..1, of episodes of one step.
        noise: share of wrong verdicts, in [0, 0.5).

    Returns:
        (B,).

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("verdict_loss", logprobs=logprobs, rewards=rewards)
    good = noise + (1.0 - 2.0 * noise) * logprobs.exp()
    # bounded away from 0 and 1, where a single wrong verdict on a sure answer would be an infinite loss
    good = good.clamp(VERDICT_EPS, 1.0 - VERDICT_EPS)
    return -rewards * good.log() - (1.0 - rewards) * (-good).log1p()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Half the squared error, (B,): 0.5 * (V - R)^2.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("value_loss", values=values, returns=returns)
    return 0.5 * (values - returns).square()


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, cliprange_value: float) -> Tensor:
    """The larger of the squared errors of V and of V kept within cliprange_value of its old self, halved.

    As PPO's reference implementation has it (openai/baselines, ppo2/model.py), not the paper.

    Args:
        values: (B,), carries the gradient.
        old_values: (B,) when acting.
        returns: (B,) targets.
        cliprange_value: > 0, in units of the return.

    Returns:
        (B,).

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("clipped_value_loss", values=values, old_values=old_values, returns=returns)
    near = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


def td_targets(rewards: Tensor, next_q_values: Tensor, *, terminated: Tensor, gamma: float) -> Tensor:
    """Targets r + gamma * max_a Q'(s', a) * (1 - terminated) (Mnih et al. 2015, algorithm 1), no gradient.

    Args:
        rewards: (B,).
        next_q_values: (B, A) of the target network in the next state; never read where the episode terminated.
        terminated: (B,) bool.
        gamma: discount in [0, 1].

    Returns:
        (B,). For episodes of one step these are the rewards.

    Raises:
        ValueError: shapes differ.
    """
    following = next_q_values.max(-1).values
    require_same_shape("td_targets", rewards=rewards, next_values=following, terminated=terminated)
    return (rewards + gamma * torch.where(terminated, torch.zeros_like(following), following)).detach()


def td_loss(q_values: Tensor, actions: Tensor, targets: Tensor, *, huber_delta: float = 1.0) -> Tensor:
    """Huber loss of Q(s, a) against its target (Huber 1964; the error clipping of Mnih et al. 2015).

    0.5 e^2 for |e| <= delta, else delta * (|e| - delta / 2).

    Args:
        q_values: (B, A), carries the gradient, which reaches the chosen actions only.
        actions: (B,) int64.
        targets: (B,).
        huber_delta: > 0.

    Returns:
        (B,).

    Raises:
        ValueError: shapes differ.
    """
    chosen = q_values.gather(1, actions.unsqueeze(1)).squeeze(1)
    require_same_shape("td_loss", chosen=chosen, targets=targets)
    return functional.huber_loss(chosen, targets, reduction="none", delta=huber_delta)
