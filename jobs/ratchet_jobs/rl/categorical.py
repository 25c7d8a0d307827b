"""The distribution over actions that logits describe: sampling, log-probabilities, entropy, divergence.

A logit of -inf is an action that does not exist in this state (classes of another task's head); every formula keeps
it at probability 0 without producing NaN, and its gradient is 0. At least one logit per row is finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ratchet_jobs.rl.shapes import require_same_shape

_IMPOSSIBLE = -1e4
"""A log-probability of which exp() is 0 in float32, as it is of everything below."""


def log_probs(logits: Tensor) -> Tensor:
    """Log-softmax in float32, whatever the logits' dtype: (B, A) -> (B, A), -inf stays -inf."""
    return torch.log_softmax(logits.float(), dim=-1)


def log_prob_of(logits: Tensor, actions: Tensor) -> Tensor:
    """Log-probability of the actions taken.

    Args:
        logits: (B, A).
        actions: (B,) int64.

    Returns:
        (B,).

    Raises:
        ValueError: one action per row of logits is not given.
    """
    if logits.ndim != 2 or actions.shape != logits.shape[:1]:
        raise ValueError(
            f"log_prob_of: logits {tuple(logits.shape)}, actions {tuple(actions.shape)}; give (B, A) and (B,)"
        )
    return log_probs(logits).gather(1, actions.unsqueeze(1)).squeeze(1)


def entropy(logits: Tensor) -> Tensor:
    """H = -sum_a p log p in nats, (B, A) -> (B,); 0 log 0 counts as 0."""
    # bounded before the product and not after it: -inf * 0 would be NaN, and so would be its gradient
    logp = log_probs(logits).clamp_min(_IMPOSSIBLE)
    return -(logp.exp() * logp).sum(-1)


def kl_divergence(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(policy || reference) = sum_a p (log p - log q) in nats, exact over all actions.

    Args:
        logits: (B, A) of the policy.
        ref_logits: (B, A) of the reference; finite wherever `logits` is.

    Returns:
        (B,), >= 0.

    Raises:
        ValueError: shapes differ.
    """
    require_same_shape("kl_divergence", logits=logits, ref_logits=ref_logits)
    logp, logq = log_probs(logits), log_probs(ref_logits)
    exists = torch.isfinite(logp)
    zero = torch.zeros_like(logp)
    gap = torch.where(exists, logp, zero) - torch.where(exists, logq, zero)
    return torch.where(exists, torch.where(exists, logp, zero).exp() * gap, zero).sum(-1)


def sample(logits: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw one action per row from softmax(logits): (B, A) -> (B,) int64."""
    return torch.multinomial(log_probs(logits).exp(), 1, generator=generator).squeeze(1)


def epsilon_greedy(q_values: Tensor, *, epsilon: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The best action, or with probability epsilon a uniform one (which may be the best one).

    Args:
        q_values: (B, A); -inf = the action does not exist and is never drawn.
        epsilon: in [0, 1].
        generator: of the draws.

    Returns:
        actions (B,) int64, and the log-probability (B,) with which each was chosen:
        epsilon / A' + (1 - epsilon) * [a is best], A' = actions that exist.
    """
    best = q_values.argmax(-1)  # (B,)
    exists = torch.isfinite(q_values)  # (B, A)
    uniform = torch.multinomial(exists.float(), 1, generator=generator).squeeze(1)
    explore = torch.rand(len(q_values), generator=generator, device=q_values.device) < epsilon
    actions = torch.where(explore, uniform, best)
    chosen = epsilon / exists.sum(-1).float() + (1.0 - epsilon) * (actions == best).float()
    return actions, chosen.log()


def epsilon_greedy_entropy(actions: int, *, epsilon: float) -> float:
    """Entropy in nats of the epsilon-greedy policy over that many actions."""
    other = epsilon / actions
    best = 1.0 - epsilon + other
    terms = [best, *([other] * (actions - 1))]
    return -sum(p * math.log(p) for p in terms if p > 0)
